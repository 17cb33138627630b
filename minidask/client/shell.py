"""A client's end of its connection: what it has sent and waits for, and what comes back.

    submit ─pickle, name, hold blobs─► Submit ─► scheduler
    a future, settled ◄─ message ◄─ whoever reads the connection

Any thread may submit, ask and cancel; what comes is handled by the one that reads.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from minidask.client.aside import Aside
from minidask.client.blobs import HeldBlobs
from minidask.client.connection import Connection
from minidask.client.core import Lost, Outcome, PendingTable, Returned, outcome_of
from minidask.client.future import Future
from minidask.client.helping import NestedFuture
from minidask.client.reading import Reader
from minidask.client.records import log_here
from minidask.client.results import Results
from minidask.client.screen import show_output
from minidask.client.session import Described, Inherited, Session
from minidask.client.workers import WorkerTable
from minidask.data.files import blob_id
from minidask.data.store import BlobStore
from minidask.errors import MinidaskError, ProtocolError, SchedulerLost, SerializationError
from minidask.host.packages import python_version
from minidask.pickling.payload import dumps_naming, taken
from minidask.pickling.sharing import Interner, Scattered
from minidask.task.channels import Channels
from minidask.task.context import SlotOfTask
from minidask.wire.large import LARGE_BYTES
from minidask.wire.messages import (
    RECORDS,
    Answer,
    Ask,
    CallerMessage,
    Cancel,
    CancelAll,
    Chunk,
    FetchChunk,
    Goodbye,
    IdleSlots,
    Message,
    NoBlob,
    Restart,
    ResultOffered,
    Submit,
    TaskDone,
    TaskLost,
    TaskOutput,
    TaskRaised,
    WorkerChanged,
    Workers,
)

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
OnAnswer = Callable[[dict[str, Any] | None], None]


class SubmitCounter(Protocol):
    """What counts the calls that are submitted: a bar's `CallCounter`."""

    bar: Any

    def watch(self, future: Future) -> None:
        """Count a future of one call, now and when it is done."""


class ClientShell:
    """See the module's docstring.

    Args:
        connection: that was just made.
        slot: whose tasks this is for; None outside of tasks.
        cancel_dropped: whether to cancel what has not begun, and whose future nobody holds any more.
    """

    def __init__(self, connection: Connection, slot: SlotOfTask | None = None, cancel_dropped: bool = False) -> None:
        self.connection = connection
        self.store = BlobStore.of(connection.peer_info)
        """That of the cluster, if it is on this machine."""
        self.marks_output = not self.is_here
        """Whether what tasks print is shown with the worker that it came from."""
        self.takes_records = True
        """Whether records that tasks log are to come here; to be set before the first task."""
        self.workers = WorkerTable(python_version())
        self.channels = Channels()
        self.bars: tuple[SubmitCounter, ...] = ()
        """Where what is submitted now is counted."""
        self.dropped: collections.deque[list[bytes]] = collections.deque()
        """Blobs to be held once less: handles and futures may end anywhere, inside any lock."""
        self.idle: bool | None = None
        """Whether there are slots with nothing to do; None while a call that wants to know has not been told yet."""
        self.on_idle: list[Callable[[], None]] = []
        """Called, by the thread that reads, when there are such slots."""
        self.why_closed = ""
        self.forked = False
        self._pid = os.getpid()
        self._slot = slot
        self._cancel_dropped = cancel_dropped
        self._pending: PendingTable[Future] = PendingTable(self._future_dropped)
        self._dropped_tasks: collections.deque[int] = collections.deque()
        self._used: dict[int, list[bytes]] = {}  # by task: what a future that nobody holds gives back
        self._lock = threading.RLock()  # garbage collection may lead from inside it to a cancel()
        self._answers: dict[int, OnAnswer] = {}
        self._groups = 0
        self._requests = 0
        own_store = self.store if slot is None else BlobStore(slot.store.folder)  # each with pins of its own
        self.blobs = HeldBlobs(lambda message: self.send([message]), self._tidy, own_store)
        self._aside = Aside()
        self._results = Results(self.send_if_open, self._pending.knows)
        self._session = self._describing()
        self._scatterer = Interner(self.blobs.put, self.dropped.append, functions=False, files=self.is_here)
        self.reader = Reader(connection, self._handle, self._ended, slot, self.cancel_dropped)

    def _describing(self) -> Described:
        """What tells workers of the code that submits: this process's, or in a task what was told of that one's."""
        inherited = self._slot.described if self._slot is not None else None
        if inherited is not None:
            return Inherited(self.blobs.put, self.blobs.release, inherited)
        return Session(
            self.blobs.put, self.blobs.release, lambda: not len(self._pending), self.is_here, lambda: self.takes_records
        )

    @property
    def is_here(self) -> bool:
        """Whether all of the cluster is on this machine."""
        return self.store is not None

    @property
    def closed(self) -> bool:
        """Whether this is of no more use."""
        return bool(self.why_closed) or self.forked

    # --- tasks ---

    def submit(
        self,
        call: Call,
        *,
        name: str,
        priority: int = 0,
        timeout: float | None = None,
        group: int = 0,
        parent: list[int] | None = None,
        pin: str | None = None,
        interner: Interner | None = None,
        on_done: Callable[[Future], None] | None = None,
        counted: bool = False,
    ) -> Future:
        """Have the cluster run a call.

        Args:
            parent: the task that it is from; None for that of this thread.
            pin: the address of the worker that is to run it.
            interner: names what the tasks of its group share.
            on_done: called with the future once it is done.
            counted: whether it is counted on bars already.
        """
        self.check()
        self.release_dropped()
        payload, blobs = dumps_naming(call, f"task {name!r}", interner or self._scatterer)
        if blobs:
            self._check_held(blobs, f"task {name!r}")
        used = self.blobs.use(blobs)
        parent = self.parent() if parent is None else parent
        with self._lock:
            session = self._session.blobs()
            number = self._pending.next_number()
            future = self._new_future(number, name, parent)
            future.group = group
            if used:  # given back before `on_done`, which may submit the next task
                self._used[number] = used
                future.when_over(lambda _: self._give_back(number))
            if on_done is not None:
                future.of_call = True
                future.add_done_callback(on_done)
            hold = on_done is not None or not self._cancel_dropped
            self._pending.add(number, future, hold)
            if not hold:
                future.hold = self._hold
        try:
            self.send([Submit(number, name, priority, timeout, group, pin, [*session, *blobs], parent, payload)])
        except MinidaskError:
            with self._lock:
                self._pending.take(number)
            self._give_back(number)
            raise
        if not counted:
            for calls in self.bars:
                calls.watch(future)
        return future

    def _new_future(self, number: int, name: str, parent: list[int]) -> Future:
        if self._slot is None:
            return Future(number, name, self.cancelled, self.reader.in_this_thread)
        return NestedFuture(number, name, self.cancelled, self.reader, parent)

    def _hold(self, future: Future) -> None:
        with self._lock:
            self._pending.hold(future.number, future)

    def _future_dropped(self, number: int) -> None:
        """Nobody holds this task's future any more; a garbage collection tells of it."""
        first = not self._dropped_tasks
        self._dropped_tasks.append(number)
        if first:
            self.reader.wake()

    def _give_back(self, number: int) -> None:
        """A task is over, or nobody will know: it no more needs what it used."""
        used = self._used.pop(number, None)
        if used:
            self.dropped.append(used)

    def cancel_dropped(self) -> None:
        """Have those tasks not begin whose futures nobody holds any more."""
        numbers = []
        while self._dropped_tasks:
            number = self._dropped_tasks.popleft()
            self._give_back(number)
            with self._lock:
                if self._pending.drop(number):
                    numbers.append(number)
        if numbers:
            self.send_if_open([Cancel(numbers, False)])

    def _check_held(self, blobs: Sequence[bytes], what: str) -> None:
        if self.blobs.missing(blobs):
            raise SerializationError(
                f"{what} takes scattered data that this Client does not hold: the handle is another Client's, or was"
                " released; scatter the data with this one"
            )

    def parent(self) -> list[int]:
        """Number and attempt of the task that this thread works for; empty outside of tasks."""
        return self._slot.call if self._slot is not None else []

    def next_group(self) -> int:
        """A fresh number for a group."""
        with self._lock:
            self._groups += 1
            return self._groups

    def pending(self, group: int) -> list[Future]:
        """The futures of a group that still wait."""
        with self._lock:
            return [future for future in self._pending.all() if future.group == group]

    def cancel(self, futures: Sequence[Future], force: bool) -> None:
        """Give up on these; with `force`, those that run are stopped too."""
        numbers = [future.number for future in futures if not future.done() or (force and future.cancelled())]
        for future in futures:
            future.cancel_here()
        self._forget(numbers, force)

    def cancel_all(self, force: bool) -> None:
        """Give up on all tasks, those included whose futures nobody holds any more."""
        with self._lock:
            futures = self._pending.all()
        self.cancel([future for future in futures if not future.of_call], False)
        self.send_if_open([CancelAll(force)])  # its answers end the calls that wait for the others

    def cancelled(self, future: Future) -> None:
        """A future was cancelled."""
        self._forget([future.number], False)

    def _forget(self, numbers: list[int], force: bool) -> None:
        with self._lock:
            for number in numbers:
                self._pending.take(number)
        if numbers:
            self.send_if_open([Cancel(numbers, force)])

    # --- data ---

    def scatter(self, data: Any) -> Scattered:
        """Send one object ahead."""
        self.check()
        self.release_dropped()
        interner = Interner(self.blobs.put, self.dropped.append, functions=False, large=LARGE_BYTES)
        payload, parts = dumps_naming(data, f"the scattered {type(data).__name__}", interner)
        self._check_held(parts, f"the scattered {type(data).__name__}")
        blob = blob_id(payload)
        self.blobs.put({blob: payload})
        self.blobs.hold(parts)
        interner.close()
        return Scattered(blob, parts, type(data).__name__, self.blobs.release, self.dropped.append)

    def release_dropped(self) -> None:
        """Release what dropped handles and done tasks used."""
        if self._dropped_tasks:
            self.cancel_dropped()
        while self.dropped:
            self.blobs.release(self.dropped.popleft())

    # --- bars and questions ---

    def expect_idle_notice(self) -> None:
        """A group is about to be opened: what the scheduler has told of idle slots before is old."""
        if not self.on_idle:
            self.idle = None

    def count_on(self, calls: SubmitCounter) -> None:
        """Count there what is submitted from now on."""
        with self._lock:
            self.bars = (*self.bars, calls)

    def count_no_more_on(self, calls: SubmitCounter) -> None:
        with self._lock:
            self.bars = tuple(other for other in self.bars if other is not calls)

    def ask(self, on_answer: OnAnswer) -> None:
        """Have the reader call this with the scheduler's description; with None if the connection ends before."""
        self.send([Ask(self._request(on_answer))])

    def restart(self, on_answer: OnAnswer) -> None:
        """Give up on all tasks, and have fresh slots everywhere; called when they are ready, as `ask` does."""
        self.cancel_all(force=True)
        self.send([Restart(self._request(on_answer))])

    def _request(self, on_answer: OnAnswer) -> int:
        with self._lock:
            self._requests += 1
            self._answers[self._requests] = on_answer
            return self._requests

    # --- sending ---

    def send(self, messages: Sequence[Message]) -> None:
        """Write these, in one go.

        Raises:
            SchedulerLost: there is no connection any more.
            MinidaskError: it is the parent's process's.
        """
        self.check()
        self.connection.send(messages)

    def send_if_open(self, messages: Sequence[Message]) -> None:
        """Send what only tidies up: where the connection is gone, there is nothing to tidy."""
        if not self.closed:
            with contextlib.suppress(SchedulerLost):
                self.connection.send(messages)

    def _tidy(self, message: Message) -> None:
        self.send_if_open([message])

    def check(self) -> None:
        """Raise what `send` does, without sending."""
        if self.forked:
            raise MinidaskError(
                f"this Client belongs to process {self._pid}, of which this one is a fork: make a new Client here"
            )
        if self.why_closed:
            raise SchedulerLost(f"this Client is of no more use: {self.why_closed}; close() it, and make a new one")

    # --- the end ---

    def close(self, seconds: float = 10.0) -> None:
        """Disconnect, and wait so long for the reading to end. Pending futures fail."""
        self.why_closed = self.why_closed or "the client was closed"
        self.connection.shut()
        self.blobs.close()
        self.reader.join(seconds)

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's."""
        self.forked = True
        self.connection.abandon()
        self.blobs.abandon()
        self._lock = threading.RLock()
        self.channels.abandon()
        for future in self._pending.take_all():
            future.abandon(
                MinidaskError(f"task {future.name!r} belongs to process {self._pid}, which this one forked off")
            )

    # --- receiving, in whichever thread reads ---

    def _ended(self, why: str) -> None:
        address = self.connection.address
        self.why_closed = self.why_closed or f"the connection to the scheduler at {address} is gone: {why}"
        self.connection.close()
        with self._lock:
            lost = self._pending.take_all()
        self.workers.wake()
        for future in lost:
            future.settle(Lost(SchedulerLost(f"task {future.name!r} was pending when {self.why_closed}")))
        for on_answer in list(self._answers.values()):
            on_answer(None)
        self.channels.close()

    def _handle(self, message: Message) -> None:
        if self._dropped_tasks:
            self.cancel_dropped()
        match message:
            case TaskDone() | TaskRaised() | TaskLost():
                with self._lock:
                    future = self._pending.take(message.task)
                outcome = self._complete(outcome_of(message))
                self._results.forget_others()
                if future is not None:
                    if self.channels.busy:
                        future.told_before = self.channels.flush
                    future.settle(outcome)
                if self.dropped and not len(self._pending):
                    self.release_dropped()  # there may be no next task that would do it
            case TaskOutput(worker, stream, text):
                marked = worker if self.marks_output else ""
                self._aside.run(lambda: show_output(marked, stream, text))
            case Workers(workers):
                self.workers.told(workers)
            case WorkerChanged():
                self.workers.told_of(*message)
            case Answer(request, info):
                on_answer = self._answers.pop(request, None)
                if on_answer is not None:
                    on_answer(info)
            case ResultOffered():
                self._results.offered(message)
            case Chunk():
                self._results.received(message)
            case NoBlob():
                self._results.refused(message)
            case FetchChunk():
                self.send_if_open([self.blobs.chunk(message)])
            case CallerMessage(channel, payload):
                if channel != RECORDS:
                    self.channels.put(channel, payload)
                elif self.takes_records:
                    self._aside.run(lambda: log_here(payload))
            case IdleSlots(idle):
                self.idle = idle
                for call in list(self.on_idle) if idle else ():
                    call()
            case Goodbye(reason):
                self.why_closed = f"the scheduler at {self.connection.address} said goodbye: {reason}"
            case _:
                raise ProtocolError(f"{type(message).__name__} is no message for a client")

    def _complete(self, outcome: Outcome) -> Outcome:
        """The outcome with the large parts of it that were left in the store."""
        if not isinstance(outcome, Returned) or len(outcome.payload) == 1:
            return outcome
        take = self._results.take if self.store is None else self.store.take
        try:
            return outcome._replace(payload=taken(outcome.payload, take))
        except (SerializationError, OSError) as error:
            return Lost(SerializationError(f"a task's large result cannot be had: {error}"))
        except Exception as error:  # noqa: BLE001 - what a worker has sent concerns that task alone
            text = f"{outcome.worker} has sent a task's result in a form that cannot be read"
            return Lost(SerializationError(f"{text}: {type(error).__name__}: {error}"))
