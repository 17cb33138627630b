"""The worker daemon's decisions: which call goes to which slot, and when a slot is stopped or replaced.

One door: `handle(event, now)` takes what has happened and returns effects, which the shell carries out in order.
`next_deadline()` says when the next `WorkerTick` is due. Pure: no sockets, no clock, no processes.

    FromScheduler(Run) ─► held (a blob is on its way) ─► queue ─► slot ─► Done, Failed ─► ToScheduler
                                                          │        └─ death, stop, time limit ─► Died, Stopped
                                                          └─ no slot free in GIVE_BACK_SECONDS ─► GaveBack

This file follows a call from `Run` to its end. The other three things that a worker decides have files of their own:
the life of slots (`slots.py`), blobs and large results (`data.py`), and calls on top of waiting ones (`lending.py`).

Every attempt that the scheduler sends is accounted for exactly once: by its outcome, by its end, or by giving it back.
A message of a slot about an attempt that the slot does not have (any more) is stale, and is dropped.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping

from minidask.errors import ProtocolError
from minidask.wire import messages as m
from minidask.wire.outcomes import check_outcome

from . import events as e
from . import lending
from .data import WorkerData
from .slots import CALLS, ORPHANED, Busy, Ending, Idle, SlotRecord, SlotTable, Starting, report_stopped

GRACE_SECONDS = 0.3
LOADING_SECONDS = 30.0
"""What a call with a time limit may take beside it, to import and unpickle what it needs, before `Began` comes."""
NOTHING_LARGE: Mapping[bytes, int] = {}


class WorkerCore:
    """All of the worker daemon's state.

    Args:
        fresh_slots: whether a slot that has worked for one client is replaced before it works for another.
        shared: whether clients take large results from the store themselves.

    Attributes:
        table: the slots; `slots` are its records by number.
        data: blobs, held calls, and results on their way to clients.
        queue: calls that wait for a slot, each with the time since when.
    """

    def __init__(self, fresh_slots: bool = False, *, shared: bool = False) -> None:
        self._fresh_slots = fresh_slots
        self.table = SlotTable()
        self.slots = self.table.records
        self.data = WorkerData(shared)
        self.queue: collections.deque[tuple[m.Run, float]] = collections.deque()
        self._yields: dict[tuple[int, int], m.Yield] = {}  # for leases in the queue, and for held ones
        self._effects: list[e.Effect] = []

    def handle(self, event: e.Event, now: float) -> list[e.Effect]:
        """Take one event; return what the shell is to do, in order.

        Args:
            event: what has happened.
            now: seconds on a clock that does not jump.

        Raises:
            ProtocolError: a slot broke the protocol; it is to be killed.
        """
        match event:
            case e.FromScheduler(message):
                self._from_scheduler(message, now)
            case e.FromSlot(slot, message) if slot in self.slots:
                self._from_slot(self.slots[slot], message, now)
            case e.SlotExited(slot, how, hint):
                self._slot_exited(self.slots.pop(slot), how, hint, now)
            case e.NotStarted(slot, why):
                self._effects += self.table.not_started(self.slots[slot], why, now)
            case e.ResultLeft(slot, done, large) if slot in self.slots:
                self._from_slot(self.slots[slot], done, now, large)
            case e.BlobHere(blob):
                self._blob_here(blob, now)
            case e.BlobFailed(blob, source, text):
                if blob in self.data.wanted:
                    self._effects.append(e.ToScheduler(m.FetchFailed(blob, source, text)))
            case e.NoRoom(blob, text):
                self._send_awaited(blob, text)
                self._effects += self.data.unavailable(blob, text, self.slots.values())
            case e.OverMemory(slot, text):
                dying = any(record.killed for record in self.slots.values())  # its memory is not free yet
                if slot in self.slots and not dying:
                    self._effects += self.table.kill(self.slots[slot], text)
            case e.Resize(slots):
                self._effects += self.table.resize(slots)
            case e.SchedulerGone():
                self._scheduler_gone(now)
            case e.WorkerTick():
                self._tick(now)
        self._fill_slots(now)
        if self.queue or self.data.held:
            self._return_if_draining()
        self._effects = [*self.table.tell_missing(), *self._effects]  # first: what is given back must not come again
        if self.table.restarts:
            self._effects += self.table.restarted()
        if self.data.kept:
            self._effects += self.data.let_go(self.slots.values())
        effects, self._effects = self._effects, []
        return effects

    def next_deadline(self) -> float | None:
        """When a `WorkerTick` is due at the latest, on the clock of `now`; None if nothing waits for time to pass."""
        return min(self._deadlines(), default=None)

    def _deadlines(self) -> Iterator[float]:
        if self.queue and not self.table.starting:
            yield min(since for _, since in self.queue) + m.GIVE_BACK_SECONDS
        for slot in self.slots.values():
            if type(slot.state) is not Idle or slot.retired_by is not None:
                yield from slot.deadlines()

    def running(self, slot: int) -> m.Run | None:
        """The innermost call in a slot; None if there is none, or no such slot."""
        record = self.slots.get(slot)
        return record.state.run if record and isinstance(record.state, CALLS) else None

    def starting(self, slot: int) -> bool:
        """Whether a slot has not yet said that it is ready."""
        record = self.slots.get(slot)
        return record is not None and type(record.state) is Starting

    @property
    def drained(self) -> bool:
        """Whether no call runs or waits, and no result is still to be fetched."""
        busy = any(self.running(number) is not None for number in self.slots)
        return not (busy or self.queue or self.data.held or self.data.deliveries)

    # --- from the scheduler ---

    def _from_scheduler(self, message: m.Message, now: float) -> None:
        match message:
            case m.Run():
                if not self.data.wanted or not self.data.hold(message):
                    self._admit(message, now)
            case m.PutBlob(blob, payload):
                self.data.put(blob, payload)
                self._send_awaited(blob)
            case m.NeedBlob():
                self._effects += self.data.fetch(message)
            case m.Chunk() | m.NoBlob() | m.FetchChunk():
                self._effects.append(e.ToTransfers(message))
            case m.BlobLost(blob, text):
                self._send_awaited(blob, text)
                self._effects += self.data.unavailable(blob, text, self.slots.values())
            case m.ReleaseBlobs(blobs):
                self._effects += self.data.forget(blobs, self.slots.values())
            case m.ResultTaken(blob):
                self._effects += self.data.result_fetched(blob)
            case m.Stop(task, attempt):
                self._stop(task, attempt, now)
            case m.Yield():
                self._yield(message)
            case m.Adopted():
                self._adopted(message)
            case m.Restart(request, preload):
                self._effects += self.table.restart(request, now, begun=bool(preload))
            case m.Notice(text):
                self._effects.append(e.Warn(text))

    def _blob_here(self, blob: bytes, now: float) -> None:
        if blob in self.data.wanted:
            self._effects.append(e.ToScheduler(m.HaveBlob(blob)))
            for run in self.data.arrived(blob):
                self._admit(run, now)
            self._send_awaited(blob)

    def _send_awaited(self, blob: bytes, text: str | None = None) -> None:
        if self.data.awaited:
            self._effects += self.data.send_awaited(blob, self.slots, text)

    def _yield(self, message: m.Yield) -> None:
        """Pass it on to the slot that has the lease, or that will have it.

        A lease that waits for its slot is not given back: the scheduler might send it again at once, and ask again.
        """
        waiting = {run[:2] for run in [*self.data.held, *(run for run, _ in self.queue)]}
        self._yields = {lease: last for lease, last in self._yields.items() if lease in waiting}
        if message[:2] in waiting:
            self._yields[message[:2]] = message
        for slot in self.slots.values():
            if slot.find(message.task, message.attempt) is not None:
                self._effects.append(e.ToSlot(slot.number, message))

    def _admit(self, run: m.Run, now: float) -> None:
        """Queue a call. A guest goes on top of its host at once, or back if its host has resumed meanwhile."""
        if not run.host:
            self._enqueue(run, now)
        elif (slot := lending.lent_slot(self.slots.values(), run.host)) is not None:
            lending.put_on_top(slot)
            self._send_call(slot, run, now)
        else:
            self._give_back(run)

    def _enqueue(self, run: m.Run, now: float) -> None:
        """Queue a call: last, or first if its client has none in the queue, so that no client delays another."""
        if any(other.client == run.client for other, _ in self.queue):
            self.queue.append((run, now))
        else:
            self.queue.appendleft((run, now))

    def _stop(self, task: int, attempt: int, now: float) -> None:
        """End an attempt, wherever it is."""
        for entry in self.queue:
            if (entry[0].task, entry[0].attempt) == (task, attempt):
                self.queue.remove(entry)
                withdrawn: list[e.Effect] | None = []
                break
        else:
            withdrawn = self.data.withdraw(task, attempt)
        if withdrawn is not None:
            stopped = m.Stopped(task, attempt, m.Reason.CANCELLED, "it was cancelled")
            self._effects += [*withdrawn, e.ToScheduler(stopped)]
            return
        for slot in self.slots.values():
            call = slot.find(task, attempt)
            if isinstance(call, Busy):
                self._interrupt(slot, call, m.Reason.CANCELLED, "it was cancelled", now)

    def _interrupt(self, slot: SlotRecord, call: Busy, reason: str, text: str, now: float) -> None:
        slot.replace(call, Ending(call.run, reason, text, now + GRACE_SECONDS))
        self._effects.append(e.Interrupt(slot.number, call.run.task, call.run.attempt))

    def _scheduler_gone(self, now: float) -> None:
        """Forget all data, and the calls that have not begun. Those that run go on, for a scheduler that is to come.

        Tasks within tasks do not: nobody will ask for them. Nor do leases, into whose queue nobody puts calls.
        """
        self.table.restarts.clear()
        self.queue.clear()
        for slot in self.slots.values():
            for call in slot.calls:
                ends = call.run.lease or call.run.task < m.OUTLIVES
                if isinstance(call, Ending) and (ends or call.reason != m.Reason.TIMEOUT):
                    slot.replace(call, call._replace(reason=ORPHANED))
                elif isinstance(call, Busy) and ends:
                    self._interrupt(slot, call, ORPHANED, "", now)
        self._effects += self.data.drop_everything(self.slots.values())

    def holds(self) -> dict[int, int]:
        """The attempts that run, by task: what a scheduler is told that knows nothing of them.

        One that has run out of time is among them, until it has ended: else it would begin again.
        """
        calls = [call for slot in self.slots.values() for call in slot.calls]
        held = [call for call in calls if isinstance(call, Busy) or call.reason == m.Reason.TIMEOUT]
        return {call.run.task: call.run.attempt for call in held}

    def waiting(self) -> list[m.Waiting]:
        """What tells a scheduler which calls wait for tasks of their own, after a loss of what was said of that."""
        calls = [slot.state for slot in self.slots.values() if isinstance(slot.state, Busy) and slot.state.waits]
        return [m.Waiting(call.run.task, call.run.attempt) for call in calls]

    def _adopted(self, message: m.Adopted) -> None:
        for slot in self.slots.values():
            call = slot.find(message.task, message.attempt)
            if isinstance(call, Busy):
                slot.client = message.client
                slot.replace(call, call._replace(run=call.run._replace(client=message.client)))

    # --- from the queue into slots ---

    def _fill_slots(self, now: float) -> None:
        """Give queued calls to idle slots."""
        if not self.queue:
            return
        if self._fresh_slots:
            self._fill_slots_by_client(now)
            return
        for slot in self.slots.values():
            if slot.is_free:
                run, _ = self.queue.popleft()
                self._send_call(slot, run, now)
                if not self.queue:
                    return

    def _fill_slots_by_client(self, now: float) -> None:
        """Give queued calls to idle slots that worked for no other client; replace idle slots for the rest."""
        coming = self.table.starting
        for entry in list(self.queue):
            idle = [slot for slot in self.slots.values() if slot.is_free]
            fit = next((slot for slot in idle if slot.client in (None, entry[0].client)), None)
            if fit is not None:
                self.queue.remove(entry)
                self._send_call(fit, entry[0], now)
            elif coming:
                coming -= 1  # that slot is for this call
            elif idle:
                self._effects += self.table.replace(idle[0])

    def _send_call(self, slot: SlotRecord, run: m.Run, now: float) -> None:
        if not slot.blobs.issuperset(run.blobs):
            self._effects += self.data.missing_in(slot, run)
        slot.client = run.client
        slot.state = Busy(run, None if run.timeout is None else now + LOADING_SECONDS + run.timeout)
        self._effects.append(e.ToSlot(slot.number, run))
        if run[:2] in self._yields:
            self._effects.append(e.ToSlot(slot.number, self._yields.pop(run[:2])))

    def _return_if_draining(self) -> None:
        """If no slot is to stay, give back all calls that have not begun, but guests of calls that wait here."""
        if all(slot.retiring for slot in self.slots.values()):
            for run, _ in self.queue:
                self._give_back(run)
            self.queue.clear()
            hosts = {slot.state.run.task for slot in self.slots.values() if isinstance(slot.state, Busy)}
            for run in [run for run in self.data.held if run.host not in hosts]:
                self.data.held.remove(run)
                self._give_back(run)

    def _give_back(self, run: m.Run) -> None:
        """Return a call to the scheduler, so that it may run elsewhere."""
        self._effects.append(e.ToScheduler(m.GaveBack(run.task, run.attempt)))

    # --- from slots ---

    def _from_slot(
        self, slot: SlotRecord, message: m.Message, now: float, large: Mapping[bytes, int] = NOTHING_LARGE
    ) -> None:
        """Handle a slot's message. `large` are the buffers of a result that the slot left in the store, with sizes."""
        match message:
            case m.SlotReady():
                if type(slot.state) is not Starting:
                    raise ProtocolError(f"worker {slot.number} says again that it is ready")
                self._effects += self.table.ready(slot)
            case m.Done() | m.Failed() | m.Stopped():
                self._finished(slot, message, now, large)
            case m.Began(task, attempt):
                call = slot.find(task, attempt)
                if isinstance(call, Busy) and call.run.timeout is not None:
                    slot.replace(call, call._replace(deadline=now + call.run.timeout))
            case m.CallDone(task, attempt) | m.CallFailed(task, attempt):
                self._call_over(message, slot.find(task, attempt), large)
            case m.WantBlobs(task, attempt):
                if slot.find(task, attempt) is not None:
                    self._effects += self.data.want(slot, message)
            case m.Waiting():
                self._effects += lending.wait(slot, message)
            case m.Resumed():
                self._effects += lending.resume(slot, message)
            case m.TaskMessage(task, attempt):
                call = slot.find(task, attempt)
                if call is not None and not (isinstance(call, Ending) and call.reason == ORPHANED):
                    self._effects.append(e.ToScheduler(message))
        if type(slot.state) is Idle and (slot.retiring or slot.worn):
            self._effects += self.table.retire(slot, now)

    def _finished(
        self, slot: SlotRecord, message: m.Done | m.Failed | m.Stopped, now: float, large: Mapping[bytes, int]
    ) -> None:
        """Report the outcome of a call, and free its slot."""
        if not isinstance(message, m.Stopped) and len(message.payload) != 1:
            check_outcome(message)
        call = slot.find(message.task, message.attempt)
        if call is None or isinstance(call, Ending):
            self._effects += [e.RemoveResult(blob) for blob in large]
        if call is None:
            return
        if isinstance(call, Ending):
            self._effects += report_stopped(call)  # even if the call got to its end first
        elif isinstance(message, m.Done) and large:
            self._effects += self.data.pass_on(message, large)
        else:
            self._effects.append(e.ToScheduler(message))
        slot.remove(call)
        if isinstance(slot.state, Ending):  # the interrupt has hit the call that ran on top of it
            slot.state = slot.state._replace(deadline=now + GRACE_SECONDS)
            self._effects.append(e.Interrupt(slot.number, slot.state.run.task, slot.state.run.attempt))

    def _call_over(
        self, message: m.CallDone | m.CallFailed, lease: Busy | Ending | None, large: Mapping[bytes, int]
    ) -> None:
        """Report the outcome of a call of a lease; the lease goes on."""
        if len(message.payload) != 1:
            check_outcome(message)
        if lease is None:
            self._effects += [e.RemoveResult(blob) for blob in large]
        elif isinstance(message, m.CallDone) and large:
            self._effects += self.data.pass_on(message, large)
        else:
            self._effects.append(e.ToScheduler(message))

    def _slot_exited(self, slot: SlotRecord, how: str, hint: str, now: float) -> None:
        """Report all calls that died with a slot, the outermost first, and replace the slot."""
        for call in slot.calls:
            if isinstance(call, Ending):
                self._effects += report_stopped(call)
            else:
                self._effects.append(e.ToScheduler(_death(slot, call, how, slot.verdict or hint)))
        self._effects += self.table.exited(slot, how, now)

    # --- time ---

    def _tick(self, now: float) -> None:
        """Kill, interrupt or give back whatever has run out of time; try again to start what is missing."""
        self._effects += self.table.try_again(now)
        for slot in self.slots.values():
            if slot.retired_by is not None and now >= slot.retired_by:
                self._effects += self.table.kill(slot)
            for call in slot.calls:
                if call.deadline is None or now < call.deadline:
                    continue
                if isinstance(call, Ending):
                    self._effects += self.table.kill(slot)
                else:
                    limit = f"it ran longer than its time limit of {call.run.timeout:g} seconds and was stopped"
                    self._interrupt(slot, call, m.Reason.TIMEOUT, limit, now)
        if self.queue and not self.table.starting:
            for entry in [entry for entry in self.queue if now >= entry[1] + m.GIVE_BACK_SECONDS]:
                self.queue.remove(entry)
                self._give_back(entry[0])


def _death(slot: SlotRecord, call: Busy, how: str, cause: str) -> m.Died | m.Stopped:
    """What is reported of a call that died with its slot: only the innermost one ran, and so has a death of its own."""
    task, attempt = call.run[:2]
    if call is slot.state:
        return m.Died(task, attempt, how, cause)
    names = f"{call.run.name!r} ended with {how} ({cause}) while task {slot.calls[-1].run.name!r}"
    text = f"the process of task {names}, which it waited for, ran there"
    return m.Stopped(task, attempt, m.GUEST_DIED, text)
