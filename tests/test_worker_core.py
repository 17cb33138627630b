"""The worker daemon's core: slots, calls, stops and deaths, driven with a clock of the test's own."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from minidask.wire import messages as m
from minidask.worker import core as w
from minidask.worker.slots import Busy, Ending, Idle, SlotRecord, SlotState, Starting


class Rig:
    """A core with a clock, and what came out of it."""

    def __init__(self, slots: int = 1) -> None:
        self.core = w.WorkerCore()
        self.now = 0.0
        self.said: list[m.Message] = []
        self.effects: list[w.Effect] = []
        self.do(w.Resize(slots))
        for number in range(slots):
            self.do(w.FromSlot(number, m.SlotReady(100 + number)))
        self.effects.clear()

    def do(self, event: w.Event) -> list[w.Effect]:
        effects = self.core.handle(event, self.now)
        self.effects += effects
        self.said += [effect.message for effect in effects if isinstance(effect, w.ToScheduler)]
        return effects

    def run(self, task: int, timeout: float | None = None, blobs: tuple[bytes, ...] = ()) -> list[w.Effect]:
        return self.do(w.FromScheduler(run(task, timeout, blobs)))

    def pass_time(self, seconds: float) -> list[w.Effect]:
        self.now += seconds
        return self.do(w.Tick())


def run(task: int, timeout: float | None = None, blobs: tuple[bytes, ...] = (), host: int = 0) -> m.Run:
    return m.Run(task, 1, 7, "f", timeout, list(blobs), host, [b"call"])


def done(task: int) -> m.Done:
    return m.Done(task, 1, 0.5, [b"result"])


def test_a_call_goes_to_a_free_slot_and_its_outcome_back() -> None:
    rig = Rig()
    assert rig.run(1) == [w.ToSlot(0, run(1))]
    assert rig.do(w.FromSlot(0, done(1))) == [w.ToScheduler(done(1))]


def test_a_call_waits_for_a_slot_that_is_starting() -> None:
    rig = Rig(0)
    assert rig.do(w.Resize(1)) == [w.Spawn(0)]
    assert rig.run(1) == []
    assert rig.pass_time(10) == []
    assert rig.core.next_deadline() is None
    assert rig.do(w.FromSlot(0, m.SlotReady(5))) == [w.ToSlot(0, run(1))]


def test_what_waits_too_long_behind_others_is_returned() -> None:
    rig = Rig()
    rig.run(1)
    rig.run(2)
    assert rig.core.next_deadline() == w.RETURN_SECONDS
    assert rig.pass_time(w.RETURN_SECONDS) == [w.ToScheduler(m.Returned(2, 1))]


def test_the_first_call_of_another_client_is_next() -> None:
    rig = Rig()
    for task in range(1, 5):
        rig.run(task)
    rig.do(w.FromScheduler(run(5)._replace(client=8)))
    rig.do(w.FromScheduler(run(6)._replace(client=8)))
    order = [rig.do(w.FromSlot(0, done(task)))[1] for task in (1, 5, 2)]
    assert [effect.message.task for effect in order if isinstance(effect, w.ToSlot)] == [5, 2, 3]  # type: ignore[union-attr]


def test_what_waits_when_the_worker_drains_goes_back_at_once_and_what_runs_goes_on() -> None:
    rig = Rig(2)
    rig.do(w.FromScheduler(NEED))
    for task in range(1, 4):
        rig.run(task)
    rig.run(4, blobs=(b"blob",))
    assert rig.do(w.Resize(0)) == [w.ToScheduler(m.Returned(3, 1)), w.ToScheduler(m.Returned(4, 1))]
    assert rig.run(5) == [w.ToScheduler(m.Returned(5, 1))], "it was on its way"
    assert rig.do(w.FromSlot(0, done(1))) == [w.ToScheduler(done(1)), w.Retire(0)]
    rig.do(w.SlotExited(0, "exit code 0", "?"))
    assert not rig.core.drained
    rig.do(w.ResultLeft(1, done(2), {PART: 100}))
    rig.do(w.SlotExited(1, "exit code 0", "?"))
    assert not rig.core.drained, "the client has not got the result yet"
    assert rig.run(6) == [w.ToScheduler(m.Returned(6, 1))]
    assert rig.do(w.FromScheduler(m.ResultTaken(PART, 0))) == [w.RemoveResult(PART), w.ToScheduler(done(2))]
    assert rig.core.drained


def test_what_a_task_waits_for_stays_where_the_worker_drains() -> None:
    rig = Rig()
    rig.run(1)
    rig.do(w.FromSlot(0, m.Waiting(1, 1)))
    rig.do(w.FromScheduler(NEED))
    guest = run(2, blobs=(b"blob",), host=1)
    rig.do(w.FromScheduler(guest))
    assert rig.do(w.Resize(0)) == [], "it would come back at once, and again"
    put = m.PutBlob(b"blob", [])
    assert rig.do(w.BlobHere(b"blob"))[-2:] == [w.ToSlot(0, put), w.ToSlot(0, guest)]


def test_a_blob_goes_to_a_slot_once_and_before_its_call() -> None:
    rig = Rig()
    put = m.PutBlob(b"blob", [b"data"])
    rig.do(w.FromScheduler(put))
    assert rig.run(1, blobs=(b"blob",)) == [w.ToSlot(0, put), w.ToSlot(0, run(1, blobs=(b"blob",)))]
    rig.do(w.FromSlot(0, done(1)))
    assert rig.run(2, blobs=(b"blob",)) == [w.ToSlot(0, run(2, blobs=(b"blob",)))]
    released = m.ReleaseBlobs([b"blob"])
    assert rig.do(w.FromScheduler(released)) == [w.ToSlot(0, released), w.Forget([b"blob"])]


NEED = m.NeedBlob(b"blob", 1 << 20, "tcp://w:1", [])


def test_a_call_waits_for_its_large_data_and_others_do_not() -> None:
    rig = Rig(2)
    assert rig.do(w.FromScheduler(NEED)) == [w.Fetch(*NEED)]
    assert rig.run(1, blobs=(b"blob",)) == []
    assert rig.run(2) == [w.ToSlot(0, run(2))]
    assert rig.pass_time(10) == []  # it is not stuck: nobody is to have it back
    assert rig.do(w.BlobHere(b"blob")) == [
        w.ToScheduler(m.HaveBlob(b"blob")),
        w.ToSlot(1, m.PutBlob(b"blob", [])),
        w.ToSlot(1, run(1, blobs=(b"blob",))),
    ]


def test_data_that_fails_to_come_is_asked_for_elsewhere_until_there_is_nowhere_left() -> None:
    rig = Rig()
    rig.do(w.FromScheduler(NEED))
    rig.run(1, blobs=(b"blob",))
    assert rig.do(w.BlobFailed(b"blob", "tcp://w:1", "gone")) == [
        w.ToScheduler(m.FetchFailed(b"blob", "tcp://w:1", "gone"))
    ]
    again = NEED._replace(source="")
    assert rig.do(w.FromScheduler(again)) == [w.Fetch(*again)]
    assert rig.do(w.FromScheduler(m.BlobLost(b"blob", "gone too"))) == [
        w.Forget([b"blob"]),
        w.ToScheduler(m.Stopped(1, 1, "no-data", "gone too")),
    ]


def test_a_call_that_waits_for_data_can_be_stopped_and_its_data_forgotten() -> None:
    rig = Rig()
    rig.do(w.FromScheduler(NEED))
    rig.run(1, blobs=(b"blob",))
    stopped = m.Stopped(1, 1, "cancelled", "it was cancelled")
    assert rig.do(w.FromScheduler(m.Stop(1, 1))) == [w.ToScheduler(stopped)]
    assert rig.do(w.FromScheduler(m.ReleaseBlobs([b"blob"]))) == [w.Forget([b"blob"])]
    assert rig.do(w.BlobHere(b"blob")) == []


PART = b"p" * 16


def test_a_result_is_told_when_the_client_has_its_large_parts() -> None:
    rig = Rig()
    rig.run(1)
    rig.run(2)
    assert rig.do(w.ResultLeft(0, done(1), {PART: 100, b"q" * 16: 200})) == [
        w.ToScheduler(m.OfferResult(1, 1, PART, 100)),
        w.ToScheduler(m.OfferResult(1, 1, b"q" * 16, 200)),
        w.ToSlot(0, run(2)),
    ]
    assert rig.do(w.FromScheduler(m.ResultTaken(PART, 0))) == [w.RemoveResult(PART)]
    assert rig.do(w.FromScheduler(m.ResultTaken(b"q" * 16, 0))) == [
        w.RemoveResult(b"q" * 16),
        w.ToScheduler(done(1)),
    ]


def test_a_result_that_nobody_wants_is_removed() -> None:
    rig = Rig()
    rig.run(1)
    rig.do(w.ResultLeft(0, done(1), {PART: 100}))
    stopped = m.Stopped(1, 1, "cancelled", "it was cancelled")
    assert rig.do(w.FromScheduler(m.Stop(1, 1))) == [w.RemoveResult(PART), w.ToScheduler(stopped)]
    rig.run(2)
    rig.do(w.ResultLeft(0, done(2), {PART: 100}))
    assert rig.do(w.SchedulerGone()) == [w.RemoveResult(PART)]


def test_a_death_is_told_with_its_attempt_and_the_slot_replaced() -> None:
    rig = Rig()
    rig.run(1)
    assert rig.do(w.SlotExited(0, "SIGSEGV", "a crash")) == [
        w.ToScheduler(m.Died(1, 1, "SIGSEGV", "a crash")),
        w.Spawn(0),
    ]


def test_an_idle_slot_that_dies_is_nobodys_fault() -> None:
    rig = Rig()
    assert rig.do(w.SlotExited(0, "SIGKILL", "?")) == [w.Spawn(0)]


def test_stopping_interrupts_first_and_kills_after_the_grace() -> None:
    rig = Rig()
    rig.run(1)
    assert rig.do(w.FromScheduler(m.Stop(1, 1))) == [w.Interrupt(0, 1, 1)]
    assert rig.pass_time(w.GRACE_SECONDS / 2) == []
    assert rig.pass_time(w.GRACE_SECONDS) == [w.Kill(0)]
    assert rig.core.next_deadline() is None
    assert rig.do(w.SlotExited(0, "SIGKILL", "?")) == [
        w.ToScheduler(m.Stopped(1, 1, "cancelled", "it was cancelled")),
        w.Spawn(0),
    ]


def test_a_call_that_heeds_the_interrupt_keeps_its_slot() -> None:
    rig = Rig()
    rig.run(1)
    rig.do(w.FromScheduler(m.Stop(1, 1)))
    rig.do(w.FromSlot(0, m.Failed(1, 1, 0.1, "KeyboardInterrupt", [])))
    assert rig.said == [m.Stopped(1, 1, "cancelled", "it was cancelled")]
    assert rig.run(2) == [w.ToSlot(0, run(2))]


def test_a_stop_of_what_waits_and_of_what_is_unknown() -> None:
    rig = Rig()
    rig.run(1)
    rig.run(2)
    rig.do(w.FromScheduler(m.Stop(2, 1)))
    assert rig.said == [m.Stopped(2, 1, "cancelled", "it was cancelled")]
    assert rig.do(w.FromScheduler(m.Stop(9, 1))) == []
    assert rig.do(w.FromScheduler(m.Stop(1, 2))) == []


def test_the_time_limit_counts_from_the_start_of_the_call() -> None:
    rig = Rig()
    rig.run(1, timeout=2.0)
    assert rig.core.next_deadline() == 2.0
    assert rig.pass_time(1.9) == []
    assert rig.pass_time(0.1) == [w.Interrupt(0, 1, 1)]
    rig.do(w.FromSlot(0, m.Failed(1, 1, 2.0, "KeyboardInterrupt", [])))
    (told,) = rig.said
    assert isinstance(told, m.Stopped)
    assert told.reason == "timeout"


def test_a_slot_over_its_memory_is_killed_and_the_figures_are_told() -> None:
    rig = Rig()
    rig.run(1)
    assert rig.do(w.OverMemory(0, "it used 9 GiB")) == [w.Kill(0)]
    assert rig.do(w.OverMemory(0, "it used 10 GiB")) == []
    rig.do(w.SlotExited(0, "SIGKILL", "the kernel?"))
    assert rig.said == [m.Died(1, 1, "SIGKILL", "it used 9 GiB")]


def test_slots_that_never_get_ready_end_the_worker() -> None:
    rig = Rig(0)
    rig.do(w.Resize(1))
    for _ in range(w.MAX_FAILED_STARTS - 1):
        assert rig.do(w.SlotExited(0, "exit code 1", "?")) == [w.Spawn(0)]
    (effect,) = rig.do(w.SlotExited(0, "exit code 1", "?"))
    assert isinstance(effect, w.GiveUp)


def test_scaling_down_spares_running_calls() -> None:
    rig = Rig(2)
    rig.run(1)
    assert rig.do(w.Resize(1)) == [w.Retire(1)]
    assert rig.do(w.SlotExited(1, "exit code 0", "?")) == []
    assert rig.do(w.Resize(2)) == [w.Spawn(1)]


def test_scaling_down_ends_a_busy_slot_after_its_call() -> None:
    rig = Rig(1)
    rig.run(1)
    assert rig.do(w.Resize(0)) == []
    assert rig.do(w.FromSlot(0, done(1))) == [w.ToScheduler(done(1)), w.Retire(0)]


def test_when_the_scheduler_is_gone_its_calls_end_untold() -> None:
    rig = Rig(2)
    rig.run(1)
    rig.run(2)
    rig.run(3)
    assert set(rig.do(w.SchedulerGone())) == {w.Interrupt(0, 1, 1), w.Interrupt(1, 2, 1)}
    rig.do(w.FromSlot(0, done(1)))
    rig.do(w.SlotExited(1, "SIGKILL", "?"))
    assert rig.said == []
    assert not rig.core.queue


def lent(rig: Rig, host: int) -> None:
    """Have the call that runs wait for calls of its own."""
    assert rig.do(w.FromSlot(0, m.Waiting(host, 1))) == [w.ToScheduler(m.Waiting(host, 1))]


def test_a_call_that_waits_lends_its_slot() -> None:
    rig = Rig()
    rig.run(1)
    lent(rig, 1)
    guest = run(2, host=1)
    assert rig.do(w.FromScheduler(guest)) == [w.ToSlot(0, guest)]
    lent(rig, 2)
    deeper = run(3, host=2)
    assert rig.do(w.FromScheduler(deeper)) == [w.ToSlot(0, deeper)]
    assert rig.core.running(0) == deeper
    for task in (3, 2, 1):
        assert rig.do(w.FromSlot(0, done(task))) == [w.ToScheduler(done(task))]
    assert rig.run(4) == [w.ToSlot(0, run(4))]


def test_what_comes_for_a_call_that_waits_no_more_goes_back() -> None:
    rig = Rig()
    rig.run(1)
    returned = m.Returned(2, 1)
    assert rig.do(w.FromScheduler(run(2, host=1))) == [w.ToScheduler(returned)]
    lent(rig, 1)
    resumed = m.Resumed(1, 1)
    assert rig.do(w.FromSlot(0, resumed)) == [w.ToScheduler(resumed), w.ToSlot(0, resumed)]
    assert rig.do(w.FromScheduler(run(2, host=1))) == [w.ToScheduler(returned)]


def test_what_crosses_with_the_word_that_a_call_goes_on_goes_back() -> None:
    rig = Rig()
    rig.run(1)
    lent(rig, 1)
    rig.do(w.FromScheduler(run(2, host=1)))
    resumed = m.Resumed(1, 1)
    told = [w.ToScheduler(resumed), w.ToScheduler(m.Returned(2, 1)), w.ToSlot(0, resumed)]
    assert rig.do(w.FromSlot(0, resumed)) == told
    assert rig.do(w.FromSlot(0, done(1))) == [w.ToScheduler(done(1))]


def test_a_slot_that_dies_takes_all_its_calls_with_it() -> None:
    rig = Rig()
    rig.run(1)
    lent(rig, 1)
    rig.do(w.FromScheduler(run(2, host=1)))
    rig.said.clear()
    rig.do(w.SlotExited(0, "SIGSEGV", "a crash"))
    inner, outer = rig.said
    assert inner == m.Died(2, 1, "SIGSEGV", "a crash")
    assert isinstance(outer, m.Died) and outer.task == 1 and "a crash; what it waited for" in outer.hint


def test_stopping_a_call_stops_what_runs_on_top_of_it_first() -> None:
    rig = Rig()
    rig.run(1)
    lent(rig, 1)
    rig.do(w.FromScheduler(run(2, host=1)))
    assert rig.do(w.FromScheduler(m.Stop(1, 1))) == [w.Interrupt(0, 1, 1)]
    failed = m.Failed(2, 1, 0.1, "KeyboardInterrupt", [])
    assert rig.do(w.FromSlot(0, failed)) == [w.ToScheduler(failed), w.Interrupt(0, 1, 1)]
    rig.said.clear()
    rig.do(w.FromSlot(0, m.Failed(1, 1, 0.1, "KeyboardInterrupt", [])))
    assert rig.said == [m.Stopped(1, 1, "cancelled", "it was cancelled")]


def test_stopping_what_runs_on_top_leaves_the_call_below_alone() -> None:
    rig = Rig()
    rig.run(1)
    lent(rig, 1)
    rig.do(w.FromScheduler(run(2, host=1)))
    assert rig.do(w.FromScheduler(m.Stop(2, 1))) == [w.Interrupt(0, 2, 1)]
    stopped = m.Stopped(2, 1, "cancelled", "it was cancelled")
    assert rig.do(w.FromSlot(0, m.Failed(2, 1, 0.1, "", []))) == [w.ToScheduler(stopped)]
    assert rig.do(w.FromScheduler(run(3, host=1))) == [w.ToSlot(0, run(3, host=1))]


def test_the_time_limit_of_a_call_holds_while_it_waits() -> None:
    rig = Rig()
    rig.run(1, timeout=2.0)
    lent(rig, 1)
    rig.do(w.FromScheduler(run(2, host=1)))
    assert rig.pass_time(2.0) == [w.Interrupt(0, 1, 1)]


def test_the_outermost_call_may_end_while_another_thread_of_it_helps() -> None:
    rig = Rig()
    rig.run(1)
    lent(rig, 1)
    rig.do(w.FromScheduler(run(2, host=1)))
    assert rig.do(w.FromSlot(0, done(1))) == [w.ToScheduler(done(1))]
    assert rig.run(3) == []  # the slot still runs something
    assert rig.do(w.FromSlot(0, done(2))) == [w.ToScheduler(done(2)), w.ToSlot(0, run(3))]


UNTOLD = m.Waiting | m.Resumed | m.HaveBlob | m.FetchFailed | m.OfferResult


class WorkerMachine(RuleBasedStateMachine):
    """Any order of events: every attempt that the worker was given is accounted for, once."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(2)
        self.tasks = 0
        self.owed: set[int] = set()
        self.read = 0
        self.slot_runs: dict[int, list[m.Run]] = {}  # what each slot runs, outermost first
        self.lent: set[int] = set()  # tasks that wait for others
        self.coming: set[bytes] = set()

    def do(self, event: w.Event) -> None:
        for effect in self.rig.do(event):
            if isinstance(effect, w.ToSlot) and isinstance(effect.message, m.Run):
                calls = self.slot_runs.setdefault(effect.slot, [])
                if effect.message.host:
                    assert calls[-1].task == effect.message.host and calls[-1].task in self.lent, "it is not lent"
                else:
                    assert not calls, "a slot got a second call"
                calls.append(effect.message)
            elif isinstance(effect, w.Fetch):
                self.coming.add(effect.blob)
            elif isinstance(effect, w.Forget):
                self.coming.difference_update(effect.blobs)
            elif isinstance(effect, w.ToScheduler) and not isinstance(effect.message, UNTOLD):
                message: Any = effect.message
                assert message.task in self.owed, f"{message} was told twice"
                self.owed.remove(message.task)

    def live(self, *kinds: type) -> list[int]:
        return [number for number, slot in self.rig.core.slots.items() if isinstance(slot.state, kinds)]

    @rule(timeout=st.none() | st.just(1.0), blob=st.none() | st.sampled_from([b"a", b"b"]))
    def scheduler_sends_a_call(self, timeout: float | None, blob: bytes | None) -> None:
        self.tasks += 1
        self.owed.add(self.tasks)
        if blob is not None:
            self.do(w.FromScheduler(m.NeedBlob(blob, 1, "", [])))
        self.do(w.FromScheduler(run(self.tasks, timeout, () if blob is None else (blob,))))

    @precondition(lambda self: self.coming)
    @rule(outcome=st.sampled_from(["here", "failed", "no room", "lost"]), data=st.data())
    def data_comes_or_does_not(self, outcome: str, data: st.DataObject) -> None:
        blob = data.draw(st.sampled_from(sorted(self.coming)))
        if outcome == "here":
            self.coming.discard(blob)
            self.do(w.BlobHere(blob))
        elif outcome == "failed":
            self.do(w.BlobFailed(blob, "", "gone"))
        else:
            self.do(w.NoRoom(blob, "full") if outcome == "no room" else w.FromScheduler(m.BlobLost(blob, "gone")))

    @rule(task=st.integers(1, 20))
    def scheduler_stops_a_call(self, task: int) -> None:
        self.do(w.FromScheduler(m.Stop(task, 1)))

    def ended(self, slot: int) -> int:
        """The task of the innermost call of a slot, which has come to its end."""
        task = self.slot_runs[slot].pop().task
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
            self.do(w.FromSlot(slot, m.Waiting(task, 1)))

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def a_call_goes_on(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.lent)))
        slot, calls = next(item for item in self.slot_runs.items() if task in [call.task for call in item[1]])
        place = [call.task for call in calls].index(task)
        if place >= len(calls) - 2:  # what is on top of it may have crossed with its word
            self.lent -= {call.task for call in calls[place:]}
            del calls[place + 1 :]
            self.do(w.FromSlot(slot, m.Resumed(task, 1)))

    @precondition(lambda self: self.owed)
    @rule(data=st.data())
    def scheduler_sends_a_guest(self, data: st.DataObject) -> None:
        host = data.draw(st.sampled_from(sorted(self.owed)))
        self.tasks += 1
        self.owed.add(self.tasks)
        self.do(w.FromScheduler(run(self.tasks, None, (), host)))

    @precondition(lambda self: self.slot_runs)
    @rule(data=st.data())
    def slot_replies(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slot_runs)))
        self.do(w.FromSlot(slot, done(self.ended(slot))))

    @precondition(lambda self: self.slot_runs)
    @rule(data=st.data())
    def slot_leaves_a_large_result(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slot_runs)))
        task = self.ended(slot)
        self.do(w.ResultLeft(slot, done(task), {task.to_bytes(16, "big"): 1}))

    @rule(task=st.integers(1, 20))
    def client_takes_a_result(self, task: int) -> None:
        self.do(w.FromScheduler(m.ResultTaken(task.to_bytes(16, "big"), 0)))

    @precondition(lambda self: self.live(Starting))
    @rule(data=st.data())
    def slot_gets_ready(self, data: st.DataObject) -> None:
        self.do(w.FromSlot(data.draw(st.sampled_from(self.live(Starting))), m.SlotReady(1)))

    @precondition(lambda self: self.live(Idle, Busy, Ending))
    @rule(data=st.data())
    def slot_dies(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(self.live(Idle, Busy, Ending)))
        self.lent -= {call.task for call in self.slot_runs.pop(slot, [])}
        self.do(w.SlotExited(slot, "SIGKILL", "?"))

    @rule(seconds=st.sampled_from([0.01, 0.5, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.rig.now += seconds
        self.do(w.Tick())

    @rule(slots=st.integers(0, 3))
    def is_resized(self, slots: int) -> None:
        self.do(w.Resize(slots))

    @invariant()
    def every_attempt_is_somewhere(self) -> None:
        core = self.rig.core
        waiting = {entry[0].task for entry in core.queue} | {call.task for call in core.held}
        in_slots = {call.run.task for slot in core.slots.values() for call in slot.calls}
        assert waiting | in_slots | core.deliveries.keys() == self.owed
        assert not waiting & in_slots

    @invariant()
    def a_call_waits_only_for_what_is_on_its_way(self) -> None:
        core = self.rig.core
        assert all(not core.wanted.isdisjoint(call.blobs) for call in core.held)
        assert core.wanted == self.coming

    @invariant()
    def nothing_waits_where_nothing_is_to_run(self) -> None:
        core = self.rig.core
        if all(slot.retiring for slot in core.slots.values()):
            assert not core.queue
            running = {call.run.task for slot in core.slots.values() for call in slot.calls}
            assert all(call.host in running for call in core.held)

    @invariant()
    def no_slot_idles_beside_a_waiting_call(self) -> None:
        if self.rig.core.queue:
            assert not any(type(s.state) is Idle and not s.retiring for s in self.rig.core.slots.values())


WorkerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestWorker = WorkerMachine.TestCase


@pytest.mark.parametrize("state", [Starting(), Idle()])
def test_a_slot_without_a_call_runs_nothing(state: SlotState) -> None:
    core = w.WorkerCore()
    core.slots[0] = SlotRecord(0, state)
    assert core.running(0) is None
    assert core.running(1) is None
