"""A client's shell: its socket, threads and locks. All decisions are `ClientCore`'s.

    submit ─pickle, announce blobs─► ClientCore ─► Submit ─► outbox ─► scheduler
    a future, settled ◄─ ClientCore ◄─ message ◄─ the thread that reads the connection

Any thread may submit, ask and cancel. Messages are handled in the thread that reads: see `reading.py`.

The locks of the client. A thread that holds one takes others only from further down:

    connecting.making_for_slot one thread makes a slot's connection, and the client of its tasks
    ClientExecutor._lock       no call is submitted to an executor that was shut down
    TaskGroup._pickling        one call of a group is pickled at a time: pickling names what calls share
    Reader._leader             the thread that leads
    Reader._reading            the thread that reads
    Subscription._changing     readers of events come and go
    ClientShell._lock          the core, and that its messages are posted in the order in which it returned them
    HeldBlobs._writing         one thread writes large blobs into the store
    Outbox._sending            one thread writes to the socket
    Future._condition          one thread settles a future or cancels it

What waits for something to change sleeps without a lock: see `interrupts.py`. Those from `TaskGroup._pickling` on that
are no `threading.Lock` are reentrant. Garbage collection may run anywhere, and so may a user's `__del__` in it, which
cancels or submits. For the same reason whatever a garbage collection tells the client itself goes into two deques,
`HeldBlobs.dropped` and `_dropped_tasks`: these need no lock.
"""

from __future__ import annotations

import collections
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from weakref import ref

from minidask.client.aside import Aside
from minidask.client.blobs import HeldBlobs
from minidask.client.connection import Connection
from minidask.client.core import ClientCore, Effect, OnAnswer, Settle, Tell
from minidask.client.eventreader import Subscription
from minidask.client.future import Future
from minidask.client.helping import NestedFuture
from minidask.client.outcomes import Outcome, Returned
from minidask.client.queued import QueueEffect
from minidask.client.queues import Queues
from minidask.client.reading import Reader
from minidask.client.results import Results, complete
from minidask.client.returning import Return, Returning
from minidask.client.screen import Screen
from minidask.client.session import Described, Inherited, Session
from minidask.client.workers import WorkerTable
from minidask.data.store import BlobStore
from minidask.errors import MinidaskError, SchedulerLost
from minidask.host.packages import python_version
from minidask.host.signals import Uninterrupted
from minidask.pickling.scattered import Scattered
from minidask.pickling.sharing import Interner, dumps_naming
from minidask.task.channels import MOST_WAITING, hand_to_handler, tell_left_out
from minidask.task.context import SlotOfTask
from minidask.wire import messages as m
from minidask.wire.large import LARGE_BYTES, blob_id
from minidask.wire.observing import Events, Explain, ReadLog

NONE: dict[str, float] = {}
Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class SubmitCounter(Protocol):
    """Counts the calls that are submitted: a bar's `WatchedFutures`."""

    bar: Any

    def watch(self, future: Future) -> None:
        """Count a future of one call, now and when it is done."""


class Settled(Protocol):
    """What gets a task's outcome: a `Future`, or what the submitter gives in its place."""

    number: int
    name: str

    def done(self) -> bool: ...
    def cancelled(self) -> bool: ...
    def cancel_here(self) -> bool: ...
    def settle(self, outcome: Outcome, wait_for_messages: Callable[[float], object] | None = None) -> None: ...
    def abandon(self, error: MinidaskError) -> None: ...


class _WeakFuture(ref[Future]):
    """A weak reference with the task's number; made in a third of the time of the standard `KeyedRef`."""

    __slots__ = ("number",)
    number: int


Handle = Settled | _WeakFuture


class ClientShell:
    """One client's end of its connection; the module's docstring says how it works.

    Args:
        connection: a new one.
        slot: the slot whose tasks this client is for; None outside of tasks.
        cancel_dropped: whether a task that has not begun is cancelled when nobody holds its future any more.
        return_by: how a lost connection is made again; None: it is not.
    """

    def __init__(
        self,
        connection: Connection,
        slot: SlotOfTask | None = None,
        cancel_dropped: bool = False,
        return_by: Return | None = None,
    ) -> None:
        self.connection = connection
        self.core: ClientCore[Handle] = ClientCore(str(connection.address), keeps=return_by is not None)
        self.store = BlobStore.of(connection.peer_info)
        """The store of the cluster, if the cluster is on this machine."""
        self.screen = Screen(marks_output=not self.is_here)
        self.workers = WorkerTable(python_version())
        self.channels = Aside("minidask-channels", hand_to_handler, MOST_WAITING, tell_left_out)
        self.bars: tuple[SubmitCounter, ...] = ()
        """What counts the calls that are submitted now."""
        self.on_idle: list[Callable[[], None]] = []
        """Called by the thread that reads when a slot is idle."""
        self.events = Subscription(self.send_if_open, lambda: self.core.why_closed)
        self._dropped_tasks: collections.deque[int] = collections.deque()
        self._pid = os.getpid()
        self._slot = slot
        self._cancel_dropped = cancel_dropped
        self._lock = threading.RLock()
        own_store = self.store if slot is None else BlobStore(slot.store.folder)  # each with pins of its own
        self.blobs = HeldBlobs(self.core, self._lock, connection, own_store)
        self._results = Results(self.send_if_open, self._is_waited_for)
        if slot is not None and slot.described is not None:
            self._session: Described = Inherited(slot.described)
        else:
            self._session = Session(lambda: not len(self.core), self.is_here, lambda: self.screen.takes_records)
        self._devices: dict[type, Callable[[Any], None]] = {
            m.TaskOutput: self.screen.print,
            m.CallerMessage: self._to_screen_or_handler,
            m.Workers: lambda message: self._workers_changed(lambda: self.workers.set_all(message.workers)),
            m.WorkerChanged: lambda message: self._workers_changed(lambda: self.workers.update_one(*message)),
            m.ResultOffered: self._results.offered,
            m.Chunk: self._results.received,
            m.NoBlob: self._results.refused,
            m.FetchChunk: lambda message: self.send_if_open([self.blobs.chunk(message)]),
            m.Heartbeat: lambda message: None,
            Events: self.events.received,
        }
        silence = connection.heartbeat_timeout if return_by is not None else None
        self._returning = Returning(self, return_by)
        lost, silent = self._returning.lost, self._returning.silent
        self.reader = Reader(connection, self._handle, lost, self._ended, slot, self.cancel_dropped, silent, silence)
        leases = slot is None and bool((connection.peer_info or {}).get("leases"))
        self.queues = Queues(self.core, self.store.folder if self.store is not None and leases else None)

    @property
    def is_here(self) -> bool:
        """Whether all of the cluster is on this machine."""
        return self.store is not None

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
        keep: Callable[[m.Payload], None] | None = None,
        resources: dict[str, float] = NONE,
    ) -> Future:
        """Have the cluster run a call; return its future.

        Args:
            call: the function, its arguments, and its keyword arguments.
            priority: tasks of this client with a higher one start first.
            timeout: seconds that the call may run; None: no limit.
            group: the number of the task's group; 0: none.
            parent: number and attempt of the task that submits; None: the one that this thread works for.
            pin: the address of the one worker that may run the task; None: any.
            interner: names what the tasks of its group share; None: it shares large data with all that have the same.
            keep: called with the payload of the result when it comes, by the thread that reads.
            resources: what it holds while it runs, by name.

        Raises:
            SerializationError: the call cannot be pickled, or takes scattered data of another client.
            MinidaskError: the group takes no more tasks, or this is a forked process.
            SchedulerLost: there is no connection any more.
        """
        parent = self.parent() if parent is None else parent
        alone = interner is None
        if interner is None:
            interner = Interner(functions=False, large=LARGE_BYTES, files=self.is_here)
        try:
            payload, blobs = self._pickle(call, name, interner)
            number = self.core.next_task()
            future, handle = self._new_future(number, name, parent)
            future.keep = keep
            submit = m.Submit(number, name, priority, timeout, group, pin, blobs, parent, False, resources, payload)
            self._submit(submit, handle)
        finally:
            if alone:
                self.blobs.release(interner.close())  # the task holds what it needs itself
        for calls in self.bars:
            calls.watch(future)
        return future

    def submit_for(
        self,
        handle: Settled,
        call: Call,
        *,
        name: str,
        timeout: float | None = None,
        group: int,
        parent: list[int],
        interner: Interner,
        resources: dict[str, float] = NONE,
    ) -> None:
        """Have the cluster run a call; `handle` gets its number and its outcome. Raises what `submit` does."""
        payload, blobs = self._pickle(call, name, interner)
        number = handle.number = self.core.next_task()
        self._submit(m.Submit(number, name, 0, timeout, group, None, blobs, parent, False, resources, payload), handle)

    def _pickle(self, call: Call, name: str, interner: Interner) -> tuple[m.Payload, list[bytes]]:
        """Pickle a call, and announce the blobs that it is the first to need."""
        self.check()
        self.release_dropped()
        self.blobs.release(interner.take_gone())
        pickled = dumps_naming(call, f"task {name!r}", interner)
        if interner.unsent:
            self.blobs.announce(interner)
        return pickled

    def _submit(self, message: m.Submit, handle: Handle) -> None:
        """Submit a task; its message lacks the blobs that describe this process."""
        try:
            while True:
                with self._lock:
                    session = self._session.blobs()
                    if not self._session.unsent:
                        effects = self.core.submit(message, session, handle, self.workers.slots())
                        messages = self.queues.carry_out(effects)
                        if messages:
                            self.connection.post(messages)
                        if self._session.gone:
                            self.blobs.dropped.append(self._session.take_gone())
                        break
                self.blobs.announce(self._session)
            if messages:
                self.connection.flush()
        except MinidaskError:
            with self._lock:
                self.blobs.post(self.core.take_back(message.task))
            self.check()
            raise

    def _new_future(self, number: int, name: str, parent: list[int]) -> tuple[Future, Handle]:
        """Make a future, and its handle for the core: itself, or a weak reference."""
        held = not self._cancel_dropped
        if self._slot is None:
            future = Future(number, name, self, held=held)
        else:
            future = NestedFuture(number, name, self, self.reader, parent)
        if held:
            return future, future
        handle = _WeakFuture(future, self._future_dropped)
        handle.number = number
        return future, handle

    def hold(self, future: Future) -> None:
        """Hold a future until it is done: somebody waits for that, and nobody else may hold it."""
        with self._lock:
            self.core.replace_handle(future.number, future)

    def _future_dropped(self, handle: Any) -> None:
        """Note that nobody holds a future any more. Garbage collection calls this, in any thread, inside any lock."""
        first = not self._dropped_tasks
        self._dropped_tasks.append(handle.number)
        if first:
            self.reader.wake()

    def cancel_dropped(self) -> None:
        """Cancel those tasks that have not begun and whose futures nobody holds any more."""
        numbers = []
        with self._lock:  # one thread at a time looks and takes
            while self._dropped_tasks:
                numbers.append(self._dropped_tasks.popleft())
            self._post(self.core.drop(numbers))
        self.blobs.flush()

    def parent(self) -> list[int]:
        """Return number and attempt of the task that this thread works for; an empty list outside of tasks."""
        return self._slot.call if self._slot is not None else []

    def _is_waited_for(self, number: int) -> bool:
        handle = self.core.handle_of(number)
        return handle is not None and _future_of(handle) is not None

    def pending(self, group: int | None = None) -> list[Settled]:
        """Return the futures that are not done: those of a group, or all."""
        with self._lock:
            handles = self.core.handles(group)
        return [future for future in map(_future_of, handles) if future is not None]

    def cancel(self, futures: Sequence[Settled], force: bool) -> None:
        """Cancel tasks; with `force`, stop those that run too."""
        numbers = [future.number for future in futures if not future.done() or (force and future.cancelled())]
        for future in futures:
            future.cancel_here()
        self._cancel(numbers, force)

    def cancel_all(self, force: bool) -> None:
        """Cancel all tasks, also those whose futures nobody holds any more; with `force`, stop those that run too."""
        self.cancel([future for future in self.pending() if isinstance(future, Future)], False)
        self._carry_out(lambda: self.core.cancel_all(force))

    def cancelled(self, future: Future) -> None:
        """Tell the scheduler that a future was cancelled."""
        self._cancel([future.number], False)

    def _cancel(self, numbers: list[int], force: bool) -> None:
        with self._lock:
            self._post(self.core.cancel(numbers, force))
        self.blobs.flush()

    # --- groups ---

    def open_group(self, limit: int, parent: list[int], *, queued: bool = False) -> int:
        """Open a group of which at most `limit` tasks run at once, 0 for no limit; returns its number.

        Args:
            parent: the task that submits them; empty outside of tasks.
            queued: whether its calls go through a call queue, where slots take leases.
        """
        self.check()
        if not self.on_idle:
            self.core.idle = None  # what the scheduler has told a group before is old
        with self._lock:
            if queued and (number := self.core.reuse_group(limit)):
                return number
            number, messages = self.core.open_group(limit, parent)
            self.connection.post(messages)
            if queued and self.queues.add(number, limit):
                self.reader.read_also(self.queues.fileno(), self._take_results)
        self.connection.flush()
        return number

    def end_group(self, number: int) -> None:
        """Take no more tasks for a group."""
        with self._lock:
            self.core.end_group(number)

    def close_group(self, number: int, interner: Interner) -> None:
        """Take no more tasks for a group, and release what its tasks share; tasks that were submitted go on."""
        with Uninterrupted(), self._lock:  # a queue that is not closed would stay for good
            self._post(self.core.close_group(number))
        self.blobs.dropped.append(interner.close())
        self.release_dropped()

    # --- data ---

    def scatter(self, data: Any) -> Scattered:
        """Send one object ahead; return the handle that stands for it.

        Raises:
            SerializationError: it cannot be pickled, or holds scattered data of another client.
            SchedulerLost: there is no connection any more.
        """
        self.check()
        self.release_dropped()
        interner = Interner(functions=False, large=LARGE_BYTES)
        what = f"the scattered {type(data).__name__}"
        payload, refers_to = dumps_naming(data, what, interner)
        blob = blob_id(payload)
        interner.unsent.append({blob: payload})
        self.blobs.announce(interner)
        with self._lock:
            self.core.check_held(refers_to, what)
            self.core.hold(refers_to)
        self.blobs.release(interner.close())
        return Scattered(blob, refers_to, type(data).__name__, self.blobs)

    def release_dropped(self) -> None:
        """Release the blobs that dropped handles, closed groups and dropped tasks have held."""
        if self._dropped_tasks:
            self.cancel_dropped()
        if self.blobs.dropped:
            gone: list[bytes] = []
            with self._lock:
                while self.blobs.dropped:
                    gone += self.blobs.dropped.popleft()
            self.blobs.release(gone)

    # --- bars and questions ---

    def count_on(self, calls: SubmitCounter) -> None:
        """Have calls that are submitted from now on counted by this too."""
        with self._lock:
            self.bars = (*self.bars, calls)

    def count_no_more_on(self, calls: SubmitCounter) -> None:
        """Have no more calls counted by this."""
        with self._lock:
            self.bars = tuple(other for other in self.bars if other is not calls)

    def ask(self, on_answer: OnAnswer) -> None:
        """Ask for the scheduler's description of the cluster.

        Args:
            on_answer: called by the thread that reads, with the description; None if the connection ends before.
        """
        self._send(lambda: self.core.ask(on_answer))

    def ask_anyway(self) -> None:
        """Ask what still waits for leases to end."""
        self._send(self.core.ask_anyway)

    def restart(self, on_answer: OnAnswer) -> None:
        """Cancel all tasks, and have all slots replaced by fresh ones.

        Args:
            on_answer: called by the thread that reads when all are ready; with None if the connection ends before.
        """
        self.cancel_all(force=True)
        self._send(lambda: [self.core.request(m.Restart, on_answer)])

    def preload(self, on_answer: OnAnswer, modules: list[str]) -> None:
        """Have all slots replaced by fresh ones that have imported these modules. `on_answer` is as for `restart`."""
        self._send(lambda: [self.core.request(m.Restart, on_answer, modules)])

    def explain(self, on_answer: OnAnswer, task: int, own: bool) -> None:
        """Ask why a task waits, by this client's `own` number or by the scheduler's."""
        self._send(lambda: [self.core.request(Explain, on_answer, task, own)])

    def read_log(self, on_answer: OnAnswer, machine: str, lines: int) -> None:
        """Ask for the last lines of the log of a machine, by its address; empty: the scheduler's."""
        self._send(lambda: [self.core.request(ReadLog, on_answer, machine, lines)])

    # --- sending ---

    def _send(self, decide: Callable[[], Sequence[m.Message | QueueEffect]]) -> None:
        with self._lock:
            self.check()
            self.connection.post(self.queues.carry_out(decide()))
        self.connection.flush()

    def _post(self, effects: Sequence[m.Message | QueueEffect]) -> None:
        """Carry out what is about queues, and post the rest where there is a connection; for holders of the lock."""
        self.blobs.post(self.queues.carry_out(effects))

    def send_if_open(self, messages: Sequence[m.Message]) -> None:
        """Send messages that only tidy up. They are dropped if the connection is gone."""
        with self._lock:
            self.blobs.post(messages)
        self.blobs.flush()

    def check(self) -> None:
        """Check that this client can be used.

        Raises:
            SchedulerLost: there is no connection any more.
            MinidaskError: this is a forked process, and the client is its parent's.
        """
        try:
            self.core.check()
        except SchedulerLost:
            if self._slot is not None and self.core.lost:
                self._slot.cut_off(self._slot.call)
            raise

    # --- the end ---

    def close(self, seconds: float = 10.0) -> None:
        """Disconnect, and wait `seconds` at most for the end of the reading thread. Pending futures fail."""
        self.core.close()
        self._returning.close()
        if self.connection.away:
            self.reader.end("the client was closed")
        self.connection.shut()
        self.blobs.close()
        self.reader.join(seconds)

    def abandon(self) -> None:
        """In a forked child: leave connection, locks and blobs to the parent, and fail all futures."""
        self.connection.abandon()
        self._lock = threading.RLock()
        self.blobs.abandon(self._lock)
        self.queues.abandon()
        self.channels.abandon()
        for future in filter(None, map(_future_of, self.core.abandon(self._pid))):
            future.abandon(
                MinidaskError(f"task {future.name!r} belongs to process {self._pid}, which this one forked off")
            )

    # --- another connection ---

    def leave(self, keep_open: bool) -> None:
        """The connection is lost: send nothing until there is another one, and keep this one open until then if so."""
        with self._lock:
            self.connection.away = True
        if not keep_open:
            self.connection.close()
        self._results.clear()

    def resume(self, connection: Connection) -> None:
        """Go on with another connection, and tell the scheduler there what this client wants.

        Raises:
            SchedulerLost: the client was closed meanwhile; the connection is closed too.
        """

        def decide() -> Sequence[Effect[Handle]]:
            if self.core.closed:
                connection.close()
                self.core.check()
            self.connection.replace_by(connection)
            self.reader.back()
            given = self._results_given()
            for lease in self.core.queues.leases():
                self.queues.claim(lease)  # no lease to come may find what a lost one has had in hand
            return [*given, *self.core.resume(), *self.events.resume()]

        self._carry_out(decide)

    # --- receiving, in the thread that reads ---

    def _ended(self, why: str) -> None:
        with self._lock:  # else another connection could take the place of the one that is closed here
            self.connection.close()
            lost = self.core.end(self._returning.why or why)
            self.queues.close()
        self._returning.close()
        self.workers.wake()
        for effect in lost:
            self._conclude(effect)
        self.channels.close()
        self.screen.close()

    def _handle(self, message: m.Message) -> None:
        if self._dropped_tasks:
            self.cancel_dropped()
        device = self._devices.get(type(message))
        if device is not None:
            device(message)
            return
        self._carry_out(lambda: self._decide(message))
        self._release_if_last()
        if type(message) is m.IdleSlots and message.idle:
            for call in list(self.on_idle):
                call()

    def _workers_changed(self, change: Callable[[], None]) -> None:
        change()
        if self.core.queues:
            self._carry_out(lambda: self.core.queues.slots_changed(self.workers.slots()))

    def _take_results(self) -> None:
        """Handle the results that slots have given to queues."""
        self._carry_out(self._results_given)
        self._release_if_last()

    def _release_if_last(self) -> None:
        """Release what was dropped when no task is pending: there may be no next one that would do it."""
        if self.blobs.dropped and not len(self.core):
            self.release_dropped()

    def _decide(self, message: m.Message) -> Sequence[Effect[Handle]]:
        if isinstance(message, m.TaskDone | m.TaskRaised | m.TaskLost) and self.core.queues.lease(message.task):
            given = self.queues.carry_out(self._results_given())  # by the slot, before its lease ended
            return [*given, *self.core.receive(message, self.queues.claim(message.task))]
        return self.core.receive(message)

    def _results_given(self) -> list[Effect[Handle]]:
        worker = self.workers.any_name()
        effects: list[Effect[Handle]] = []
        for number, ticket, duration, pickle in self.queues.results():
            effects += self.core.call_returned(number, ticket, Returned([pickle], duration, worker))
        return effects

    def _carry_out(self, decide: Callable[[], Sequence[Effect[Handle]]]) -> None:
        """Have the core decide, and carry that out. Only futures and answers wait until the lock is free again."""
        with self._lock:
            effects = decide()
            later = [effect for effect in effects if isinstance(effect, (Settle, Tell))]
            others: Any = [effect for effect in effects if not isinstance(effect, (Settle, Tell))]
            if others:
                self._post(others)
        if others:
            self.blobs.flush()
        for effect in later:
            self._conclude(effect)

    def _conclude(self, effect: Settle[Handle] | Tell) -> None:
        if isinstance(effect, Settle):
            if effect.cut_off and self._slot is not None:
                self._slot.cut_off(effect.cut_off)  # before the attempt hears of it, and may end
            self._settle(effect.handle, effect.outcome)
        else:
            effect.on_answer(effect.info)

    def _settle(self, handle: Handle | None, outcome: Outcome) -> None:
        if type(outcome) is Returned and len(outcome.payload) > 1:
            outcome = complete(outcome, self._results.take if self.store is None else self.store.take)
        self._results.forget_others()
        future = _future_of(handle) if handle is not None else None
        if future is not None:
            future.settle(outcome, self.channels.flush if self.channels.busy else None)

    def _to_screen_or_handler(self, message: m.CallerMessage) -> None:
        if message.channel == m.RECORDS:
            self.screen.log(message.payload)
        else:
            self.channels.put(message)


def _future_of(handle: Handle) -> Settled | None:
    """Return the future that a handle stands for; None if nobody holds it any more."""
    return handle() if isinstance(handle, _WeakFuture) else handle
