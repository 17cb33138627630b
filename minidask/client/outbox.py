"""What is to be sent, in order, through any number of interruptions.

Ctrl-C may come between any two steps of a sender's. So each piece waits beside the counts of what the socket took
of it, which grow in the very step that sends: whoever sends next goes on where an interrupted one
stopped, and no frame is torn or sent twice.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterable

from minidask.wire.frames import Buffer


class Outbox:
    """Pieces on their way into a socket; any thread may send.

    Args:
        write: a blocking socket's `send`.
    """

    def __init__(self, write: Callable[[Buffer], int]) -> None:
        self._write = write
        self._pieces: collections.deque[tuple[Buffer, list[int]]] = collections.deque()
        self._sending = threading.RLock()
        self._writing = False

    def send(self, pieces: Iterable[Buffer]) -> None:
        """Write these, one right behind the other, and before them what an interrupted sender left.

        Raises:
            OSError: the socket cannot be written to.
        """
        self._pieces.extend([(piece, []) for piece in pieces])
        with self._sending:
            if self._writing:
                return  # garbage collection has led from a write of this thread's to here: that one goes on with ours
            try:
                self._writing = True
                self._drain()
            finally:
                self._writing = False

    def _drain(self) -> None:
        while self._pieces:
            piece, counts = self._pieces[0]
            sent = sum(counts)
            if sent == len(piece):
                self._pieces.popleft()
            else:
                rest = memoryview(piece)[sent:] if sent else piece
                counts.extend(map(self._write, (rest,)))  # not append(write()): Ctrl-C could come in between
