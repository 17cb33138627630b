"""Leader/followers: which thread reads the client's socket, and how the reading goes from thread to thread.

At any time at most one thread reads the connection and handles its messages. The plain design has a thread for that
and nothing else. Then each result costs a switch of threads and a fight for the interpreter lock before the thread that
waits for it can go on. So a thread that waits for results may *lead*: it reads the socket itself, and finds its own
result there. All other threads that wait are followers: they sleep until their future is done, or nobody leads. For
no-ops at `batch_size=1` that makes 98 µs of the client's CPU a task of 121, and 0.8 thread switches of 2.9.

There are two locks, taken in this order:

    _leader    held by the thread that leads, for the whole time that it waits for results
    _reading   held by the thread that reads right now: the leader, or the reading thread

                    a callback takes long                   another one is short
    leader          reads ┬ pause  ~~~~~ callback ~~~~~ resume ┬ reads ┬ pause ~ resume ┬ reads ┬ end
    reading thread  ······┴··look··look┬ reads ────────── wake ┴·look··┴·········look···┴·······┴ reads ────►

    ─ has `_reading`    ~ runs a user's code    · sleeps, and looks in every 10 ms

1. The leader does not read while it runs callbacks. They are a user's code: they may take long, and may wait for
   results that somebody has to read. The leader pauses before them and resumes after them.
2. The reading thread looks in every `LOOK_IN_SECONDS` while somebody leads. Two looks that find the same count of
   `_turns` say that one callback goes on for long. Then the reading thread reads in the leader's place.
   Results of a call queue, of which there are many, it reads at most every `COALESCE_SECONDS`: the thread that they
   are for submits calls just then, and would lose the interpreter lock to each of them.
3. To resume, the leader sets `_wanted` first and only then wakes who is in the wait for messages. In the other order
   the reading thread could come out of its wait, see that nobody wants the reading, and begin another wait.
4. The thread that waits for messages waits for a pipe too. A byte in it ends the wait: `wake` writes one.
5. A thread that stops leading wakes the first of those that follow (`following`). Else their results would come by the
   reading thread, and late: see 2.
6. Signals' handlers wait while a thread leads (`Uninterrupted`): bytes that were read would be lost with what a handler
   raises. They run when a wait ends, and at once while the leader runs a user's code.

Inside a task there is a third thing to wait for: the slot's own socket. The thread that leads also runs what the slot
is given meanwhile, calls that the task waits for or that those wait for. And two rules are different:

7. The leader lets others lead while it runs a user's code, be it a callback or a call. That code may depend on results
   that other threads of the task wait for, and a follower could not run calls for the slot.
8. A thread that comes back from such code wants to lead again, on top of its own stack. It stands in `_returning` until
   it does. The thread that leads meanwhile looks at that (`wanted_back`) after each wait, and ends its turn.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterator

from minidask.client.connection import Connection
from minidask.client.interrupts import INTERRUPT_SECONDS
from minidask.host.signals import Uninterrupted, start
from minidask.task.context import SlotOfTask
from minidask.wire.messages import Message

LOGGER = logging.getLogger(__name__)
LOOK_IN_SECONDS = 0.01
COALESCE_SECONDS = 0.002


class Reader:
    """Reads a connection's messages until the connection ends, in the reading thread or in the one that leads.

    Args:
        connection: whose socket is to be read.
        on_message: called with each message, by the thread that reads; never by two at once.
        on_silent: called when nothing has been heard for `silence` seconds, once until something is.
        on_lost: called with the reason when the connection is lost. Whether `back` will be called, with another one in
            its place; or `end`.
        on_end: called once, with the reason, when there is no connection any more, nor will be.
        slot: the slot whose task this process runs; None outside of tasks.
        on_wake: called by the thread that reads, each time that `wake` has ended a wait.
        silence: seconds; None: silence is not noticed.
    """

    def __init__(
        self,
        connection: Connection,
        on_message: Callable[[Message], None],
        on_lost: Callable[[str], bool],
        on_end: Callable[[str], None],
        slot: SlotOfTask | None = None,
        on_wake: Callable[[], None] = lambda: None,
        on_silent: Callable[[], None] = lambda: None,
        silence: float | None = None,
    ) -> None:
        self.slot = slot
        self._connection = connection
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_end = on_end
        self._reading = threading.Lock()
        self._leader = threading.Lock()
        self._leading = 0  # the thread that leads
        self._returning: set[int] = set()  # threads that want to lead again
        self._followers: dict[Callable[[], object], None] = {}  # what wakes each, the first that came first
        self._wanted = False  # whether the leader waits for `_reading`
        self._turns = 0  # how often leaders have paused: whether their callbacks get on
        self._handling = 0  # the thread that handles messages right now
        self._ended = False
        self._on_wake = on_wake
        self._on_silent = on_silent
        self._silence = silence
        self._heard = time.monotonic()
        self._told_silent = False
        self._wake_read_fd, self._wake_write_fd = os.pipe()
        os.set_blocking(self._wake_read_fd, False)
        os.set_blocking(self._wake_write_fd, False)
        self._socket = [connection.fileno()]  # empty while there is none
        self._others = [self._wake_read_fd]
        self._also: tuple[int, Callable[[], None]] | None = None
        self._set_ready()
        self._thread = _ReadingThread(target=self._read_forever, name="minidask-reader", daemon=True)
        start(self._thread)

    def __del__(self) -> None:
        if hasattr(self, "_wake_write_fd"):  # there was a descriptor left for a pipe
            os.close(self._wake_read_fd)  # only now: nobody else is to get a number that somebody still writes to
            os.close(self._wake_write_fd)

    def _set_ready(self) -> None:
        descriptors = [*self._socket, *self._others]
        self._ready = _wait_for(descriptors)
        self._ready_all = _wait_for([*descriptors, *([self.slot.fileno()] if self.slot is not None else [])])

    def read_also(self, descriptor: int, handle: Callable[[], None]) -> None:
        """From now on, the thread that reads also calls `handle` when this descriptor is readable."""
        self._also = descriptor, handle
        self._others = [*self._others, descriptor]
        self._set_ready()
        self.wake()

    def back(self) -> None:
        """Read the connection again: another one has taken the place of the one that was lost."""
        self._socket = [self._connection.fileno()]
        self._heard, self._told_silent = time.monotonic(), False
        self._set_ready()
        self.wake()

    def silent_since(self, moment: float) -> bool:
        """Whether nothing has come over the connection since then, on the monotonic clock."""
        return self._heard < moment

    def end(self, reason: str) -> None:
        """There will be no connection any more."""
        self._end(reason)
        self.wake()

    def in_this_thread(self) -> bool:
        """Whether this thread is handling a message right now, so that it must not wait for another one."""
        return self._handling == threading.get_ident()

    def join(self, seconds: float) -> None:
        """Wait, at most `seconds`, for the end of the reading thread. The connection must have been shut."""
        if threading.current_thread() is not self._thread:
            self._thread.join(seconds)

    @contextlib.contextmanager
    def lead(self) -> Iterator[Leadership | None]:
        """Have this thread lead for the time of the block; None is yielded if another thread leads.

        A callback, or a call within a task, may lead again in the thread that leads and has paused.

        Raises:
            RuntimeError: this thread is handling a message.
        """
        if self.in_this_thread():
            raise RuntimeError("a done-callback may not wait for a task: this thread would have to complete it")
        this_thread = threading.get_ident()
        with Uninterrupted(self.wake) as guard:
            again = self._leading == this_thread
            if again or (not self._returning and self._leader.acquire(blocking=False)):
                try:
                    self._leading = this_thread
                    leadership = Leadership(self, guard)
                    try:
                        leadership.resume()
                        yield leadership
                    finally:
                        leadership.end()
                finally:
                    if not again and self._leading == this_thread:
                        self.let_others_lead()
                return
        yield None

    @property
    def wanted_back(self) -> bool:
        """Whether a thread that has led before wants to lead again: the leader is to end its turn soon."""
        return bool(self._returning)

    def wake(self) -> None:
        """End the wait of the thread that waits for messages."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full of such bytes
            os.write(self._wake_write_fd, b"!")

    # --- reading, for the holder of `_reading` ---

    def _read_forever(self) -> None:
        try:
            self._read_until_end()
        except BaseException as error:  # noqa: BLE001 - else everything that waits would wait for ever
            self._end(_failure(error))

    def _read_until_end(self) -> None:
        look_in = threading.Event()
        turns = -1
        while not self._ended:
            if self._leader.locked() and (self._wanted or self._reading.locked() or turns != self._turns):
                turns = self._turns
                look_in.wait(LOOK_IN_SECONDS)
                continue
            with self._reading:
                coalesce = self.read(None)
            if coalesce:
                look_in.wait(COALESCE_SECONDS)

    def read(self, seconds: float | None, *, for_slot: bool = False) -> bool:
        """Wait for messages and handle those that have come.

        Args:
            seconds: to wait at most; None: until there are some, or `wake` was called.
            for_slot: wait for the slot as well, and have it read what has come for it.

        Returns:
            Whether results of a call queue were all that has come.
        """
        if self._ended:
            return False
        if self._connection.early:
            seconds = 0
        elif seconds is None:
            seconds = self._silence
        ready = (self._ready_all if for_slot else self._ready)(seconds)
        if for_slot and self.slot is not None and self.slot.fileno() in ready:
            self.slot.receive()
        if self._wake_read_fd in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read_fd, 4096)
            self._on_wake()
        if self._connection.early:
            self._handle_messages(self._receive_early)
        if self._connection.fileno() in ready:
            self._heard, self._told_silent = time.monotonic(), False
            self._handle_messages(self._receive)
        elif self._silence is not None and self._socket and not self._told_silent:
            self._told_silent = self.silent_since(time.monotonic() - self._silence)
            if self._told_silent:
                self._on_silent()
        also = self._also is not None and self._also[0] in ready
        if also and self._also is not None:
            self._handle_messages(self._also[1])
        return also and len(ready) == 1

    def _receive(self) -> str | None:
        loss = self._connection.receive(self._on_message)
        if loss is None:
            return None
        self._socket = []
        self._set_ready()
        return None if not loss.final and self._on_lost(loss.why) else loss.why

    def _receive_early(self) -> None:
        early, self._connection.early = self._connection.early, []
        for message in early:
            self._on_message(message)

    def _handle_messages(self, receive: Callable[[], str | None]) -> None:
        self._handling = threading.get_ident()
        try:
            reason = receive()
        except BaseException as error:  # noqa: BLE001 - it ends the connection, and every future says why
            reason = _failure(error)
        finally:
            self._handling = 0
        if reason:
            self._end(reason)

    def _end(self, reason: str) -> None:
        if self._ended:
            return
        self._ended = True
        self._handling = threading.get_ident()
        try:
            self._on_end(reason)
        finally:
            self._handling = 0

    # --- for `Leadership` ---

    def begin_reading(self) -> None:
        """Take `_reading` from the reading thread, if that has stepped in; before that `_leader`, if others lead."""
        if self._leading != threading.get_ident():
            self._lead_again()
        self._wanted = True
        if not self._reading.acquire(blocking=False):
            self.wake()
            self._reading.acquire()
        self._wanted = False

    def end_reading(self) -> None:
        """Release `_reading`. The reading thread takes it if the leader does not come back soon."""
        self._turns += 1
        self._reading.release()

    def let_others_lead(self) -> None:
        """Release `_leader`, so that another thread may lead."""
        self._leading = 0
        self._leader.release()
        for wake in list(self._followers)[:1]:
            wake()

    @contextlib.contextmanager
    def following(self, wake: Callable[[], object]) -> Iterator[None]:
        """In the block, have `wake` called when no thread leads any more. Of several followers, the first one's is."""
        self._followers[wake] = None
        try:
            if not self._returning and not self._leader.locked():  # it has stopped since this thread looked
                wake()
            yield
        finally:
            self._followers.pop(wake, None)

    def _lead_again(self) -> None:
        this_thread = threading.get_ident()
        self._returning.add(this_thread)
        try:
            self.wake()
            self._leader.acquire()
        finally:
            self._returning.discard(this_thread)
        self._leading = this_thread


def _wait_for(descriptors: list[int]) -> Callable[[float | None], list[int]]:
    """Return a function that waits, at most so many seconds, for any of these and returns those that are readable."""
    if not hasattr(select, "poll"):  # Eventlet has taken it away: its `select` lets other greenlets run meanwhile
        return lambda seconds: select.select(descriptors, [], [], seconds)[0]
    poll = select.poll()
    for number in descriptors:
        poll.register(number, select.POLLIN)
    return lambda seconds: [number for number, _ in poll.poll(None if seconds is None else seconds * 1000)]


def _failure(error: BaseException) -> str:
    """Log that a message could not be dealt with, and return the reason for the end of this connection."""
    LOGGER.error("a message of the scheduler's could not be dealt with", exc_info=error)
    return f"a message could not be dealt with: {type(error).__name__}: {error}"


class _ReadingThread(threading.Thread):
    serves_all_tasks = True  # not only the one that was the first to need it


class Leadership:
    """The thread that leads reads, runs users' code and lends its slot through this; `Reader.lead` makes it.

    Args:
        reader: of the connection.
        guard: puts off the handlers of signals while the thread reads.
    """

    def __init__(self, reader: Reader, guard: Uninterrupted) -> None:
        self._reader = reader
        self._guard = guard
        self._reads = False
        self._lent: list[int] = []  # the call whose slot is lent

    def read(self, seconds: float | None, *, lend: bool = True) -> None:
        """Wait for messages, at most `INTERRUPT_SECONDS`, and handle them. Ctrl-C ends the wait.

        Inside a task the thread may run a call in the place of that.

        Args:
            seconds: to wait at most; None: no other limit.
            lend: whether the slot may be given calls to run meanwhile.
        """
        slot = self._reader.slot
        if slot is not None and lend and not self._lent and slot.call:
            self._lent = slot.call
            slot.begin_wait(self._lent)
        seconds = INTERRUPT_SECONDS if seconds is None else min(seconds, INTERRUPT_SECONDS)
        self._reader.read(seconds, for_slot=bool(self._lent))
        self._guard.check()
        if slot is not None and lend and slot.has_call():
            self.run(slot.run_call)

    def run(self, code: Callable[[], None]) -> None:
        """Run a user's code, with the reading paused: Ctrl-C may interrupt it, and the reading thread may step in.

        Inside a task, other threads may lead meanwhile: this code may depend on theirs.
        """
        self.pause()
        if self._reader.slot is not None:
            self._reader.let_others_lead()
        self._guard.run_interruptible(code)
        self.resume()

    def end(self) -> None:
        """Stop reading, and end the loan of the task's slot."""
        try:
            self.keep_slot()
        finally:
            self.pause()

    def keep_slot(self) -> None:
        """End the loan of the slot: the task has work of its own for it."""
        lent, self._lent = self._lent, []
        if self._reader.slot is not None and lent:
            self._reader.slot.end_wait(lent)

    def pause(self) -> None:
        """Stop reading for now. Nothing happens if this thread does not read."""
        if self._reads:
            self._reads = False
            self._reader.end_reading()

    def resume(self) -> None:
        """Lead and read again. It waits until the thread that reads now has stopped."""
        self._reader.begin_reading()
        self._reads = True
