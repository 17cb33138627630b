"""Who is told that there are slots with nothing to do: on the core, without clocks or sockets."""

from __future__ import annotations

from minidask.scheduler.core import SchedulerCore
from minidask.scheduler.events import Event, Joined, Left, Received
from minidask.scheduler.invariants import check
from minidask.wire import messages as m

WORKER, USER, FIRST, SECOND, THIRD = range(1, 6)
"""Peers: a worker with three slots, the user's client, and those of the slots."""


class Cluster:
    """A core, and what it says to clients about idle slots."""

    def __init__(self, slots: int) -> None:
        self.core = SchedulerCore()
        self.runs: dict[str, list[int]] = {}
        self.now(Joined(WORKER, "worker", "w", {"slots": slots}))
        self.now(Joined(USER, "client", "user", {}))
        for peer in (FIRST, SECOND, THIRD):
            self.now(Joined(peer, "client", f"slot {peer}", {"nested": True}))

    def now(self, event: Event) -> dict[int, bool]:
        out = [*self.core.handle(event, 0.0), *self.core.assign(0.0)]
        check(self.core)
        self.runs.update(
            {message.name: [message.task, message.attempt] for _, message in out if type(message) is m.Run}
        )
        return {peer: message.idle for peer, message in out if type(message) is m.IdleSlots}

    def submit(self, peer: int, number: int, name: str, parent: str = "") -> dict[int, bool]:
        run = self.runs[parent] if parent else []
        return self.now(Received(peer, m.Submit(number, name, 0, None, 0, None, [], run, False, {}, [b"x"])))

    def open(self, peer: int, parent: str) -> dict[int, bool]:
        return self.now(Received(peer, m.OpenGroup(1, 0, self.runs[parent])))

    def close(self, peer: int) -> dict[int, bool]:
        return self.now(Received(peer, m.CloseGroup(1)))

    def waits(self, name: str) -> dict[int, bool]:
        return self.now(Received(WORKER, m.Waiting(*self.runs[name])))

    def goes_on(self, name: str) -> dict[int, bool]:
        return self.now(Received(WORKER, m.Resumed(*self.runs[name])))

    def done(self, name: str) -> dict[int, bool]:
        return self.now(Received(WORKER, m.Done(*self.runs[name], 0.1, [b"r"])))


def test_who_asks_is_told_at_once_and_when_slots_get_idle_or_busy() -> None:
    cluster = Cluster(2)
    cluster.submit(USER, 1, "a")
    assert cluster.open(FIRST, "a") == {FIRST: True}
    assert cluster.submit(USER, 2, "b") == {FIRST: False}
    assert cluster.open(SECOND, "b") == {SECOND: False}
    assert cluster.close(FIRST) == {}
    assert cluster.done("a") == {SECOND: True}
    assert cluster.now(Left(SECOND, "gone")) == {}
    assert cluster.submit(USER, 3, "c") == {}


def test_a_lent_slot_with_nothing_to_run_is_idle_for_the_tasks_below_and_nobody_else() -> None:
    cluster = Cluster(3)
    cluster.submit(USER, 1, "top")
    cluster.submit(USER, 2, "other")
    cluster.submit(FIRST, 1, "middle", "top")
    assert cluster.open(SECOND, "middle") == {SECOND: False}
    assert cluster.open(THIRD, "other") == {THIRD: False}
    assert cluster.waits("top") == {SECOND: True}
    assert cluster.submit(SECOND, 1, "leaf", "middle") == {SECOND: False}, "the slot of `top` runs it"
    assert cluster.submit(SECOND, 2, "next", "middle") == {}
    assert cluster.done("leaf") == {}, "it runs the next one"
    assert cluster.done("next") == {SECOND: True}
    assert cluster.goes_on("top") == {SECOND: False}
    assert cluster.done("middle") == {SECOND: True, THIRD: True}
    assert cluster.close(SECOND) == {}
