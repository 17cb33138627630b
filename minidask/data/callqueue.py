"""A call queue: calls wait in one pipe that all slots with a lease read, and no program stands in between.

    client                     arena (shared memory)                  slots with a lease
    ──────                     ─────────────────────                  ──────────────────
    put ── call ─────────────► │ line 0 │ line 1 │ … │ ─────────────► take: claim, read the call, run it
        └─ ticket, 8 bytes ──► pipe ════════════════ ───────────────► └─ whichever slot is free reads the next ticket
    outcomes ◄──────────────── results (a pipe per client) ◄───────── give: small results, each written whole

Why so? A call through the daemons wakes two processes on its way out and two on its way back, and each wake-up costs
more than a short call. A pipe needs none of that. The kernel gives each ticket to one reader, wakes one waiting reader
for a ticket, and holds no lock that a killed reader could keep. A slot that is busy reads its next ticket without
having slept.

*A ticket* names a line of the arena and a generation: how many calls the queue has had before. The line begins with
the ticket of the call in it. So a ticket that was cancelled, or whose line has another call by now, is found out by the
reader: the two differ, and the reader drops it.

*A claim* says which ticket a lease has in hand. The slot writes it between reading the ticket and looking at the line,
and clears it when the result was given. When a slot dies, its claim names the call that it died with. The mark `TAKING`
stands there from before the read until the claim is written. If a slot dies with that mark, it may have taken a ticket
along that nobody knows of. The client then has all leases end, reads what is left in the pipe, and puts every call that
has no result again. Nothing runs twice: a claimed call is put again only when its slot is gone.

*A call that is larger than its line* lies in a file beside the arena, which the client removes when the call is over.

*Results* of at most `PIPE_BUF` bytes go into the pipe of results, which the kernel writes whole. Larger ones go into
the second half of the call's line. What is larger still, and all that has an order to keep with output, goes by the
slot's socket.

The files lie in the store's folder, which is for this user alone. The client removes them, or the store's sweep does if
the client was killed.
"""

from __future__ import annotations

import contextlib
import enum
import mmap
import os
from pathlib import Path

from minidask.data.files import write
from minidask.host.folders import owner
from minidask.host.signals import pass_on
from minidask.wire.frames import Buffer
from minidask.wire.packing import pack, unpack
from minidask.wire.tickets import (
    CALL_BYTES,
    CLAIM,
    ELSEWHERE,
    HEADER,
    LEASES,
    LEAVE,
    LINES,
    PIPE_BUF,
    RESULT,
    RESULT_BYTES,
    TAKING,
    TICKET,
    QueuedCall,
    QueueFiles,
)

_READ_BYTES = 1 << 16
_LINE_BYTES = CALL_BYTES + RESULT_BYTES
_FIRST_LINE = LEASES * CLAIM.size
_ARENA_BYTES = _FIRST_LINE + LINES * _LINE_BYTES


def _at(ticket: int) -> int:
    return _FIRST_LINE + ticket % LINES * _LINE_BYTES


def _body(arena: mmap.mmap, files: QueueFiles, ticket: int, size: int) -> bytes:
    """A packed call, of the size that its line says."""
    if size & ELSEWHERE:
        return Path(files.beside(ticket)).read_bytes()
    at = _at(ticket) + HEADER.size
    return arena[at : at + size]


def _own(call: QueuedCall) -> QueuedCall:
    """The call with buffers that its task may write to, as to any argument."""
    pickle, *buffers = call.payload
    return call._replace(payload=[pickle, *map(bytearray, buffers)]) if buffers else call


class Written(enum.Enum):
    """Where `CallQueue.put` has written a call; `REFUSED`: nowhere, as there is no memory."""

    IN_LINE = enum.auto()
    BESIDE = enum.auto()
    REFUSED = enum.auto()


class CallQueue:
    """The client's end of a queue.

    Args:
        parent: the store's folder.
        results: path of the client's pipe of results.
        number: of the queue, another one each time.

    Raises:
        OSError: there is no room, or no descriptor to spare.
    """

    def __init__(self, parent: Path, results: str, number: int) -> None:
        self._reserved: dict[int, int] = {}  # by line: bytes for its call
        self._beside: set[int] = set()  # lines whose call is in a file
        own = f"{owner()}-{number}"
        self.files = QueueFiles(str(parent / f"arena.{own}"), str(parent / f"calls.{own}"), results)
        with contextlib.ExitStack() as made:
            made.callback(self._remove)
            self._file = _new_file(self.files.arena)
            made.callback(os.close, self._file)
            self._arena = mmap.mmap(self._file, _ARENA_BYTES)
            self._pipe = new_pipe(self.files.calls)
            made.pop_all()

    def _remove(self) -> None:
        for line in list(self._beside):
            self.free(line)
        for path in self.files[:2]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def free(self, ticket: int) -> None:
        """Remove the file of a call that is over, if it has one."""
        if ticket % LINES in self._beside:
            self._beside.discard(ticket % LINES)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.files.beside(ticket))

    def put(self, ticket: int, call: QueuedCall) -> Written:
        """Write a call into the line of its ticket, or into a file if it is too large; and the ticket into the pipe."""
        body = pack(call)
        size, at = len(body), _at(ticket)
        if size > CALL_BYTES - HEADER.size:
            written = Written.BESIDE
            if not self._write_beside(ticket, body):
                return Written.REFUSED
            size |= ELSEWHERE
            body = b""
        else:
            written = Written.IN_LINE
        if not self._reserve(ticket, HEADER.size + len(body)):
            self.free(ticket)
            return Written.REFUSED
        self._arena[at + HEADER.size : at + HEADER.size + len(body)] = body
        HEADER.pack_into(self._arena, at, ticket, size)
        try:
            os.write(self._pipe, TICKET.pack(ticket))
        except BlockingIOError:  # the kernel gives a user with many pipes small ones
            self.revoke(ticket)
            return Written.REFUSED
        return written

    def _write_beside(self, ticket: int, body: bytes) -> bool:
        self.free(ticket)  # of the line's last call, if a signal's handler has kept it
        self._beside.add(ticket % LINES)
        try:
            write(Path(self.files.beside(ticket)), [memoryview(body)])
        except OSError as error:
            pass_on(error)
            self.free(ticket)
            return False
        return True

    def _reserve(self, ticket: int, size: int) -> bool:
        """Have memory for a call in its line. False if there is none."""
        line = ticket % LINES
        if self._reserved.get(line, 0) < size:
            size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
            try:
                _reserve(self._file, _at(line), size)
            except OSError as error:
                pass_on(error)
                return False
            self._reserved[line] = size
        return True

    def call(self, ticket: int) -> QueuedCall:
        """The call of this ticket."""
        size = HEADER.unpack_from(self._arena, _at(ticket))[1]
        return QueuedCall(*unpack(_body(self._arena, self.files, ticket, size)))

    def put_again(self, ticket: int) -> None:
        """Write a ticket into the pipe whose call is in its line already."""
        os.write(self._pipe, TICKET.pack(ticket))

    def revoke(self, ticket: int) -> None:
        """Have no slot begin the call of this ticket."""
        HEADER.pack_into(self._arena, _at(ticket), LEAVE, 0)
        self.free(ticket)

    def ask_back(self, leases: int) -> None:
        """Have so many leases end as soon as their slots have no call in hand."""
        os.write(self._pipe, TICKET.pack(LEAVE) * leases)

    def drain(self) -> None:
        """Take out all tickets that no slot has read."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._pipe, 1 << 16):
                pass

    def claim(self, lease: int) -> int:
        """The ticket that a lease has in hand: 0 for none, `TAKING` if that is not known."""
        return int(CLAIM.unpack_from(self._arena, lease * CLAIM.size)[0])

    def clear_claim(self, lease: int) -> None:
        """Forget what a lease that has ended had in hand."""
        CLAIM.pack_into(self._arena, lease * CLAIM.size, 0)

    def result_in_line(self, ticket: int, size: int) -> bytes:
        """Read a result that is in the line."""
        at = _at(ticket) + CALL_BYTES
        return self._arena[at : at + size]

    def close(self) -> None:
        """Remove the queue. Slots that have it open still may write to it, and nobody reads that."""
        self.abandon()
        self._remove()

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's."""
        os.close(self._pipe)
        self._arena.close()
        os.close(self._file)


class QueueEnd:
    """A slot's end of a queue, for the time of one lease.

    Args:
        payload: of the lease.

    Raises:
        OSError: the queue is gone, or there is no descriptor to spare.
    """

    def __init__(self, payload: Buffer) -> None:
        arena, calls, results, lease = unpack(payload)
        self._files = QueueFiles(arena, calls, results)
        with contextlib.ExitStack() as opened:
            self._file = os.open(arena, os.O_RDWR | os.O_CLOEXEC)
            opened.callback(os.close, self._file)
            self._arena = mmap.mmap(self._file, 0)
            opened.callback(self._arena.close)
            self.pipe = os.open(calls, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            opened.callback(os.close, self.pipe)
            self._results = os.open(results, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            opened.callback(os.close, self._results)
            self._opened = opened.pop_all()
        self._claim_at = lease * CLAIM.size
        self._ticket = 0

    def take(self) -> QueuedCall | int:
        """Take the next call, and claim it. Returns a number if there is none: 0, or `LEAVE` to end the lease.

        Raises:
            EOFError: the client is gone.
        """
        CLAIM.pack_into(self._arena, self._claim_at, TAKING)
        while True:
            try:
                data = os.read(self.pipe, TICKET.size)
            except BlockingIOError:
                self.done()
                return 0
            if not data:
                self.done()
                raise EOFError("the client is gone")
            ticket = self._ticket = int(TICKET.unpack(data)[0])
            if ticket == LEAVE:
                self.done()
                return LEAVE
            CLAIM.pack_into(self._arena, self._claim_at, ticket)
            at = _at(ticket)
            found, size = HEADER.unpack_from(self._arena, at)
            if found == ticket:
                with contextlib.suppress(FileNotFoundError):  # it was revoked just now
                    body = _body(self._arena, self._files, ticket, size)
                    if HEADER.unpack_from(self._arena, at)[0] == ticket:
                        return _own(QueuedCall(*unpack(body)))
            CLAIM.pack_into(self._arena, self._claim_at, TAKING)

    def give(self, number: int, duration: float, pickle: Buffer) -> bool:
        """Write the result of the call in hand. False if it has to go another way: it is too large, or the pipe full.

        A client that does not read for long so holds up no slot.
        """
        size = len(pickle)
        try:
            if size <= PIPE_BUF - RESULT.size:
                os.write(self._results, RESULT.pack(number, self._ticket, duration, size) + pickle)
            elif size <= RESULT_BYTES:
                at = _at(self._ticket) + CALL_BYTES
                _reserve(self._file, at, size)
                self._arena[at : at + size] = bytes(pickle)
                os.write(self._results, RESULT.pack(number, self._ticket, duration, size | ELSEWHERE))
            else:
                return False
        except OSError:  # the pipe is full, the client is gone, or there is no memory
            return False
        return True

    def done(self) -> None:
        """Have nothing in hand any more."""
        CLAIM.pack_into(self._arena, self._claim_at, 0)

    def close(self) -> None:
        """Let go of the queue."""
        self._opened.close()


class ResultPipe:
    """The client's end of the pipe for the results of all its queues.

    Args:
        parent: the store's folder.
        number: of the pipe, another one each time.
    """

    def __init__(self, parent: Path, number: int) -> None:
        self.path = parent / f"results.{owner()}-{number}"
        self._pipe = new_pipe(str(self.path))
        self._rest = b""

    def fileno(self) -> int:
        """The descriptor that gets readable when there are results."""
        return self._pipe

    def read(self) -> list[tuple[int, int, float, int, bytes]]:
        """Read what has come: of each result the number, ticket, duration, size, and the pickle if it came along.

        The size has `ELSEWHERE` in it if the pickle is in the line.
        """
        data = self._rest
        with contextlib.suppress(BlockingIOError):
            while len(chunk := os.read(self._pipe, _READ_BYTES)) == _READ_BYTES:
                data += chunk
            data += chunk
        at, end, results = 0, len(data), []
        while end - at >= RESULT.size:
            number, ticket, duration, size = RESULT.unpack_from(data, at)
            stop = at + RESULT.size + (0 if size & ELSEWHERE else size)
            if stop > end:
                break
            results.append((number, ticket, duration, size, data[at + RESULT.size : stop]))
            at = stop
        self._rest = data[at:]
        return results

    def close(self) -> None:
        """Remove the pipe."""
        self.abandon()
        self.path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's."""
        os.close(self._pipe)


def new_pipe(path: str) -> int:
    """Make a named pipe; returns a descriptor that reads and writes it without waiting, so it never ends."""
    os.mkfifo(path, 0o600)
    try:
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except BaseException:
        os.unlink(path)
        raise


def _new_file(path: str) -> int:
    """A file for an arena, with memory for the claims; its lines take none before they are used."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(file, _ARENA_BYTES)
        _reserve(file, 0, _FIRST_LINE)
    except BaseException:
        os.close(file)
        raise
    return file


def _reserve(file: int, at: int, size: int) -> None:
    """Have memory for a new part of a file: without, a write to its mapping ends the process.

    Raises:
        OSError: there is none.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, at, size)
    else:  # macOS
        os.pwrite(file, bytes(size), at)
