"""The scheduler has all workers replace their slots, and tells the client when they have."""

from __future__ import annotations

from minidask.scheduler import invariants
from minidask.scheduler.core import Outbox, SchedulerCore
from minidask.scheduler.events import Event, Joined, Left, Received
from minidask.wire import messages as m

CLIENT, ONE, TWO = 1, 2, 3


class Hub:
    """A scheduler's core with a client and two workers."""

    def __init__(self) -> None:
        self.core = SchedulerCore()
        self.do(Joined(CLIENT, "client", "c", {}))
        for peer in (ONE, TWO):
            self.join(peer)

    def join(self, peer: int) -> None:
        self.do(Joined(peer, "worker", f"w{peer}", {"slots": 1}))

    def do(self, event: Event) -> Outbox:
        out = [*self.core.handle(event, 0.0), *self.core.assign(0.0)]
        invariants.check(self.core)
        return [(peer, message) for peer, message in out if not isinstance(message, m.Workers | m.WorkerChanged)]


def test_a_client_is_told_when_all_workers_that_were_there_have_done_it_or_left() -> None:
    hub = Hub()
    assert hub.do(Received(CLIENT, m.Restart(7))) == [(ONE, m.Restart(1)), (TWO, m.Restart(1))]
    hub.join(4)
    assert hub.do(Received(ONE, m.Restarted(1))) == []
    assert hub.do(Received(ONE, m.Restarted(1))) == []
    assert hub.do(Left(TWO, "gone")) == [(CLIENT, m.Answer(7, {}))]
    assert hub.do(Received(4, m.Restarted(1))) == []


def test_what_is_to_be_preloaded_is_passed_on() -> None:
    hub = Hub()
    told = [(peer, m.Restart(1, ["sklearn"])) for peer in (ONE, TWO)]
    assert hub.do(Received(CLIENT, m.Restart(7, ["sklearn"]))) == told


def test_without_workers_there_is_nothing_to_wait_for() -> None:
    hub = Hub()
    hub.do(Left(ONE, "gone"))
    hub.do(Left(TWO, "gone"))
    assert hub.do(Received(CLIENT, m.Restart(7))) == [(CLIENT, m.Answer(7, {}))]


def test_a_client_that_left_is_told_nothing() -> None:
    hub = Hub()
    hub.do(Received(CLIENT, m.Restart(7)))
    hub.do(Left(CLIENT, "gone"))
    assert hub.do(Received(ONE, m.Restarted(1))) == hub.do(Received(TWO, m.Restarted(1))) == []
