"""`minidask-worker --fresh-slots`: what a slot has done for one client is gone before it works for another."""

from __future__ import annotations

import random

import pytest

from minidask.wire import messages as m
from minidask.worker import events as e
from tests.rig import Rig, done, run, said_by_slots


def test_an_idle_slot_of_another_client_is_replaced_and_one_of_the_same_is_not() -> None:
    rig = Rig(fresh_slots=True)
    assert rig.run(1) == [e.ToSlot(0, run(1))]
    rig.do(e.FromSlot(0, done(1)))
    assert rig.run(2) == [e.ToSlot(0, run(2))]
    rig.do(e.FromSlot(0, done(2)))
    effects = rig.run(3, client=8)
    assert effects == [e.Retire(0), e.Spawn(1)]
    assert rig.core.next_deadline() is None, "it waits for what starts"
    exited, ready = said_by_slots(effects)
    assert rig.do(exited) == []
    assert rig.do(ready) == [e.ToSlot(1, run(3, client=8))]


def test_as_many_are_replaced_as_calls_wait() -> None:
    rig = Rig(3, fresh_slots=True)
    for task in (1, 2, 3):
        rig.run(task)
    for slot, task in enumerate((1, 2, 3)):
        rig.do(e.FromSlot(slot, done(task)))
    assert rig.run(4, client=8) == [e.Retire(0), e.Spawn(3)]
    assert rig.run(5, client=8) == [e.Retire(1), e.Spawn(4)]
    assert rig.run(6) == [e.ToSlot(2, run(6))]


def test_a_child_runs_on_top_of_its_parent() -> None:
    rig = Rig(fresh_slots=True)
    rig.run(1)
    rig.do(e.FromSlot(0, m.Waiting(1, 1)))
    assert rig.run(2, host=1) == [e.ToSlot(0, run(2, host=1))]


@pytest.mark.parametrize("seed", range(50))
def test_whatever_happens_a_slot_works_for_one_client_and_every_call_ends(seed: int) -> None:
    chance = random.Random(seed)
    rig, tasks, waiting = Rig(3, fresh_slots=True), 0, 0
    coming: list[e.Event] = []  # what slots that start or end will tell
    running: dict[int, int] = {}
    served: dict[int, int] = {}

    def carry_out(effects: list[e.Effect]) -> None:
        nonlocal waiting
        for effect in effects:
            if isinstance(effect, e.Spawn):
                served.pop(effect.slot, None)
            elif isinstance(effect, e.Retire):
                assert effect.slot not in running
            elif isinstance(effect, e.ToSlot) and isinstance(effect.message, m.Run):
                assert effect.slot not in running
                assert not any(getattr(event, "slot", None) == effect.slot for event in coming)
                assert served.setdefault(effect.slot, effect.message.client) == effect.message.client
                running[effect.slot] = effect.message.task
                waiting -= 1
        coming.extend(said_by_slots(effects))

    def step() -> None:
        if coming and chance.random() < 0.5:
            carry_out(rig.do(coming.pop(chance.randrange(len(coming)))))
        elif running:
            slot = chance.choice(sorted(running))
            carry_out(rig.do(e.FromSlot(slot, done(running.pop(slot)))))

    for _ in range(300):
        if chance.random() < 0.5:
            tasks, waiting = tasks + 1, waiting + 1
            carry_out(rig.run(tasks, client=chance.choice([7, 7, 8, 9])))
        step()
    for _ in range(3000):
        step()
    assert not running and not waiting and len(rig.core.slots) == 3
