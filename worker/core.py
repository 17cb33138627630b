"""The worker daemon's decisions: which call goes to which slot, and when a slot is stopped or replaced.

Pure, as the scheduler's core: `handle(event, now)` returns effects for the shell to carry out, and
`next_deadline()` says when to send the next `WorkerTick`. A slot's life:

    Starting ─ready─► Idle ─run─► Busy ─reply─► Idle
                                   │ stop, timeout         (interrupted first, killed GRACE_SECONDS later)
                                   └──────► Ending ─reply─► Idle
    any of them ─exit─► replaced by a fresh slot, and the attempt that died with it is told

A call that waits for calls of its own lends its slot to one of them, on top of which may be another one, and so on.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from minidask.errors import ProtocolError
from minidask.wire.messages import (
    NO_DATA,
    BlobLost,
    Died,
    Done,
    Failed,
    FetchFailed,
    GaveBack,
    HaveBlob,
    Message,
    NeedBlob,
    OfferResult,
    Payload,
    PutBlob,
    Reason,
    ReleaseBlobs,
    Resized,
    Restart,
    Restarted,
    ResultTaken,
    Resumed,
    Run,
    SlotReady,
    Stop,
    Stopped,
    TaskMessage,
    Waiting,
)
from minidask.wire.outcomes import check_outcome

from .events import (
    AwaitTaker,
    BlobFailed,
    BlobHere,
    Effect,
    Event,
    Fetch,
    Forget,
    FromScheduler,
    FromSlot,
    GiveUp,
    Interrupt,
    Kill,
    NoRoom,
    OverMemory,
    RemoveResult,
    Resize,
    ResultLeft,
    Retire,
    SchedulerGone,
    SlotExited,
    Spawn,
    ToScheduler,
    ToSlot,
    WorkerTick,
)
from .slots import CALLS, Busy, Ending, Idle, SlotRecord, Starting

GRACE_SECONDS = 0.3
RETIRE_SECONDS = 2.0
RETURN_SECONDS = 0.05
MAX_FAILED_STARTS = 3
NO_PARTS: Mapping[bytes, int] = {}
ORPHANED = "orphaned"  # the reason to end a call whose scheduler is gone: its end is told to nobody


@dataclass(slots=True, eq=False)
class Delivery:
    """An outcome that is told once the client has fetched the large parts of it, of which these are left."""

    done: Done
    left: set[bytes]


class WorkerCore:
    """All of the worker daemon's state; see the module's docstring.

    Args:
        fresh_slots: whether a slot that has worked for one client is replaced before it works for another.
        shared: whether clients take large results from the store themselves.
    """

    def __init__(self, fresh_slots: bool = False, *, shared: bool = False) -> None:
        self._fresh_slots = fresh_slots
        self.shared = shared
        self.slots: dict[int, SlotRecord] = {}
        self.queue: collections.deque[tuple[Run, float]] = collections.deque()
        self.blobs: dict[bytes, Payload] = {}  # large ones have no bytes here: they are in the store
        self.wanted: set[bytes] = set()  # large ones on their way
        self.held: list[Run] = []  # calls that wait for those
        self.deliveries: dict[int, Delivery] = {}  # by task
        self.restarts: dict[int, list[SlotRecord]] = {}  # by request: slots that are to be gone
        self._next_slot = 0
        self._failed_starts = 0
        self._effects: list[Effect] = []

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; return what the shell is to do, in order.

        Raises:
            ProtocolError: a slot says what it must not say; it is to be killed.
        """
        match event:
            case FromScheduler(message):
                self._from_scheduler(message, now)
            case FromSlot(slot, message) if slot in self.slots:
                self._from_slot(self.slots[slot], message, now)
            case SlotExited(slot, how, hint):
                self._slot_exited(self.slots.pop(slot), how, hint)
            case ResultLeft(slot, done, parts) if slot in self.slots:
                self._from_slot(self.slots[slot], done, now, parts)
            case BlobHere(blob):
                self._blob_here(blob, now)
            case BlobFailed(blob, source, text):
                if blob in self.wanted:
                    self._effects.append(ToScheduler(FetchFailed(blob, source, text)))
            case NoRoom(blob, text):
                self._do_without(blob, text)
            case OverMemory(slot, text):
                if slot in self.slots:
                    self._kill(self.slots[slot], text)
            case Resize(slots):
                self._resize(slots)
            case SchedulerGone():
                self._drop_everything(now)
            case WorkerTick():
                self._tick(now)
        self._fill_slots(now)
        if self.queue or self.held:
            self._return_if_draining()
        if self.restarts:
            self._tell_restarted()
        effects, self._effects = self._effects, []
        return effects

    def next_deadline(self) -> float | None:
        """When a `WorkerTick` is due at the latest, on the clock of `now`; None if nothing waits for time to pass."""
        return min(self._deadlines(), default=None)

    def running(self, slot: int) -> Run | None:
        """The call that a slot works on."""
        record = self.slots.get(slot)
        return record.state.run if record and isinstance(record.state, CALLS) else None

    def starting(self, slot: int) -> bool:
        """Whether a slot has not yet said that it is ready."""
        record = self.slots.get(slot)
        return record is not None and type(record.state) is Starting

    @property
    def drained(self) -> bool:
        """Whether nothing runs, waits, or is to be fetched."""
        busy = any(self.running(number) is not None for number in self.slots)
        return not (busy or self.queue or self.held or self.deliveries)

    def _deadlines(self) -> Iterator[float]:
        if self.queue and not self._any_starting():
            yield min(since for _, since in self.queue) + RETURN_SECONDS
        for slot in self.slots.values():
            if not slot.killed:
                if slot.retired_by is not None:
                    yield slot.retired_by
                yield from (call.deadline for call in slot.calls if call.deadline is not None)

    # --- the scheduler's wishes ---

    def _from_scheduler(self, message: Message, now: float) -> None:
        match message:
            case Run():
                if self.wanted and not self.wanted.isdisjoint(message.blobs):
                    self.held.append(message)
                else:
                    self._accept(message, now)
            case PutBlob(blob, payload):
                self.blobs[blob] = payload
            case NeedBlob(blob, size, source, places):
                self.wanted.add(blob)
                self._effects.append(Fetch(blob, size, source, places))
            case BlobLost(blob, text):
                self._do_without(blob, text)
            case ReleaseBlobs(blobs):
                self._forget(blobs)
            case ResultTaken(blob):
                self._taken(blob)
            case Stop(task, attempt):
                self._stop(task, attempt, now)
            case Restart(request):
                self._restart(request, now)

    def _wait(self, run: Run, now: float) -> None:
        """Queue a call: what one client was given in advance is not to delay the first call of another."""
        if any(other.client == run.client for other, _ in self.queue):
            self.queue.append((run, now))
        else:
            self.queue.appendleft((run, now))

    def _blob_here(self, blob: bytes, now: float) -> None:
        if blob in self.wanted:
            self.wanted.discard(blob)
            self.blobs[blob] = []
            self._effects.append(ToScheduler(HaveBlob(blob)))
            ready = [run for run in self.held if self.wanted.isdisjoint(run.blobs)]
            self.held = [run for run in self.held if not self.wanted.isdisjoint(run.blobs)]
            for run in ready:
                self._accept(run, now)

    def _accept(self, run: Run, now: float) -> None:
        """Queue a call, or give it to the slot that is lent for it; back, if that one's call has gone on meanwhile."""
        if not run.host:
            self._wait(run, now)
            return
        for slot in self.slots.values():
            if isinstance(slot.state, Busy) and slot.state.waits and slot.state.run.task == run.host:
                slot.below.append(slot.state)
                self._send_call(slot, run, now)
                return
        self._effects.append(ToScheduler(GaveBack(run.task, run.attempt)))

    def _do_without(self, blob: bytes, text: str) -> None:
        """A blob will not come: what needs it cannot run here."""
        if blob in self.wanted:
            self._forget([blob])
            for run in [run for run in self.held if blob in run.blobs]:
                self.held.remove(run)
                self._effects.append(ToScheduler(Stopped(run.task, run.attempt, NO_DATA, text)))

    def _forget(self, blobs: list[bytes]) -> None:
        for blob in blobs:
            self.blobs.pop(blob, None)
        self.wanted.difference_update(blobs)
        for slot in self.slots.values():
            known = slot.blobs.intersection(blobs)
            if known:
                slot.blobs -= known
                self._effects.append(ToSlot(slot.number, ReleaseBlobs(sorted(known))))
        if blobs:
            self._effects.append(Forget(blobs))

    def _stop(self, task: int, attempt: int, now: float) -> None:
        waits = len(self.queue) + len(self.held)
        self.queue = collections.deque(e for e in self.queue if (e[0].task, e[0].attempt) != (task, attempt))
        self.held = [run for run in self.held if (run.task, run.attempt) != (task, attempt)]
        delivery = self.deliveries.get(task)
        if delivery is not None and delivery.done.attempt == attempt:
            self._drop_delivery(task)
            waits += 1
        if len(self.queue) + len(self.held) < waits:
            self._effects.append(ToScheduler(Stopped(task, attempt, Reason.CANCELLED, "it was cancelled")))
            return
        for slot in self.slots.values():
            call = slot.find(task, attempt)
            if isinstance(call, Busy):
                self._interrupt(slot, call, Reason.CANCELLED, "it was cancelled", now)

    def _taken(self, blob: bytes) -> None:
        """The client has this part of a result: with the last one, the outcome is told."""
        for task, delivery in list(self.deliveries.items()):
            if blob in delivery.left:
                delivery.left.discard(blob)
                self._effects.append(RemoveResult(blob))
                if not delivery.left:
                    del self.deliveries[task]
                    self._effects.append(ToScheduler(delivery.done))

    def _drop_delivery(self, task: int) -> None:
        self._effects += [RemoveResult(blob) for blob in sorted(self.deliveries.pop(task).left)]

    def _interrupt(self, slot: SlotRecord, call: Busy, reason: str, text: str, now: float) -> None:
        slot.replace(call, Ending(call.run, reason, text, now + GRACE_SECONDS))
        self._effects.append(Interrupt(slot.number, call.run.task, call.run.attempt))

    def _drop_everything(self, now: float) -> None:
        self.restarts.clear()
        self.queue.clear()
        self.held.clear()
        self._forget([*self.blobs, *self.wanted])
        for task in list(self.deliveries):
            self._drop_delivery(task)
        for slot in self.slots.values():
            for call in slot.calls:
                if isinstance(call, Busy):
                    self._interrupt(slot, call, ORPHANED, "", now)
                else:
                    slot.replace(call, call._replace(reason=ORPHANED))

    # --- slots ---

    def _fill_slots(self, now: float) -> None:
        """Give waiting calls to idle slots."""
        if not self.queue:
            return
        if self._fresh_slots:
            self._fill_slots_by_client(now)
            return
        for slot in self.slots.values():
            if type(slot.state) is Idle and not slot.retiring:
                run, _ = self.queue.popleft()
                self._send_call(slot, run, now)
                if not self.queue:
                    return

    def _fill_slots_by_client(self, now: float) -> None:
        """The same where a slot works for one client only: idle ones of others are replaced for what waits."""
        coming = sum(self.starting(number) for number in self.slots)
        for entry in list(self.queue):
            idle = [slot for slot in self.slots.values() if type(slot.state) is Idle and not slot.retiring]
            fit = next((slot for slot in idle if slot.client in (None, entry[0].client)), None)
            if fit is not None:
                self.queue.remove(entry)
                self._send_call(fit, entry[0], now)
            elif coming:
                coming -= 1  # it is for this call
            elif idle:
                idle[0].retiring = True
                self._effects.append(Retire(idle[0].number))
                self._spawn()

    def _send_call(self, slot: SlotRecord, run: Run, now: float) -> None:
        for blob in run.blobs:
            if blob not in slot.blobs and blob in self.blobs:
                slot.blobs.add(blob)
                self._effects.append(ToSlot(slot.number, PutBlob(blob, self.blobs[blob])))
        slot.client = run.client
        slot.state = Busy(run, None if run.timeout is None else now + run.timeout)
        self._effects.append(ToSlot(slot.number, run))

    def _from_slot(self, slot: SlotRecord, message: Message, now: float, parts: Mapping[bytes, int] = NO_PARTS) -> None:
        match message:
            case SlotReady():
                if type(slot.state) is not Starting:
                    raise ProtocolError(f"worker {slot.number} says again that it is ready")
                self._failed_starts = 0
                slot.state = Idle()
            case Done() | Failed():
                self._over(slot, message, now, parts)
            case Waiting(task, attempt):
                call = slot.find(task, attempt)
                if isinstance(call, Busy) and call is slot.state:
                    slot.state = call._replace(waits=True)
                    self._effects.append(ToScheduler(message))
            case Resumed():
                self._goes_on(slot, message)
            case TaskMessage(task, attempt):
                if slot.find(task, attempt) is not None:
                    self._effects.append(ToScheduler(message))
        if type(slot.state) is Idle and (slot.retiring or slot.worn):
            self._retire(slot, now)

    def _over(self, slot: SlotRecord, message: Done | Failed, now: float, parts: Mapping[bytes, int]) -> None:
        """A call has come to its end."""
        if len(message.payload) != 1:
            check_outcome(message)
        call = slot.find(message.task, message.attempt)
        if call is None or isinstance(call, Ending):
            self._effects += [RemoveResult(blob) for blob in parts]
        if call is None:
            return
        if isinstance(call, Ending):
            self._report_stopped(call)  # even if it got to its end first
        elif isinstance(message, Done) and parts and self.shared:
            self._effects += [AwaitTaker(message.task, message.attempt, list(parts)), ToScheduler(message)]
        elif isinstance(message, Done) and parts:
            self._deliver(message, parts)
        else:
            self._effects.append(ToScheduler(message))
        slot.remove(call)
        if isinstance(slot.state, Ending):  # the interrupt has hit what ran on top of it
            slot.state = slot.state._replace(deadline=now + GRACE_SECONDS)
            self._effects.append(Interrupt(slot.number, slot.state.run.task, slot.state.run.attempt))

    def _goes_on(self, slot: SlotRecord, message: Resumed) -> None:
        """A call waits no more; what was sent for it to run meanwhile, and crossed with that word, goes back."""
        call = slot.find(message.task, message.attempt)
        if isinstance(call, Busy):
            slot.replace(call, call._replace(waits=False))
            self._effects.append(ToScheduler(message))
        if call is not None and isinstance(slot.state, CALLS) and slot.state.run.host == message.task:
            crossed = slot.state
            slot.remove(crossed)
            if isinstance(crossed, Ending):
                self._report_stopped(crossed)
            else:
                self._effects.append(ToScheduler(GaveBack(crossed.run.task, crossed.run.attempt)))
        self._effects.append(ToSlot(slot.number, message))

    def _deliver(self, done: Done, parts: Mapping[bytes, int]) -> None:
        self.deliveries[done.task] = Delivery(done, set(parts))
        for blob, size in parts.items():
            self._effects.append(ToScheduler(OfferResult(done.task, done.attempt, blob, size)))

    def _slot_exited(self, slot: SlotRecord, how: str, hint: str) -> None:
        for call in reversed(slot.calls):
            if isinstance(call, Ending):
                self._report_stopped(call)
            else:
                cause = slot.verdict or hint
                if call is not slot.state:
                    cause = f"{cause}; what it waited for, task {slot.calls[-1].run.name!r}, ran there just then"
                self._effects.append(ToScheduler(Died(call.run.task, call.run.attempt, how, cause)))
        if type(slot.state) is Starting:
            self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            self._effects.append(ToScheduler(Resized(0)))  # first: what is given back must not come again
            self._effects.append(
                GiveUp(f"workers die before they are ready: the last one with {how}; see its output above")
            )
        elif not slot.retiring:
            self._spawn()

    def _report_stopped(self, state: Ending) -> None:
        if state.reason != ORPHANED:
            run = state.run
            self._effects.append(ToScheduler(Stopped(run.task, run.attempt, state.reason, state.text)))

    def _kill(self, slot: SlotRecord, verdict: str = "") -> None:
        if not slot.killed:
            slot.killed = True
            slot.verdict = verdict
            self._effects.append(Kill(slot.number))

    def _spawn(self) -> None:
        """Start a fresh slot under the lowest number that is free."""
        number = next(n for n in range(len(self.slots) + 1) if n not in self.slots)
        self.slots[number] = SlotRecord(number)
        self._effects.append(Spawn(number))

    def _resize(self, slots: int) -> None:
        staying = [slot for slot in self.slots.values() if not slot.retiring]
        for _ in range(slots - len(staying)):
            self._spawn()
        idle_first = sorted(staying, key=lambda slot: isinstance(slot.state, CALLS))
        for slot in idle_first[: max(0, len(staying) - slots)]:
            slot.retiring = True
            if type(slot.state) is Idle:
                self._effects.append(Retire(slot.number))

    def _restart(self, request: int, now: float) -> None:
        """Have fresh slots only: idle ones are replaced now, busy ones once they are idle."""
        worn = [slot for slot in self.slots.values() if type(slot.state) is not Starting]
        self.restarts[request] = worn
        for slot in worn:
            if type(slot.state) is Idle and not slot.worn:
                self._retire(slot, now)
            slot.worn = True

    def _retire(self, slot: SlotRecord, now: float) -> None:
        """End an idle slot, and replace it if it is not one too many."""
        slot.retired_by = now + RETIRE_SECONDS  # what a task has left running in it may keep it from its end
        self._effects.append(Retire(slot.number))
        if not slot.retiring:
            slot.retiring = True
            self._spawn()

    def _tell_restarted(self) -> None:
        for request, worn in list(self.restarts.items()):
            worn[:] = [slot for slot in worn if self.slots.get(slot.number) is slot]
            if not worn and not self._any_starting():
                del self.restarts[request]
                self._effects.append(ToScheduler(Restarted(request)))

    # --- time ---

    def _tick(self, now: float) -> None:
        for slot in self.slots.values():
            if slot.retired_by is not None and now >= slot.retired_by:
                self._kill(slot)
            for call in slot.calls:
                if call.deadline is None or now < call.deadline:
                    continue
                if isinstance(call, Ending):
                    self._kill(slot)
                else:
                    limit = f"it ran longer than its time limit of {call.run.timeout:g} seconds and was stopped"
                    self._interrupt(slot, call, Reason.TIMEOUT, limit, now)
        if self.queue and not self._any_starting():
            self._give_back([entry for entry in self.queue if now >= entry[1] + RETURN_SECONDS])

    def _return_if_draining(self) -> None:
        """Where no slot is to stay, nothing that has not begun is to wait, but what a task here waits for."""
        if all(slot.retiring for slot in self.slots.values()):
            self._give_back(list(self.queue))
            hosts = {slot.state.run.task for slot in self.slots.values() if isinstance(slot.state, Busy)}
            held, self.held = self.held, [run for run in self.held if run.host in hosts]
            self._effects += [ToScheduler(GaveBack(run.task, run.attempt)) for run in held if run.host not in hosts]

    def _give_back(self, entries: list[tuple[Run, float]]) -> None:
        """These may go elsewhere."""
        for entry in entries:
            self.queue.remove(entry)
            self._effects.append(ToScheduler(GaveBack(entry[0].task, entry[0].attempt)))

    def _any_starting(self) -> bool:
        """Whether a slot is about to be ready: what waits for it is not stuck behind a long call."""
        return any(self.starting(slot) for slot in self.slots)
