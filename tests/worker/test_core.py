"""The worker daemon's core: slots, calls, stops and deaths, driven with a clock of the test's own."""

from __future__ import annotations

import pytest

from minidask.wire import messages as m
from minidask.worker import core as w
from minidask.worker import events as e
from minidask.worker.slots import (
    FIRST_PAUSE_SECONDS,
    GIVE_UP_SECONDS,
    LAST_PAUSE_SECONDS,
    MAX_FAILED_STARTS,
    Idle,
    SlotRecord,
    SlotState,
    Starting,
)
from tests.rig import Rig, done, run


def test_a_call_goes_to_a_free_slot_and_its_outcome_back() -> None:
    rig = Rig()
    assert rig.run(1) == [e.ToSlot(0, run(1))]
    assert rig.do(e.FromSlot(0, done(1))) == [e.ToScheduler(done(1))]


def test_a_call_waits_for_a_slot_that_is_starting() -> None:
    rig = Rig(0)
    assert rig.do(e.Resize(1)) == [e.Spawn(0)]
    assert rig.run(1) == []
    assert rig.pass_time(10) == []
    assert rig.core.next_deadline() is None
    assert rig.do(e.FromSlot(0, m.SlotReady())) == [e.ToSlot(0, run(1))]


def test_what_waits_too_long_behind_others_is_returned() -> None:
    rig = Rig()
    rig.run(1)
    rig.run(2)
    assert rig.core.next_deadline() == m.GIVE_BACK_SECONDS
    assert rig.pass_time(m.GIVE_BACK_SECONDS) == [e.ToScheduler(m.GaveBack(2, 1))]


def test_the_first_call_of_another_client_is_next() -> None:
    rig = Rig()
    for task in range(1, 5):
        rig.run(task)
    rig.do(e.FromScheduler(run(5)._replace(client=8)))
    rig.do(e.FromScheduler(run(6)._replace(client=8)))
    order = [rig.do(e.FromSlot(0, done(task)))[1] for task in (1, 5, 2)]
    assert [effect.message.task for effect in order if isinstance(effect, e.ToSlot)] == [5, 2, 3]  # type: ignore[union-attr]


def test_what_waits_when_the_worker_drains_goes_back_at_once_and_what_runs_goes_on() -> None:
    rig = Rig(2)
    rig.do(e.FromScheduler(NEED))
    for task in range(1, 4):
        rig.run(task)
    rig.run(4, blobs=(b"blob",))
    assert rig.do(e.Resize(0)) == [e.ToScheduler(m.GaveBack(3, 1)), e.ToScheduler(m.GaveBack(4, 1))]
    assert rig.run(5) == [e.ToScheduler(m.GaveBack(5, 1))], "it was on its way"
    assert rig.do(e.FromSlot(0, done(1))) == [e.ToScheduler(done(1)), e.Retire(0)]
    rig.do(e.SlotExited(0, "exit code 0", "?"))
    assert not rig.core.drained
    rig.do(e.ResultLeft(1, done(2), {PART: 100}))
    rig.do(e.SlotExited(1, "exit code 0", "?"))
    assert not rig.core.drained, "the client has not got the result yet"
    assert rig.run(6) == [e.ToScheduler(m.GaveBack(6, 1))]
    assert rig.do(e.FromScheduler(m.ResultTaken(PART, 0))) == [e.RemoveResult(PART), e.ToScheduler(done(2))]
    assert rig.core.drained


def test_what_a_task_waits_for_stays_where_the_worker_drains() -> None:
    rig = Rig()
    rig.run(1)
    rig.do(e.FromSlot(0, m.Waiting(1, 1)))
    rig.do(e.FromScheduler(NEED))
    guest = run(2, blobs=(b"blob",), host=1)
    rig.do(e.FromScheduler(guest))
    assert rig.do(e.Resize(0)) == [], "it would come back at once, and again"
    put = m.PutBlob(b"blob", [])
    assert rig.do(e.BlobHere(b"blob"))[-2:] == [e.ToSlot(0, put), e.ToSlot(0, guest)]


def test_a_blob_goes_to_a_slot_once_and_before_its_call() -> None:
    rig = Rig()
    put = m.PutBlob(b"blob", [b"data"])
    rig.do(e.FromScheduler(put))
    assert rig.run(1, blobs=(b"blob",)) == [e.ToSlot(0, put), e.ToSlot(0, run(1, blobs=(b"blob",)))]
    rig.do(e.FromSlot(0, done(1)))
    assert rig.run(2, blobs=(b"blob",)) == [e.ToSlot(0, run(2, blobs=(b"blob",)))]
    released = m.ReleaseBlobs([b"blob"])
    assert rig.do(e.FromScheduler(released)) == [e.ToSlot(0, released), e.Forget([b"blob"])]


NEED = m.NeedBlob(b"blob", 1 << 20, "tcp://w:1", [])


def test_a_call_waits_for_its_large_data_and_others_do_not() -> None:
    rig = Rig(2)
    assert rig.do(e.FromScheduler(NEED)) == [e.Fetch(*NEED)]
    assert rig.run(1, blobs=(b"blob",)) == []
    assert rig.run(2) == [e.ToSlot(0, run(2))]
    assert rig.pass_time(10) == []  # it is not stuck: nobody is to have it back
    assert rig.do(e.BlobHere(b"blob")) == [
        e.ToScheduler(m.HaveBlob(b"blob")),
        e.ToSlot(1, m.PutBlob(b"blob", [])),
        e.ToSlot(1, run(1, blobs=(b"blob",))),
    ]


def test_data_that_fails_to_come_is_asked_for_elsewhere_until_there_is_nowhere_left() -> None:
    rig = Rig()
    rig.do(e.FromScheduler(NEED))
    rig.run(1, blobs=(b"blob",))
    assert rig.do(e.BlobFailed(b"blob", "tcp://w:1", "gone")) == [
        e.ToScheduler(m.FetchFailed(b"blob", "tcp://w:1", "gone"))
    ]
    again = NEED._replace(source="")
    assert rig.do(e.FromScheduler(again)) == [e.Fetch(*again)]
    assert rig.do(e.FromScheduler(m.BlobLost(b"blob", "gone too"))) == [
        e.Forget([b"blob"]),
        e.ToScheduler(m.Stopped(1, 1, "no-data", "gone too")),
    ]


def test_a_call_that_waits_for_data_can_be_stopped_and_its_data_forgotten() -> None:
    rig = Rig()
    rig.do(e.FromScheduler(NEED))
    rig.run(1, blobs=(b"blob",))
    stopped = m.Stopped(1, 1, "cancelled", "it was cancelled")
    assert rig.do(e.FromScheduler(m.Stop(1, 1))) == [e.ToScheduler(stopped)]
    assert rig.do(e.FromScheduler(m.ReleaseBlobs([b"blob"]))) == [e.Forget([b"blob"])]
    assert rig.do(e.BlobHere(b"blob")) == []


PART = b"p" * 16
BLOB, OTHER = b"b" * 16, b"o" * 16


def test_a_result_is_told_when_the_client_has_its_large_parts() -> None:
    rig = Rig()
    rig.run(1)
    rig.run(2)
    assert rig.do(e.ResultLeft(0, done(1), {PART: 100, b"q" * 16: 200})) == [
        e.ToScheduler(m.OfferResult(1, 1, PART, 100)),
        e.ToScheduler(m.OfferResult(1, 1, b"q" * 16, 200)),
        e.ToSlot(0, run(2)),
    ]
    assert rig.do(e.FromScheduler(m.ResultTaken(PART, 0))) == [e.RemoveResult(PART)]
    assert rig.do(e.FromScheduler(m.ResultTaken(b"q" * 16, 0))) == [
        e.RemoveResult(b"q" * 16),
        e.ToScheduler(done(1)),
    ]


def test_a_result_that_nobody_wants_is_removed() -> None:
    rig = Rig()
    rig.run(1)
    rig.do(e.ResultLeft(0, done(1), {PART: 100}))
    stopped = m.Stopped(1, 1, "cancelled", "it was cancelled")
    assert rig.do(e.FromScheduler(m.Stop(1, 1))) == [e.RemoveResult(PART), e.ToScheduler(stopped)]
    rig.run(2)
    rig.do(e.ResultLeft(0, done(2), {PART: 100}))
    assert rig.do(e.SchedulerGone()) == [e.RemoveResult(PART)]


def test_a_death_is_told_with_its_attempt_and_the_slot_replaced() -> None:
    rig = Rig()
    rig.run(1)
    assert rig.do(e.SlotExited(0, "SIGSEGV", "a crash")) == [
        e.ToScheduler(m.Died(1, 1, "SIGSEGV", "a crash")),
        e.Spawn(0),
    ]


def test_an_idle_slot_that_dies_is_nobodys_fault() -> None:
    rig = Rig()
    assert rig.do(e.SlotExited(0, "SIGKILL", "?")) == [e.Spawn(0)]


def test_stopping_interrupts_first_and_kills_after_the_grace() -> None:
    rig = Rig()
    rig.run(1)
    assert rig.do(e.FromScheduler(m.Stop(1, 1))) == [e.Interrupt(0, 1, 1)]
    assert rig.pass_time(w.GRACE_SECONDS / 2) == []
    assert rig.pass_time(w.GRACE_SECONDS) == [e.Kill(0)]
    assert rig.core.next_deadline() is None
    assert rig.do(e.SlotExited(0, "SIGKILL", "?")) == [
        e.ToScheduler(m.Stopped(1, 1, "cancelled", "it was cancelled")),
        e.Spawn(0),
    ]


def test_a_call_that_heeds_the_interrupt_keeps_its_slot() -> None:
    rig = Rig()
    rig.run(1)
    rig.do(e.FromScheduler(m.Stop(1, 1)))
    rig.do(e.FromSlot(0, m.Failed(1, 1, 0.1, "KeyboardInterrupt", [])))
    assert rig.said == [m.Stopped(1, 1, "cancelled", "it was cancelled")]
    assert rig.run(2) == [e.ToSlot(0, run(2))]


def test_a_stop_of_what_waits_and_of_what_is_unknown() -> None:
    rig = Rig()
    rig.run(1)
    rig.run(2)
    rig.do(e.FromScheduler(m.Stop(2, 1)))
    assert rig.said == [m.Stopped(2, 1, "cancelled", "it was cancelled")]
    assert rig.do(e.FromScheduler(m.Stop(9, 1))) == []
    assert rig.do(e.FromScheduler(m.Stop(1, 2))) == []


def test_the_time_limit_counts_from_the_start_of_the_call() -> None:
    rig = Rig()
    rig.run(1, timeout=2.0)
    assert rig.pass_time(w.LOADING_SECONDS - 1) == []
    assert rig.do(e.FromSlot(0, m.Began(1, 1))) == []
    assert rig.core.next_deadline() == w.LOADING_SECONDS + 1
    assert rig.pass_time(1.9) == []
    assert rig.pass_time(0.1) == [e.Interrupt(0, 1, 1)]
    rig.do(e.FromSlot(0, m.Failed(1, 1, 2.0, "KeyboardInterrupt", [])))
    (told,) = rig.said
    assert isinstance(told, m.Stopped)
    assert told.reason == "timeout"


def test_a_call_that_never_begins_is_stopped_too() -> None:
    rig = Rig()
    rig.run(1, timeout=2.0)
    assert rig.core.next_deadline() == w.LOADING_SECONDS + 2
    assert rig.pass_time(w.LOADING_SECONDS + 2) == [e.Interrupt(0, 1, 1)]
    assert rig.do(e.FromSlot(0, m.Began(1, 1))) == [], "it is being stopped"
    assert rig.pass_time(1) == [e.Kill(0)]


def test_what_begins_without_a_limit_or_is_not_there_has_no_deadline() -> None:
    rig = Rig()
    rig.run(1)
    for task in (1, 9):
        assert rig.do(e.FromSlot(0, m.Began(task, 1))) == []
    assert rig.core.next_deadline() is None


def test_a_slot_over_its_memory_is_killed_and_the_figures_are_told() -> None:
    rig = Rig()
    rig.run(1)
    assert rig.do(e.OverMemory(0, "it used 9 GiB")) == [e.Kill(0)]
    assert rig.do(e.OverMemory(0, "it used 10 GiB")) == []
    rig.do(e.SlotExited(0, "SIGKILL", "the kernel?"))
    assert rig.said == [m.Died(1, 1, "SIGKILL", "it used 9 GiB")]


def test_nobody_else_is_killed_while_the_memory_of_a_killed_slot_is_not_free_yet() -> None:
    rig = Rig(2)
    rig.run(1)
    rig.run(2)
    assert rig.do(e.OverMemory(1, "the machine is full")) == [e.Kill(1)]
    assert rig.do(e.OverMemory(0, "the machine is full")) == []
    rig.do(e.SlotExited(1, "SIGKILL", ""))
    assert rig.do(e.OverMemory(0, "it is still")) == [e.Kill(0)]


def test_slots_that_never_get_ready_end_the_worker() -> None:
    rig = Rig(0)
    rig.do(e.Resize(1))
    for _ in range(MAX_FAILED_STARTS - 1):
        assert rig.do(e.SlotExited(0, "exit code 1", "?")) == [e.Spawn(0)]
    told, effect = rig.do(e.SlotExited(0, "exit code 1", "?"))
    assert told == e.ToScheduler(m.Resized(0))  # or what is given back would come again
    assert isinstance(effect, e.GiveUp)


def warned(effects: list[e.Effect]) -> str:
    """What is logged, where the first effect tells the scheduler the number of slots that are left."""
    assert isinstance(effects[-1], e.Warn)
    return effects[-1].text


def test_a_slot_that_cannot_be_started_is_tried_again_with_growing_pauses_and_not_offered_meanwhile() -> None:
    rig = Rig(2)
    assert rig.do(e.SlotExited(0, "SIGKILL", "?")) == [e.Spawn(0)]
    for failures in range(12):
        pause = min(FIRST_PAUSE_SECONDS * 2**failures, LAST_PAUSE_SECONDS)
        effects = rig.do(e.NotStarted(0, "no processes"))
        assert effects[:-1] == ([] if failures else [e.ToScheduler(m.Resized(1))])
        assert warned(effects).startswith(f"worker 0 cannot be started: no processes; trying again in {pause:g} second")
        assert "1 of 2 workers" in warned(effects)
        assert rig.core.next_deadline() == rig.now + pause
        assert rig.pass_time(pause * 0.9) == []
        assert rig.pass_time(pause) == [e.Spawn(0)]
    effects = rig.do(e.FromSlot(0, m.SlotReady()))
    assert effects[0] == e.ToScheduler(m.Resized(2)) and "2 of 2 workers" in warned(effects)
    assert rig.do(e.SlotExited(0, "SIGKILL", "?")) == [e.Spawn(0)]
    assert "again in 0.1 seconds" in warned(rig.do(e.NotStarted(0, "no processes"))), "that was another time"


def test_a_call_goes_back_that_waits_for_a_slot_that_cannot_be_started() -> None:
    rig = Rig(1)
    rig.run(1)
    rig.run(2)
    rig.do(e.SlotExited(0, "SIGKILL", "?"))
    assert rig.pass_time(1) == [], "a slot is about to be ready"
    rig.do(e.NotStarted(0, "no processes"))
    assert rig.pass_time(m.GIVE_BACK_SECONDS)[-1] == e.ToScheduler(m.GaveBack(2, 1))


def test_slots_that_die_as_they_start_end_a_worker_only_if_none_lives_for_long() -> None:
    rig = Rig(2)

    def dies_again() -> list[e.Effect]:
        assert e.Spawn(0) in rig.pass_time(LAST_PAUSE_SECONDS)
        return rig.do(e.SlotExited(0, "SIGKILL", "?"))

    rig.do(e.SlotExited(0, "SIGKILL", "?"))
    assert rig.do(e.SlotExited(0, "SIGKILL", "?"))[0] == e.ToScheduler(m.Resized(1))
    for _ in range(20):
        assert "it has ended with SIGKILL before it was ready" in warned(dies_again())
    rig.do(e.SlotExited(1, "SIGKILL", "?"))
    rig.do(e.NotStarted(1, "no processes"))
    for _ in range(int(GIVE_UP_SECONDS / LAST_PAUSE_SECONDS)):
        rig.do(e.NotStarted(1, "no processes")) if e.Spawn(1) in rig.effects[-2:] else None
        assert "0 of 2 workers" in warned(dies_again())
    told, effect = dies_again()
    assert told == e.ToScheduler(m.Resized(0)) and isinstance(effect, e.GiveUp)


def test_a_system_that_has_nothing_to_spare_ends_no_worker() -> None:
    rig = Rig(1)
    rig.do(e.SlotExited(0, "SIGKILL", "?"))
    for _ in range(100):
        assert "0 of 1 workers" in warned(rig.do(e.NotStarted(0, "no processes")))
        assert rig.pass_time(LAST_PAUSE_SECONDS) == [e.Spawn(0)]


def test_scaling_down_first_drops_what_is_missing() -> None:
    rig = Rig(2)
    rig.do(e.SlotExited(0, "SIGKILL", "?"))
    rig.do(e.NotStarted(0, "no processes"))
    assert rig.do(e.Resize(1)) == []
    assert list(rig.core.slots) == [1] and rig.pass_time(LAST_PAUSE_SECONDS) == []


def test_a_larger_size_does_not_count_what_is_missing() -> None:
    rig = Rig(2)
    rig.do(e.SlotExited(0, "SIGKILL", "?"))
    rig.do(e.NotStarted(0, "no processes"))
    assert rig.do(e.Resize(3)) == [e.ToScheduler(m.Resized(2)), e.Spawn(2)]


def test_scaling_down_spares_running_calls() -> None:
    rig = Rig(2)
    rig.run(1)
    assert rig.do(e.Resize(1)) == [e.Retire(1)]
    assert rig.do(e.SlotExited(1, "exit code 0", "?")) == []
    assert rig.do(e.Resize(2)) == [e.Spawn(1)]


def test_scaling_down_ends_a_busy_slot_after_its_call() -> None:
    rig = Rig(1)
    rig.run(1)
    assert rig.do(e.Resize(0)) == []
    assert rig.do(e.FromSlot(0, done(1))) == [e.ToScheduler(done(1)), e.Retire(0)]


def test_calls_of_tasks_that_outlive_their_scheduler_go_on_without_it() -> None:
    rig, (first, second, waiting) = Rig(2), range(m.OUTLIVES + 1, m.OUTLIVES + 4)
    blob, other = b"b" * 16, b"o" * 16
    rig.do(e.FromScheduler(m.PutBlob(blob, [b"data"])))
    rig.do(e.FromScheduler(m.PutBlob(other, [b"data"])))
    rig.run(1, blobs=(other,))
    rig.do(e.FromSlot(0, done(1)))
    rig.run(first, blobs=(blob,))
    rig.run(second)
    rig.run(waiting)
    assert rig.core.holds() == {first: 1, second: 1}, "the third has not begun"
    gone = rig.do(e.SchedulerGone())
    assert e.ToSlot(0, m.ReleaseBlobs([other])) in gone, "and not the one that its call may still have to look for"
    assert not any(isinstance(effect, e.Interrupt) for effect in gone) and not rig.core.queue
    assert rig.core.holds() == {first: 1, second: 1}
    rig.do(e.FromScheduler(m.Adopted(first, 1, 77)))
    call = rig.core.running(0)
    assert call is not None and (call.task, call.client) == (first, 77)
    rig.said.clear()
    rig.do(e.FromSlot(0, done(first)))
    assert rig.do(e.FromScheduler(m.Stop(second, 1))) == [e.Interrupt(1, second, 1)]
    assert rig.said == [done(first)] and rig.core.holds() == {}


def test_a_call_that_has_lost_the_tasks_within_with_their_scheduler_is_reported_so() -> None:
    rig, task = Rig(1), m.OUTLIVES + 1
    rig.run(task)
    cut_off = m.Stopped(task, 1, m.CUT_OFF, "text")
    assert rig.do(e.FromSlot(0, cut_off)) == [e.ToScheduler(cut_off)]
    assert rig.core.holds() == {}


def test_a_call_that_was_cancelled_before_its_scheduler_went_tells_nothing_more() -> None:
    """What it tells would name its attempt to the next scheduler, which would wait for an end that is never told."""
    rig, task = Rig(1), m.OUTLIVES + 1
    rig.run(task)
    told = m.TaskMessage(task, 1, "channel", [b"x"])
    assert rig.do(e.FromSlot(0, told)) == [e.ToScheduler(told)]
    rig.do(e.FromScheduler(m.Stop(task, 1)))
    assert rig.do(e.FromSlot(0, told)) == [e.ToScheduler(told)]
    rig.do(e.SchedulerGone())
    assert rig.do(e.FromSlot(0, told)) == []


def test_when_the_scheduler_is_gone_calls_that_nobody_can_ask_for_end_untold() -> None:
    rig = Rig(2)
    rig.run(1)
    rig.run(2)
    rig.run(3)
    assert set(rig.do(e.SchedulerGone())) == {e.Interrupt(0, 1, 1), e.Interrupt(1, 2, 1)}
    rig.do(e.FromSlot(0, done(1)))
    rig.do(e.SlotExited(1, "SIGKILL", "?"))
    assert rig.said == []
    assert not rig.core.queue


OUTLIVES = m.OUTLIVES + 1


def test_a_call_that_outlives_its_scheduler_goes_on_and_is_brought_along() -> None:
    rig = Rig()
    rig.run(OUTLIVES)
    assert rig.do(e.SchedulerGone()) == []
    assert rig.core.holds() == {OUTLIVES: 1}
    assert rig.do(e.FromSlot(0, done(OUTLIVES))) == [e.ToScheduler(done(OUTLIVES))]
    assert rig.core.holds() == {}


@pytest.mark.parametrize("lost_first", [True, False])
def test_a_call_that_has_run_out_of_time_is_told_of_to_the_next_scheduler(lost_first: bool) -> None:
    """It would begin again there, and use up its time once more."""
    rig = Rig()
    rig.run(OUTLIVES, timeout=1.0)
    rig.do(e.FromSlot(0, m.Began(OUTLIVES, 1)))
    if lost_first:
        rig.do(e.SchedulerGone())
    assert rig.pass_time(1.0) == [e.Interrupt(0, OUTLIVES, 1)]
    if not lost_first:
        rig.do(e.SchedulerGone())
    assert rig.core.holds() == {OUTLIVES: 1}
    rig.do(e.FromSlot(0, done(OUTLIVES)))
    ((task, attempt, reason, _),) = rig.said
    assert (task, attempt, reason) == (OUTLIVES, 1, m.Reason.TIMEOUT)


def test_what_waits_is_told_again_to_a_scheduler() -> None:
    rig = Rig(2)
    rig.run(OUTLIVES)
    rig.run(OUTLIVES + 1)
    rig.do(e.SchedulerGone())
    rig.do(e.FromSlot(0, m.Waiting(OUTLIVES, 1)))
    assert rig.core.waiting() == [m.Waiting(OUTLIVES, 1)]
    rig.do(e.FromSlot(0, m.Resumed(OUTLIVES, 1)))
    assert rig.core.waiting() == []


def test_a_call_that_was_cancelled_is_not_brought_along() -> None:
    rig = Rig()
    rig.run(OUTLIVES)
    rig.do(e.FromScheduler(m.Stop(OUTLIVES, 1)))
    rig.do(e.SchedulerGone())
    assert rig.core.holds() == {}
    rig.do(e.FromSlot(0, done(OUTLIVES)))
    assert rig.said == []


def test_a_call_that_outlives_its_scheduler_keeps_its_blobs_until_it_ends() -> None:
    """The slot has been sent the call, and need not have unpickled it."""
    rig = Rig(2)
    task = m.OUTLIVES + 1
    for blob in (BLOB, OTHER):
        rig.do(e.FromScheduler(m.PutBlob(blob, [b"content"])))
    rig.run(task, blobs=(BLOB,))
    rig.run(1, blobs=(OTHER,))
    released = e.ToSlot(1, m.ReleaseBlobs([OTHER]))
    assert rig.do(e.SchedulerGone()) == [e.Interrupt(1, 1, 1), released, e.Forget([OTHER])]
    assert rig.do(e.FromSlot(0, done(task))) == [
        e.ToScheduler(done(task)),
        e.ToSlot(0, m.ReleaseBlobs([BLOB])),
        e.Forget([BLOB]),
    ]
    assert not rig.core.data.blobs and not rig.core.data.kept


def test_what_the_next_scheduler_sends_is_its_own_to_release() -> None:
    rig = Rig()
    task = m.OUTLIVES + 1
    rig.do(e.FromScheduler(m.PutBlob(BLOB, [b"content"])))
    rig.run(task, blobs=(BLOB,))
    rig.do(e.SchedulerGone())
    rig.do(e.FromScheduler(m.PutBlob(BLOB, [b"content"])))
    assert rig.do(e.FromSlot(0, done(task))) == [e.ToScheduler(done(task))]
    assert rig.run(2, blobs=(BLOB,)) == [e.ToSlot(0, run(2, blobs=(BLOB,)))]
    assert e.ToSlot(0, m.ReleaseBlobs([BLOB])) in rig.do(e.FromScheduler(m.ReleaseBlobs([BLOB])))


def lent(rig: Rig, host: int) -> None:
    """Have the call that runs wait for calls of its own."""
    assert rig.do(e.FromSlot(0, m.Waiting(host, 1))) == [e.ToScheduler(m.Waiting(host, 1))]


def test_a_call_that_waits_lends_its_slot() -> None:
    rig = Rig()
    rig.run(1)
    lent(rig, 1)
    guest = run(2, host=1)
    assert rig.do(e.FromScheduler(guest)) == [e.ToSlot(0, guest)]
    lent(rig, 2)
    deeper = run(3, host=2)
    assert rig.do(e.FromScheduler(deeper)) == [e.ToSlot(0, deeper)]
    assert rig.core.running(0) == deeper
    for task in (3, 2, 1):
        assert rig.do(e.FromSlot(0, done(task))) == [e.ToScheduler(done(task))]
    assert rig.run(4) == [e.ToSlot(0, run(4))]


def test_what_comes_for_a_call_that_waits_no_more_goes_back() -> None:
    rig = Rig()
    rig.run(1)
    returned = m.GaveBack(2, 1)
    assert rig.do(e.FromScheduler(run(2, host=1))) == [e.ToScheduler(returned)]
    lent(rig, 1)
    resumed = m.Resumed(1, 1)
    assert rig.do(e.FromSlot(0, resumed)) == [e.ToScheduler(resumed), e.ToSlot(0, resumed)]
    assert rig.do(e.FromScheduler(run(2, host=1))) == [e.ToScheduler(returned)]


def test_what_crosses_with_the_word_that_a_call_goes_on_goes_back() -> None:
    rig = Rig()
    rig.run(1)
    lent(rig, 1)
    rig.do(e.FromScheduler(run(2, host=1)))
    resumed = m.Resumed(1, 1)
    told = [e.ToScheduler(resumed), e.ToScheduler(m.GaveBack(2, 1)), e.ToSlot(0, resumed)]
    assert rig.do(e.FromSlot(0, resumed)) == told
    assert rig.do(e.FromSlot(0, done(1))) == [e.ToScheduler(done(1))]


def test_a_slot_that_dies_takes_all_its_calls_with_it() -> None:
    rig = Rig()
    rig.run(1)
    lent(rig, 1)
    rig.do(e.FromScheduler(run(2, host=1)))
    rig.said.clear()
    rig.do(e.SlotExited(0, "SIGSEGV", "a crash"))
    outer, inner = rig.said
    assert inner == m.Died(2, 1, "SIGSEGV", "a crash")
    assert isinstance(outer, m.Stopped) and outer.task == 1, "only who runs on top is to blame"
    assert outer.reason == m.GUEST_DIED and "SIGSEGV (a crash) while task 'f'" in outer.text


def test_stopping_a_call_stops_what_runs_on_top_of_it_first() -> None:
    rig = Rig()
    rig.run(1)
    lent(rig, 1)
    rig.do(e.FromScheduler(run(2, host=1)))
    assert rig.do(e.FromScheduler(m.Stop(1, 1))) == [e.Interrupt(0, 1, 1)]
    failed = m.Failed(2, 1, 0.1, "KeyboardInterrupt", [])
    assert rig.do(e.FromSlot(0, failed)) == [e.ToScheduler(failed), e.Interrupt(0, 1, 1)]
    rig.said.clear()
    rig.do(e.FromSlot(0, m.Failed(1, 1, 0.1, "KeyboardInterrupt", [])))
    assert rig.said == [m.Stopped(1, 1, "cancelled", "it was cancelled")]


def test_stopping_what_runs_on_top_leaves_the_call_below_alone() -> None:
    rig = Rig()
    rig.run(1)
    lent(rig, 1)
    rig.do(e.FromScheduler(run(2, host=1)))
    assert rig.do(e.FromScheduler(m.Stop(2, 1))) == [e.Interrupt(0, 2, 1)]
    stopped = m.Stopped(2, 1, "cancelled", "it was cancelled")
    assert rig.do(e.FromSlot(0, m.Failed(2, 1, 0.1, "", []))) == [e.ToScheduler(stopped)]
    assert rig.do(e.FromScheduler(run(3, host=1))) == [e.ToSlot(0, run(3, host=1))]


def test_the_time_limit_of_a_call_holds_while_it_waits() -> None:
    rig = Rig()
    rig.run(1, timeout=2.0)
    rig.do(e.FromSlot(0, m.Began(1, 1)))
    lent(rig, 1)
    rig.do(e.FromScheduler(run(2, host=1)))
    assert rig.pass_time(2.0) == [e.Interrupt(0, 1, 1)]


def test_the_outermost_call_may_end_while_another_thread_of_it_helps() -> None:
    rig = Rig()
    rig.run(1)
    lent(rig, 1)
    rig.do(e.FromScheduler(run(2, host=1)))
    assert rig.do(e.FromSlot(0, done(1))) == [e.ToScheduler(done(1))]
    assert rig.run(3) == []  # the slot still runs something
    assert rig.do(e.FromSlot(0, done(2))) == [e.ToScheduler(done(2)), e.ToSlot(0, run(3))]


@pytest.mark.parametrize("state", [Starting(), Idle()])
def test_a_slot_without_a_call_runs_nothing(state: SlotState) -> None:
    core = w.WorkerCore()
    core.slots[0] = SlotRecord(0, state)
    assert core.running(0) is None
    assert core.running(1) is None


def test_a_lease_that_waits_for_its_slot_is_told_to_yield_when_it_has_it() -> None:
    rig = Rig(slots=1)
    rig.run(1)
    lease = run(2)._replace(lease=True)
    rig.do(e.FromScheduler(lease))
    told = m.Yield(2, 1, 0.0)
    assert rig.do(e.FromScheduler(told)) == [], "if it were given back, it might come again at once, for ever"
    effects = rig.do(e.FromSlot(0, done(1)))
    assert effects[-2:] == [e.ToSlot(0, lease), e.ToSlot(0, told)]
