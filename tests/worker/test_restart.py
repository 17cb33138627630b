"""A worker replaces all its slots by fresh ones when it is asked to, and says when that is done."""

from __future__ import annotations

from minidask.wire import messages as m
from minidask.worker import core as w
from minidask.worker import events as e
from minidask.worker.slots import RETIRE_SECONDS
from tests.rig import Rig, done


def restart(rig: Rig, request: int = 1) -> list[e.Effect]:
    return rig.do(e.FromScheduler(m.Restart(request)))


def test_idle_slots_are_replaced_at_once_and_it_is_told_when_the_old_are_gone_and_the_fresh_are_ready() -> None:
    rig = Rig(2)
    assert restart(rig) == [e.Retire(0), e.Spawn(2), e.Retire(1), e.Spawn(3)]
    assert rig.do(e.FromSlot(2, m.SlotReady())) == []
    assert rig.do(e.SlotExited(0, "exit code 0", "")) == []
    assert rig.do(e.FromSlot(3, m.SlotReady())) == []
    assert rig.do(e.SlotExited(1, "exit code 0", "")) == [e.ToScheduler(m.Restarted(1))]
    assert rig.core.next_deadline() is None


def test_a_busy_slot_is_replaced_when_its_call_is_over() -> None:
    rig = Rig()
    rig.run(1)
    rig.run(2)
    assert restart(rig) == []
    assert rig.do(e.FromSlot(0, done(1))) == [e.ToScheduler(done(1)), e.Retire(0), e.Spawn(1)]
    assert rig.do(e.SlotExited(0, "exit code 0", "")) == []
    assert rig.do(e.FromSlot(1, m.SlotReady()))[1:] == [e.ToScheduler(m.Restarted(1))]
    assert rig.core.running(1) is not None, "what waited there runs in the fresh one"


def test_a_slot_whose_call_is_killed_is_replaced_once() -> None:
    rig = Rig()
    rig.run(1)
    rig.do(e.FromScheduler(m.Stop(1, 1)))
    restart(rig)
    assert rig.pass_time(w.GRACE_SECONDS) == [e.Kill(0)]
    stopped = m.Stopped(1, 1, "cancelled", "it was cancelled")
    assert rig.do(e.SlotExited(0, "SIGKILL", "?")) == [e.ToScheduler(stopped), e.Spawn(0)]
    assert rig.do(e.FromSlot(0, m.SlotReady())) == [e.ToScheduler(m.Restarted(1))]


def test_a_slot_that_does_not_end_is_killed() -> None:
    rig = Rig()
    restart(rig)
    rig.do(e.FromSlot(1, m.SlotReady()))
    assert rig.core.next_deadline() == RETIRE_SECONDS
    assert rig.pass_time(RETIRE_SECONDS) == [e.Kill(0)]
    assert rig.do(e.SlotExited(0, "SIGKILL", "?")) == [e.ToScheduler(m.Restarted(1))]


def test_slots_that_just_start_have_not_preloaded_what_is_to_be_preloaded_now() -> None:
    rig = Rig(1)
    rig.do(e.FromScheduler(m.Restart(1, ["sklearn"])))
    assert rig.do(e.FromScheduler(m.Restart(2, ["pandas"]))) == []
    assert rig.do(e.FromSlot(1, m.SlotReady())) == [e.Retire(1), e.Spawn(2)]
    rig.do(e.SlotExited(0, "exit code 0", ""))
    rig.do(e.SlotExited(1, "exit code 0", ""))
    told = rig.do(e.FromSlot(2, m.SlotReady()))
    assert told == [e.ToScheduler(m.Restarted(1)), e.ToScheduler(m.Restarted(2))]


def test_what_starts_is_fresh_and_a_second_restart_waits_for_it() -> None:
    rig = Rig()
    restart(rig, 1)
    assert restart(rig, 2) == [], "one ends already, the other one starts"
    rig.do(e.SlotExited(0, "exit code 0", ""))
    told = [e.ToScheduler(m.Restarted(1)), e.ToScheduler(m.Restarted(2))]
    assert rig.do(e.FromSlot(1, m.SlotReady())) == told


def test_a_slot_that_is_one_too_many_is_not_replaced() -> None:
    rig = Rig()
    rig.run(1)
    restart(rig)
    rig.do(e.Resize(0))
    assert rig.do(e.FromSlot(0, done(1))) == [e.ToScheduler(done(1)), e.Retire(0)]
    assert rig.do(e.SlotExited(0, "exit code 0", "")) == [e.ToScheduler(m.Restarted(1))]


def test_nobody_is_told_when_the_scheduler_is_gone() -> None:
    rig = Rig()
    restart(rig)
    rig.do(e.SchedulerGone())
    rig.do(e.SlotExited(0, "exit code 0", ""))
    assert rig.do(e.FromSlot(1, m.SlotReady())) == []
