"""`minidask-worker --fresh-slots`: what a slot has done for one client is gone before it works for another."""

from __future__ import annotations

import json
import os
import random

import pytest

import minidask
from minidask.wire import messages as m
from minidask.worker import core as w
from tests.helpers import Programs, wait_until


def run(task: int, client: int, host: int = 0) -> m.Run:
    return m.Run(task, 1, client, "f", None, [], host, [b"call"])


def done(task: int) -> m.Done:
    return m.Done(task, 1, 0.5, [b"result"])


def started(slots: int) -> w.WorkerCore:
    """A core with idle slots."""
    core = w.WorkerCore(fresh_slots=True)
    core.handle(w.Resize(slots), 0)
    for number in range(slots):
        core.handle(w.FromSlot(number, m.SlotReady()), 0)
    return core


def given(core: w.WorkerCore, message: m.Run, now: float = 0) -> list[w.Effect]:
    return core.handle(w.FromScheduler(message), now)


def test_an_idle_slot_of_another_client_is_replaced_and_one_of_the_same_is_not() -> None:
    core = started(1)
    assert given(core, run(1, client=7)) == [w.ToSlot(0, run(1, client=7))]
    core.handle(w.FromSlot(0, done(1)), 0)
    assert given(core, run(2, client=7)) == [w.ToSlot(0, run(2, client=7))]
    core.handle(w.FromSlot(0, done(2)), 0)
    assert given(core, run(3, client=8)) == [w.Retire(0), w.Spawn(1)]
    assert core.next_deadline() is None, "it waits for what starts"
    assert core.handle(w.SlotExited(0, "exit code 0", ""), 1) == []
    assert core.handle(w.FromSlot(1, m.SlotReady()), 1) == [w.ToSlot(1, run(3, client=8))]


def test_as_many_are_replaced_as_calls_wait() -> None:
    core = started(3)
    for task in (1, 2, 3):
        given(core, run(task, client=7))
    for slot, task in enumerate((1, 2, 3)):
        core.handle(w.FromSlot(slot, done(task)), 0)
    assert given(core, run(4, client=8)) == [w.Retire(0), w.Spawn(3)]
    assert given(core, run(5, client=8)) == [w.Retire(1), w.Spawn(4)]
    assert given(core, run(6, client=7)) == [w.ToSlot(2, run(6, client=7))]


def test_a_child_runs_on_top_of_its_parent() -> None:
    core = started(1)
    given(core, run(1, client=7))
    core.handle(w.FromSlot(0, m.Waiting(1, 1)), 0)
    assert given(core, run(2, client=7, host=1)) == [w.ToSlot(0, run(2, client=7, host=1))]


def test_what_one_client_has_changed_another_does_not_see(programs: Programs) -> None:
    def change() -> int:
        json.changed = True  # type: ignore[attr-defined]
        return os.getpid()

    def changed() -> tuple[bool, int]:
        return hasattr(json, "changed"), os.getpid()

    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "1", "--fresh-slots")
    with minidask.Client(address) as one:
        pid = one.submit(change).result(20)
        assert one.submit(changed).result(20) == (True, pid)
        with minidask.Client(address) as two:
            seen, other = two.submit(changed).result(20)
            assert not seen and other != pid
            assert len(two.gather(two.map(abs, range(50)))) == 50
        again = one.submit(changed).result(20)
        assert not again[0]
        wait_until(lambda: one.nthreads() and sum(one.nthreads().values()) == 1, "there was one slot again")


@pytest.mark.parametrize("seed", range(50))
def test_whatever_happens_a_slot_works_for_one_client_and_every_call_ends(seed: int) -> None:
    chance = random.Random(seed)
    core, now, tasks = started(3), 0.0, 0
    starting: list[int] = []
    retiring: list[int] = []
    running: dict[int, int] = {}
    served: dict[int, int] = {}
    waiting = 0

    def carry_out(effects: list[w.Effect]) -> None:
        nonlocal waiting
        for effect in effects:
            if isinstance(effect, w.Spawn):
                starting.append(effect.slot)
                served.pop(effect.slot, None)
            elif isinstance(effect, w.Retire):
                assert effect.slot not in running
                retiring.append(effect.slot)
            elif isinstance(effect, w.ToSlot) and isinstance(effect.message, m.Run):
                assert effect.slot not in (*running, *starting, *retiring)
                assert served.setdefault(effect.slot, effect.message.client) == effect.message.client
                running[effect.slot] = effect.message.task
                waiting -= 1

    def step() -> None:
        if starting and chance.random() < 0.5:
            carry_out(core.handle(w.FromSlot(starting.pop(0), m.SlotReady()), now))
        elif retiring and chance.random() < 0.5:
            carry_out(core.handle(w.SlotExited(retiring.pop(0), "exit code 0", ""), now))
        elif running:
            slot = chance.choice(sorted(running))
            carry_out(core.handle(w.FromSlot(slot, done(running.pop(slot))), now))

    for _ in range(300):
        if chance.random() < 0.5:
            tasks, waiting = tasks + 1, waiting + 1
            carry_out(given(core, run(tasks, client=chance.choice([7, 7, 8, 9])), now))
        step()
    for _ in range(3000):
        step()
    assert not running and not waiting and len(core.slots) == 3
