"""A standard `concurrent.futures.Executor` on a cluster, for libraries that take one, such as asyncio."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any

from minidask.client.future import Future
from minidask.client.shell import ClientShell
from minidask.host import checks
from minidask.pickling.functions import name_of


class ClientExecutor(concurrent.futures.Executor):
    """The executor that `Client.get_executor()` returns. Its shutdown leaves client and cluster as they are."""

    def __init__(self, shell: ClientShell) -> None:
        self._shell = shell
        self._lock = threading.Lock()
        self._pending: set[Future] = set()
        self._shut = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run `fn(*args, **kwargs)` on the cluster. There are no options: all arguments are the function's.

        Raises:
            RuntimeError: this executor was shut down.
            TypeError: `fn` cannot be called.
        """
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            checks.function("submit()", fn)
            future = self._shell.submit((fn, args, kwargs), name=name_of(fn))
            self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. `wait`: until submitted calls are done. `cancel_futures`: those that have not begun."""
        with self._lock:
            self._shut = True
            pending = list(self._pending)
        if cancel_futures:
            self._shell.cancel(pending, force=False)
        if wait:
            concurrent.futures.wait(pending)
