"""The outbox: bytes on their way into a socket, through any number of interruptions.

Ctrl-C may come between any two steps of a thread that sends: its handler raises there, and the rest of the function
never runs. A frame that was written in half would then be followed by the next one. The receiver could read neither.
One way out is to put off the handler around each write. That cost 9 µs a message. The way here costs nothing: a sender
may be ended anywhere, because the next one finds all that it needs to go on.

    _pieces   ┌ frame 1, counts [4096, 4096] ┬ frame 2, counts [] ┬ frame 3, counts [] ┐
              └ 8192 of its bytes are gone   ┴ to come            ┴ to come            ┘
                └► flush: write the rest of it, then drop it, then the next

A piece waits in a deque beside the counts of the bytes that the socket took of it. A sender looks at the first piece
only. It writes what the counts leave, and drops the piece when nothing is left. So three things must never come apart:

1. A write and its count. `counts.append(write(rest))` would be two steps: Python may run a handler when `write` has
   returned, and the count would be lost. `counts.extend(map(write, (rest,)))` is one call into C: no handler runs
   between the write and the count.
2. The pieces of one message. All are put into the deque by one `extend` with a list that was made before. If a handler
   ends the sender before that, nothing of the message is there; after that, all of it.
3. The order of threads. `_sending` lets one thread write at a time. A `with` takes such a lock in one step, so no
   handler can leave it locked.

A garbage collection may run in the midst of `_drain`, and a finalizer in it may send something by the same thread. The
lock is reentrant, so that thread does not wait for itself. `_writing` tells it that the write below it goes on anyway:
what it has put into the deque is written by that one.

With TLS the pieces are ciphertext. Then a step comes before: the pieces of messages wait in `TLSStream`, and `_seal`
has some of them encrypted when the deque is empty. That step can be ended anywhere too (`TLSStream.seal_into`).

The thread that reads decrypts meanwhile, under a lock of the same TLS. If a finalizer leads from there to here, it must
not wait for `_sending`: its holder may wait for that lock. So it leaves the writing to `flush_what_was_left`.

Messages are put in order first (`put`) and written later (`flush`). So a client decides under a lock what to send, and
waits for the socket without that lock.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from minidask.wire.frames import Buffer

if TYPE_CHECKING:
    from minidask.net.tls import TLSStream


class Outbox:
    """Pieces on their way into a socket; any thread may put and flush.

    Args:
        write: a blocking socket's `send`: it returns how many bytes it took.
        tls: encrypts what is written; None: nothing does.
    """

    def __init__(self, write: Callable[[Buffer], int], tls: TLSStream | None = None) -> None:
        self._write = write
        self._tls = tls
        self._left = False
        self._pieces: collections.deque[tuple[Buffer, list[int]]] = collections.deque()
        self._sending = threading.RLock()
        self._writing = False

    def send(self, pieces: Iterable[Buffer]) -> None:
        """Write pieces, one right behind the other. What an interrupted sender left is written before them.

        Raises:
            OSError: the socket cannot be written to.
        """
        self.put(pieces)
        self.flush()

    def put(self, pieces: Iterable[Buffer]) -> None:
        """Queue pieces for the next `flush`, which writes them one right behind the other. It takes no lock."""
        if self._tls is not None:
            self._tls.put(pieces)
        else:
            self._pieces.extend([(piece, []) for piece in pieces])

    def flush(self) -> None:
        """Write all queued pieces. If another thread is writing them, wait until it has done so.

        Raises:
            OSError: the socket cannot be written to.
        """
        tls = self._tls
        if not self._pieces and not (tls is not None and tls.has_clear):
            return
        if tls is not None and tls.opens_here:
            self._left = True
            return
        with self._sending:
            if self._writing:
                return  # garbage collection has led from a write of this thread's to here: that one goes on with ours
            try:
                self._writing = True
                self._drain()
            finally:
                self._writing = False

    def flush_what_was_left(self) -> None:
        """Write what garbage collection has put while this thread was decrypting."""
        if self._left:
            self._left = False
            self.flush()

    def _drain(self) -> None:
        while self._pieces or self._seal():
            piece, counts = self._pieces[0]
            sent = sum(counts)
            if sent == len(piece):
                self._pieces.popleft()
            else:
                rest = memoryview(piece)[sent:] if sent else piece
                counts.extend(map(self._write, (rest,)))  # not append(write()): Ctrl-C could come in between

    def _seal(self) -> bool:
        """Encrypt some of what waits. Returns whether there are pieces to write."""
        tls = self._tls
        while tls is not None and tls.has_clear:
            tls.seal_into(self._pieces)
            if self._pieces:
                return True
        return False
