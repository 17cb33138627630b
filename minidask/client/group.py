"""A group of tasks that belong to one call, of `Client.map` or `joblib.Parallel`.

They share functions and data, which are pickled and sent once, and a limit on how many run at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from minidask.client.future import Future
from minidask.client.shell import NONE, ClientShell, Settled
from minidask.pickling.payload import SHARED
from minidask.pickling.sharing import Interner
from minidask.wire.large import LARGE_BYTES
from minidask.wire.messages import Payload


class TaskGroup:
    """Submits the tasks of one call; functions that they share are pickled and sent once.

    Args:
        shell: of the client whose tasks they are.
        limit: how many may run at once, 0 for as many as there are slots.
        large: buffers of at least so many bytes, anywhere in the arguments, are sent once; None: with each task.
        mode: how tasks see those: `SHARED`, read-only, or `PRIVATE`, each its own copy.
        queued: whether the calls go through a call queue, where slots take leases. They have no priority, no time
            limit and no resources then.
        resources: what each of the tasks holds while it runs.
    """

    def __init__(
        self,
        shell: ClientShell,
        limit: int = 0,
        large: int | None = LARGE_BYTES,
        mode: bytes = SHARED,
        *,
        queued: bool = False,
        resources: dict[str, float] = NONE,
    ) -> None:
        self.interner = Interner(large=large, mode=mode, files=shell.is_here)
        self.limit = limit
        self.parent = shell.parent()
        self.number = shell.open_group(limit, self.parent, queued=queued)
        self._shell = shell
        self.resources = resources
        self._pickling = threading.RLock()

    def submit(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        name: str,
        priority: int = 0,
        keep: Callable[[Payload], None] | None = None,
    ) -> Future:
        """Have the cluster run a call of the group; return its future.

        Args:
            function: is called with `args`.
            args: its arguments.
            name: of the task, for people.
            priority: tasks of this client with a higher one start first.
            keep: called with the payload of the result when it comes.

        Raises:
            MinidaskError: the group was cancelled or closed.
            Exception: what `ClientShell.submit` raises.
        """
        with self._pickling:
            return self._shell.submit(
                (function, args, {}),
                name=name,
                priority=priority,
                group=self.number,
                parent=self.parent,
                interner=self.interner,
                keep=keep,
                resources=self.resources,
            )

    def submit_for(
        self,
        handle: Settled,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        name: str,
        timeout: float | None = None,
    ) -> None:
        """Have the cluster run a call of the group; `handle` gets its outcome. Raises what `submit` does.

        Args:
            timeout: seconds that the call may run; None: no limit.
        """
        with self._pickling:
            self._shell.submit_for(
                handle,
                (function, args, {}),
                name=name,
                timeout=timeout,
                group=self.number,
                parent=self.parent,
                interner=self.interner,
                resources=self.resources,
            )

    def cancel(self) -> None:
        """Stop all tasks of the group, even one whose `submit` was interrupted before it returned the future."""
        self._shell.end_group(self.number)
        self._shell.cancel(self._shell.pending(self.number), force=True)

    def close(self) -> None:
        """Take no more tasks. Tasks that were submitted go on."""
        with self._pickling:
            self._shell.close_group(self.number, self.interner)
