"""A group of tasks that belong to one call, `Client.map` or `joblib.Parallel`: shared functions and a common limit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from minidask.client.future import Future
from minidask.client.shell import ClientShell
from minidask.errors import MinidaskError
from minidask.pickling.payload import SHARED
from minidask.pickling.sharing import Interner
from minidask.wire.large import LARGE_BYTES
from minidask.wire.messages import CloseGroup, OpenGroup


class TaskGroup:
    """Submits the tasks of one call; functions that they share are pickled and sent once.

    Args:
        shell: of the client whose tasks they are.
        limit: how many may run at once, 0 for as many as there are slots.
        large: buffers of at least so many bytes, anywhere in the arguments, are sent once; None: with each task.
        mode: how tasks see those: `SHARED`, read-only, or `PRIVATE`, each its own copy.
    """

    def __init__(
        self, shell: ClientShell, limit: int = 0, large: int | None = LARGE_BYTES, mode: bytes = SHARED
    ) -> None:
        self.number = shell.next_group()
        self.interner = Interner(shell.blobs.put, shell.dropped.append, large=large, mode=mode, files=shell.is_here)
        self.limit = limit
        self.parent = shell.parent()
        self._shell = shell
        self._open = self._wanted = True
        self._lock = threading.RLock()  # nothing is sent for a group that was closed meanwhile
        shell.send([OpenGroup(self.number, limit, self.parent)])

    def submit(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        name: str,
        priority: int = 0,
        on_done: Callable[[Future], None] | None = None,
        counted: bool = False,
    ) -> Future:
        """As `Client.submit`, within the group; `on_done` is called with the future once it is done.

        If it is `counted` already, it is not counted again on bars over all that the client submits.

        Raises:
            MinidaskError: the group was cancelled or closed.
        """
        with self._lock:
            if not self._wanted:
                raise MinidaskError("the call that this task is of has ended")
            return self._shell.submit(
                (function, args, {}),
                name=name,
                priority=priority,
                group=self.number,
                parent=self.parent,
                interner=self.interner,
                on_done=on_done,
                counted=counted,
            )

    def cancel(self) -> None:
        """Stop all that were submitted, be it by a call that was interrupted before it could return the future."""
        with self._lock:
            self._wanted = False
        self._shell.cancel(self._shell.pending(self.number), force=True)

    def close(self) -> None:
        """No more tasks will come; those submitted go on."""
        with self._lock:
            self._wanted = False
            if not self._open:
                return
            self._open = False
            self._shell.send_if_open([CloseGroup(self.number)])
            self.interner.close()
            self._shell.release_dropped()
