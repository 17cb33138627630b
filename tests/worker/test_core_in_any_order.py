"""The worker daemon's core under any order of events: nothing that it was given is lost, or told twice."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from minidask.errors import ProtocolError
from minidask.wire import messages as m
from minidask.worker import events as e
from minidask.worker.slots import Busy, Ending, Idle, Missing, SlotRecord, Starting, is_missing
from tests.rig import Rig, done, run

UNTOLD = (
    m.Waiting | m.Resumed | m.HaveBlob | m.FetchFailed | m.OfferResult | m.TaskMessage | m.CallDone | m.WantBlobs
)  # fmt: skip


class WorkerMachine(RuleBasedStateMachine):
    """Any order of events: every attempt that the worker was given is accounted for, once."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(2)
        self.tasks = 0
        self.owed: set[int] = set()
        self.slot_runs: dict[int, list[m.Run]] = {}  # what each slot runs, outermost first
        self.lent: set[int] = set()  # tasks that wait for others
        self.coming: set[bytes] = set()
        self.restarts: dict[int, list[SlotRecord]] = {}  # those that were there when it was asked for
        self.offered = 2
        self.gave_up = False
        self.wanting: dict[int, set[bytes]] = {}  # by slot, what the call of its lease waits for

    def do(self, event: e.Event) -> None:
        for effect in self.rig.do(event):
            if isinstance(effect, e.ToSlot) and isinstance(effect.message, m.Run):
                calls = self.slot_runs.setdefault(effect.slot, [])
                if effect.message.host:
                    assert calls[-1].task == effect.message.host and calls[-1].task in self.lent, "it is not lent"
                else:
                    assert not calls, "a slot got a second call"
                calls.append(effect.message)
            elif isinstance(effect, e.ToSlot) and isinstance(effect.message, m.PutBlob | m.BlobLost):
                self.wanting.get(effect.slot, set()).discard(effect.message.blob)
            elif isinstance(effect, e.ToSlot) and isinstance(effect.message, m.Yield):
                asked = [call for call in self.slot_runs[effect.slot] if call[:2] == effect.message[:2]]
                assert asked, "a slot was asked for what it does not have"
            elif isinstance(effect, e.Fetch):
                self.coming.add(effect.blob)
            elif isinstance(effect, e.Forget):
                self.coming.difference_update(effect.blobs)
            elif isinstance(effect, e.ToScheduler) and isinstance(effect.message, m.Restarted):
                old = self.restarts.pop(effect.message.request)
                assert not any(slot in self.rig.core.slots.values() for slot in old), "an old slot is still there"
                assert not self.live(Starting, Missing), "the fresh ones are not ready"
            elif isinstance(effect, e.ToScheduler) and isinstance(effect.message, m.Resized):
                self.offered = effect.message.slots
            elif isinstance(effect, e.GiveUp):
                self.gave_up = True
            elif isinstance(effect, e.ToScheduler) and not isinstance(effect.message, UNTOLD):
                message: Any = effect.message
                assert message.task in self.owed, f"{message} was told twice"
                self.owed.remove(message.task)

    def live(self, *kinds: type) -> list[int]:
        return [number for number, slot in self.rig.core.slots.items() if isinstance(slot.state, kinds)]

    @rule(timeout=st.none() | st.just(1.0), blob=st.none() | st.sampled_from([b"a", b"b"]))
    def scheduler_sends_a_call(self, timeout: float | None, blob: bytes | None) -> None:
        self._send(timeout, blob)

    def _send(self, timeout: float | None, blob: bytes | None, host: int = 0, lease: bool = False) -> None:
        self.tasks += 1
        self.owed.add(self.tasks)
        if blob is not None:
            self.do(e.FromScheduler(m.NeedBlob(blob, 1, "", [])))
        sent = run(self.tasks, timeout, () if blob is None else (blob,), host)
        self.do(e.FromScheduler(sent._replace(lease=lease)))

    @precondition(lambda self: self.slot_runs)
    @rule(data=st.data())
    def a_call_begins(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slot_runs)))
        if self.slot_runs[slot]:
            self.do(e.FromSlot(slot, m.Began(self.slot_runs[slot][-1].task, 1)))

    @rule(blob=st.none() | st.sampled_from([b"a", b"b"]))
    def scheduler_sends_a_lease(self, blob: bytes | None) -> None:
        self._send(None, blob, lease=True)

    @rule(task=st.integers(1, 20), after=st.sampled_from([0.0, 0.02]))
    def scheduler_asks_a_lease_back(self, task: int, after: float) -> None:
        before = len(self.rig.effects)
        running = [slot for slot, calls in self.slot_runs.items() if task in [call.task for call in calls]]
        self.do(e.FromScheduler(m.Yield(task, 1, after)))
        assert running == [
            effect.slot
            for effect in self.rig.effects[before:]
            if isinstance(effect, e.ToSlot) and effect.message == m.Yield(task, 1, after)
        ]

    @precondition(lambda self: self.slot_runs)
    @rule(blobs=st.sets(st.sampled_from([b"c", b"d"]), min_size=1), data=st.data())
    def a_call_of_a_lease_wants_blobs(self, blobs: set[bytes], data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slot_runs)))
        lease = self.slot_runs[slot][-1]
        if lease.lease and not self.wanting.get(slot):
            self.wanting[slot] = set(blobs)
            self.do(e.FromSlot(slot, m.WantBlobs(lease.task, 1, sorted(blobs))))

    @rule(blob=st.sampled_from([b"c", b"d"]), there=st.booleans())
    def a_blob_comes_for_a_call(self, blob: bytes, there: bool) -> None:
        self.do(e.FromScheduler(m.PutBlob(blob, [b"data"]) if there else m.BlobLost(blob, "nobody has it")))
        assert not [slot for slot, blobs in self.wanting.items() if blob in blobs], "a slot waits in vain"

    @precondition(lambda self: self.slot_runs)
    @rule(large=st.booleans(), data=st.data())
    def a_call_of_a_lease_returns(self, large: bool, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slot_runs)))
        lease = self.slot_runs[slot][-1]
        returned = m.CallDone(lease.task, 1, 99, 0.5, [b"result"])
        before = len(self.rig.effects)
        self.do(e.ResultLeft(slot, returned, {b"n" * 16: 1}) if large else e.FromSlot(slot, returned))
        assert e.ToScheduler(returned) in self.rig.effects[before:]

    @precondition(lambda self: self.coming)
    @rule(outcome=st.sampled_from(["here", "failed", "no room", "lost"]), data=st.data())
    def data_comes_or_does_not(self, outcome: str, data: st.DataObject) -> None:
        blob = data.draw(st.sampled_from(sorted(self.coming)))
        if outcome == "here":
            self.coming.discard(blob)
            self.do(e.BlobHere(blob))
        elif outcome == "failed":
            self.do(e.BlobFailed(blob, "", "gone"))
        else:
            self.do(e.NoRoom(blob, "full") if outcome == "no room" else e.FromScheduler(m.BlobLost(blob, "gone")))

    @rule(task=st.integers(1, 20))
    def scheduler_stops_a_call(self, task: int) -> None:
        self.do(e.FromScheduler(m.Stop(task, 1)))

    def ended(self, slot: int) -> int:
        """The task of the innermost call of a slot, which has come to its end."""
        task = self.slot_runs[slot].pop().task
        self.wanting.pop(slot, None)
        self.lent.discard(task)
        if not self.slot_runs[slot]:
            del self.slot_runs[slot]
        return task

    @precondition(lambda self: self.slot_runs)
    @rule(data=st.data())
    def a_call_waits(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slot_runs)))
        task = self.slot_runs[slot][-1].task
        if task not in self.lent:
            self.lent.add(task)
            self.do(e.FromSlot(slot, m.Waiting(task, 1)))

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def a_call_goes_on(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.lent)))
        slot, calls = next(item for item in self.slot_runs.items() if task in [call.task for call in item[1]])
        place = [call.task for call in calls].index(task)
        if place >= len(calls) - 2:  # what is on top of it may have crossed with its word
            self.lent -= {call.task for call in calls[place:]}
            del calls[place + 1 :]
            self.do(e.FromSlot(slot, m.Resumed(task, 1)))

    @precondition(lambda self: self.owed)
    @rule(blob=st.none() | st.sampled_from([b"a", b"b"]), data=st.data())
    def scheduler_sends_a_guest(self, blob: bytes | None, data: st.DataObject) -> None:
        host = data.draw(st.sampled_from(sorted(self.owed)))
        self._send(None, blob, host)

    @precondition(lambda self: self.slot_runs)
    @rule(data=st.data())
    def slot_replies(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slot_runs)))
        self.do(e.FromSlot(slot, done(self.ended(slot))))

    @precondition(lambda self: self.slot_runs)
    @rule(data=st.data())
    def slot_leaves_a_large_result(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slot_runs)))
        task = self.ended(slot)
        self.do(e.ResultLeft(slot, done(task), {task.to_bytes(16, "big"): 1}))

    @rule(task=st.integers(1, 20))
    def client_takes_a_result(self, task: int) -> None:
        self.do(e.FromScheduler(m.ResultTaken(task.to_bytes(16, "big"), 0)))

    @precondition(lambda self: self.live(Starting))
    @rule(data=st.data())
    def slot_gets_ready(self, data: st.DataObject) -> None:
        self.do(e.FromSlot(data.draw(st.sampled_from(self.live(Starting))), m.SlotReady()))

    @precondition(lambda self: self.live(Starting))
    @rule(dies=st.booleans(), data=st.data())
    def slot_cannot_be_started(self, dies: bool, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(self.live(Starting)))
        self.do(e.SlotExited(slot, "SIGKILL", "?") if dies else e.NotStarted(slot, "no processes"))

    @precondition(lambda self: self.live(Idle, Busy, Ending))
    @rule(data=st.data())
    def slot_dies(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(self.live(Idle, Busy, Ending)))
        self.lent -= {call.task for call in self.slot_runs.pop(slot, [])}
        self.wanting.pop(slot, None)
        self.do(e.SlotExited(slot, "SIGKILL", "?"))

    @precondition(lambda self: self.live(Idle, Busy, Ending))
    @rule(which=st.integers(0, 100), data=st.data())
    def slot_talks_nonsense(self, which: int, data: st.DataObject) -> None:
        """What a task's code may write to its slot's socket: stale, of nobody, or an error that ends the slot."""
        slot = data.draw(st.sampled_from(self.live(Idle, Busy, Ending)))
        task = self.slot_runs[slot][-1].task if slot in self.slot_runs else 99
        words: list[m.Message] = [
            m.SlotReady(),
            m.Done(task, 1, 0.1, []),
            m.Done(task, 1, 0.1, [b"pickle", b"short"]),
            m.Failed(task, 1, 0.1, "", [b"pickle", b"n" * 16 + b"w"]),
            m.Done(task, 2, 0.1, [b"stale"]),
            m.Failed(-1, -1, float("nan"), "", []),
            m.Waiting(-1, 1),
            m.Resumed(0, 0),
            m.Resized(-1),
            m.TaskMessage(-1, 1, "", []),
            m.Restarted(1),
            run(task),
        ]
        try:
            self.do(e.FromSlot(slot, words[which % len(words)]))
        except ProtocolError:
            self.lent -= {call.task for call in self.slot_runs.pop(slot, [])}
            self.wanting.pop(slot, None)
            self.do(e.SlotExited(slot, "SIGKILL", "it talked nonsense"))

    @rule(which=st.integers(0, 100))
    def scheduler_talks_nonsense(self, which: int) -> None:
        words: list[m.Message] = [
            m.Stop(-1, -1), m.ResultTaken(b"", -1), m.BlobLost(b"unheard of", ""), m.ReleaseBlobs([b"unheard of"]),
            m.Resumed(0, 0), m.Notice("text"), m.Ask(1), done(99),
        ]  # fmt: skip
        self.do(e.FromScheduler(words[which % len(words)]))

    @rule(seconds=st.sampled_from([0.01, 0.5, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.rig.now += seconds
        self.do(e.WorkerTick())

    @rule()
    def scheduler_wants_fresh_slots(self) -> None:
        self.tasks += 1
        ready = [slot for slot in self.rig.core.slots.values() if not isinstance(slot.state, Starting | Missing)]
        self.restarts[self.tasks] = ready
        self.do(e.FromScheduler(m.Restart(self.tasks)))

    @precondition(lambda self: self.slot_runs)
    @rule(attempt=st.integers(1, 2), data=st.data())
    def a_call_tells_its_caller_something(self, attempt: int, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slot_runs)))
        told = m.TaskMessage(data.draw(st.sampled_from(self.slot_runs[slot])).task, attempt, "channel", [b"x"])
        before = len(self.rig.effects)
        self.do(e.FromSlot(slot, told))
        assert (e.ToScheduler(told) in self.rig.effects[before:]) == (attempt == 1)

    @rule(slots=st.integers(0, 3))
    def is_resized(self, slots: int) -> None:
        self.offered = slots  # the shell tells it, before it asks the core
        self.do(e.Resize(slots))

    @invariant()
    def what_can_be_used_is_offered(self) -> None:
        staying = [slot for slot in self.rig.core.slots.values() if not slot.retiring]
        if not self.gave_up:
            assert self.offered == sum(not is_missing(slot.state) for slot in staying)

    @invariant()
    def every_attempt_is_somewhere(self) -> None:
        core = self.rig.core
        waiting = {entry[0].task for entry in core.queue} | {call.task for call in core.data.held}
        in_slots = {call.run.task for slot in core.slots.values() for call in slot.calls}
        assert waiting | in_slots | core.data.deliveries.keys() == self.owed
        assert not waiting & in_slots

    @invariant()
    def whoever_waits_for_fresh_slots_is_told_in_the_end(self) -> None:
        core = self.rig.core
        assert core.table.restarts.keys() == self.restarts.keys()
        for worn in core.table.restarts.values():
            assert worn or self.live(Starting, Missing)
        for slot in core.slots.values():
            if slot.worn and type(slot.state) is Idle:
                assert slot.retiring and slot.retired_by is not None, "an idle slot is kept that is to be replaced"

    @invariant()
    def a_call_waits_only_for_what_is_on_its_way(self) -> None:
        core = self.rig.core
        assert all(not core.data.wanted.isdisjoint(call.blobs) for call in core.data.held)
        assert core.data.wanted == self.coming

    @invariant()
    def nothing_waits_where_nothing_is_to_run(self) -> None:
        core = self.rig.core
        if all(slot.retiring for slot in core.slots.values()):
            assert not core.queue
            hosts = {slot.state.run.task for slot in core.slots.values() if isinstance(slot.state, Busy)}
            assert all(call.host in hosts for call in core.data.held)

    @invariant()
    def what_a_call_waits_for_is_known(self) -> None:
        for slot, blobs in self.wanting.items():
            for blob in blobs:
                assert slot in self.rig.core.data.awaited.get(blob, ()), "it is neither there nor awaited"

    @invariant()
    def no_slot_idles_beside_a_waiting_call(self) -> None:
        if self.rig.core.queue:
            assert not any(type(s.state) is Idle and not s.retiring for s in self.rig.core.slots.values())


WorkerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestWorker: Any = pytest.mark.timeout(240)(WorkerMachine.TestCase)
