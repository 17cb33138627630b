"""Who reads the client's socket: a thread of its own, or for a while the very thread that waits for results.

A result that the waiting thread reads itself is there one thread switch, and one fight for the
interpreter lock, earlier. A thread that has borrowed the reading reads between the callbacks that it
runs, and not during them: they are a user's code, and may themselves wait for results. So the reading
thread looks in every few milliseconds, and steps in when one callback goes on for long.

Inside a task, the thread that has borrowed the reading also runs what the task's slot is given meanwhile: calls that
the task waits for, or that those wait for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections.abc import Callable, Iterator

from minidask.client.connection import Connection
from minidask.client.interrupts import INTERRUPT_SECONDS
from minidask.host.signals import Uninterrupted, start
from minidask.task.context import SlotOfTask
from minidask.wire.messages import Message

LOGGER = logging.getLogger(__name__)
LOOK_IN_SECONDS = 0.01


class Reading:
    """Reads a connection's messages until it ends.

    Args:
        connection: whose socket is to be read.
        on_message: called with each message, by whichever thread reads; never by two at once.
        on_end: called once, with the reason, when the connection has ended.
        slot: in which this is, if it is in one.
        on_nudge: called, by whichever thread reads, after a nudge.
    """

    def __init__(
        self,
        connection: Connection,
        on_message: Callable[[Message], None],
        on_end: Callable[[str], None],
        slot: SlotOfTask | None = None,
        on_nudge: Callable[[], None] = lambda: None,
    ) -> None:
        self.slot = slot
        self._connection = connection
        self._on_message = on_message
        self._on_end = on_end
        self._part = threading.Lock()  # whoever holds it reads
        self._loan = threading.Lock()  # whoever holds it has borrowed the reading
        self._borrower = 0  # the thread that does
        self._claims: set[int] = set()  # threads that ran a call, and want the loan back
        self._wanted = False  # whether the borrower waits for the part
        self._turns = 0  # how often the borrower has paused: whether its callbacks get on
        self._dispatching = 0
        self._ended = False
        self._on_nudge = on_nudge
        self._nudged, self._nudge = os.pipe()
        os.set_blocking(self._nudged, False)
        os.set_blocking(self._nudge, False)
        descriptors = [connection.fileno(), self._nudged]
        self._ready = _wait_for(descriptors)
        self._ready_all = _wait_for([*descriptors, *([slot.fileno()] if slot is not None else [])])
        self._thread = _ReadingThread(target=self._read_forever, name="minidask-reader", daemon=True)
        start(self._thread)

    def __del__(self) -> None:
        os.close(self._nudged)  # only now: a number that others might still write to must not be given out again
        os.close(self._nudge)

    def in_this_thread(self) -> bool:
        """Whether this thread is just now handing out messages: it must not wait for one."""
        return self._dispatching == threading.get_ident()

    def join(self, seconds: float) -> None:
        """Wait for the end of the reading thread, after the connection was shut."""
        if threading.current_thread() is not self._thread:
            self._thread.join(seconds)

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[Borrowed | None]:
        """Have this thread do the reading for the time of the block; None if another one does already.

        A callback, or a call within a task, may borrow it again from the same thread, which has paused.
        """
        if self.in_this_thread():
            raise RuntimeError("a done-callback may not wait for a task: this thread would have to complete it")
        this_thread = threading.get_ident()
        with Uninterrupted(self.nudge) as guard:
            again = self._borrower == this_thread
            if again or (not self._claims and self._loan.acquire(blocking=False)):
                try:
                    self._borrower = this_thread
                    borrowed = Borrowed(self, guard)
                    try:
                        borrowed.resume()
                        yield borrowed
                    finally:
                        borrowed.end()
                finally:
                    if not again and self._borrower == this_thread:
                        self.pass_on()
                return
        yield None

    @property
    def claimed(self) -> bool:
        """Whether who has borrowed it is to give it back soon."""
        return bool(self._claims)

    def nudge(self) -> None:
        """Have whoever waits for messages come out of it."""
        with contextlib.suppress(BlockingIOError):  # there are nudges enough
            os.write(self._nudge, b"!")

    # --- reading, for the holder of the part ---

    def _read_forever(self) -> None:
        try:
            self._read_until_end()
        except BaseException as error:  # noqa: BLE001 - else everything that waits would wait for ever
            self._end(_failure(error))

    def _read_until_end(self) -> None:
        with self._part:
            for message in self._connection.early:
                self._on_message(message)
        look_in = threading.Event()
        turns = -1
        while not self._ended:
            if self._loan.locked() and (self._wanted or self._part.locked() or turns != self._turns):
                turns = self._turns
                look_in.wait(LOOK_IN_SECONDS)
                continue
            with self._part:
                self.read(None)

    def read(self, seconds: float | None, *, for_slot: bool = False) -> None:
        """Wait for messages, a nudge, or so many seconds; hand out what has come.

        Args:
            for_slot: wait for the slot as well, and have it read what has come for it.
        """
        if self._ended:
            return
        ready = (self._ready_all if for_slot else self._ready)(seconds)
        if for_slot and self.slot is not None and self.slot.fileno() in ready:
            self.slot.receive()
        if self._nudged in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._nudged, 4096)
            self._on_nudge()
        if self._connection.fileno() in ready:
            self._hand_out()

    def _hand_out(self) -> None:
        self._dispatching = threading.get_ident()
        try:
            reason = self._connection.receive(self._on_message)
        except BaseException as error:  # noqa: BLE001 - as above
            reason = _failure(error)
        finally:
            self._dispatching = 0
        if reason:
            self._end(reason)

    def _end(self, reason: str) -> None:
        if self._ended:
            return
        self._ended = True
        self._dispatching = threading.get_ident()
        try:
            self._on_end(reason)
        finally:
            self._dispatching = 0

    # --- for `Borrowed` ---

    def take(self) -> None:
        """Take the part from the reading thread, if that has stepped in, and the loan, if that was passed on."""
        if self._borrower != threading.get_ident():
            self._claim()
        self._wanted = True  # before the nudge: whoever comes out of the wait must not begin another one
        if not self._part.acquire(blocking=False):
            self.nudge()
            self._part.acquire()
        self._wanted = False

    def give_up(self) -> None:
        self._turns += 1
        self._part.release()

    def pass_on(self) -> None:
        """Let another thread borrow it."""
        self._borrower = 0
        self._loan.release()

    def _claim(self) -> None:
        """Borrow it again; whoever has it meanwhile gives it back as soon as it looks."""
        this_thread = threading.get_ident()
        self._claims.add(this_thread)
        try:
            self.nudge()
            self._loan.acquire()
        finally:
            self._claims.discard(this_thread)
        self._borrower = this_thread


def _wait_for(descriptors: list[int]) -> Callable[[float | None], list[int]]:
    """What waits, at most so many seconds, for any of these to be readable, and returns those that are."""
    if not hasattr(select, "poll"):  # Eventlet has taken it away: its `select` lets other greenlets run meanwhile
        return lambda seconds: select.select(descriptors, [], [], seconds)[0]
    poll = select.poll()
    for number in descriptors:
        poll.register(number, select.POLLIN)
    return lambda seconds: [number for number, _ in poll.poll(None if seconds is None else seconds * 1000)]


def _failure(error: BaseException) -> str:
    """What to say where a message could not be dealt with: it ends this connection, and nothing else."""
    LOGGER.error("a message of the scheduler's could not be dealt with", exc_info=error)
    return f"a message could not be dealt with: {type(error).__name__}: {error}"


class _ReadingThread(threading.Thread):
    serves_all_tasks = True  # not only the one that was the first to need it


class Borrowed:
    """The reading, in the hands of a thread that waits for results and runs callbacks in between."""

    def __init__(self, reading: Reading, guard: Uninterrupted) -> None:
        self._reading = reading
        self._guard = guard
        self._holds = False
        self._lent: list[int] = []  # the call whose slot is

    def read(self, seconds: float | None, *, lend: bool = True) -> None:
        """Wait for messages, at most so many seconds, and hand them out. Ctrl-C ends the wait.

        Inside a task: or run a call that its slot was given, if it is to be lent.
        """
        slot = self._reading.slot
        if slot is not None and lend and not self._lent and slot.call:
            self._lent = slot.call
            slot.begin_wait(self._lent)
        seconds = INTERRUPT_SECONDS if seconds is None else min(seconds, INTERRUPT_SECONDS)
        self._reading.read(seconds, for_slot=bool(self._lent))
        self._guard.check()
        if slot is not None and lend and slot.has_call():
            self.run(slot.run_call)

    def run(self, code: Callable[[], None]) -> None:
        """Run this, a user's code, with the reading paused: others may read, and Ctrl-C may interrupt it.

        Inside a task, other threads may borrow the reading meanwhile: what this one does may depend on theirs.
        """
        self.pause()
        if self._reading.slot is not None:
            self._reading.pass_on()
        self._guard.run_interruptible(code)
        self.resume()

    def end(self) -> None:
        """Give the reading back, and the task its slot."""
        try:
            self.keep_slot()
        finally:
            self.pause()

    def keep_slot(self) -> None:
        """The task has work of its own for its slot: nobody else's may come any more."""
        lent, self._lent = self._lent, []
        if self._reading.slot is not None and lent:
            self._reading.slot.end_wait(lent)

    def pause(self) -> None:
        if self._holds:
            self._holds = False
            self._reading.give_up()

    def resume(self) -> None:
        self._reading.take()
        self._holds = True
