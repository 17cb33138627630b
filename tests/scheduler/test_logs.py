"""The scheduler passes on who wants to read a log, and the answer: see scheduler/logs.py."""

from __future__ import annotations

import pytest

from minidask.errors import ProtocolError
from minidask.scheduler import invariants, logs
from minidask.scheduler.core import Outbox, SchedulerCore
from minidask.scheduler.events import Event, Joined, Left, Received
from minidask.wire import messages as m
from minidask.wire.observing import ReadLog
from tests.helpers import counted_steps

CLIENT, OTHER, ONE, TWO = 1, 2, 3, 4
LINES = {"lines": ["a", "b"]}


class Hub:
    """A scheduler's core with two clients and two workers."""

    def __init__(self) -> None:
        self.core = SchedulerCore()
        self.core.answers.logs.own = lambda lines: ["own"] * lines
        for peer in (CLIENT, OTHER):
            self.do(Joined(peer, "client", "c", {}))
        for peer in (ONE, TWO):
            self.do(Joined(peer, "worker", f"w{peer}", {"slots": 1}))

    def do(self, event: Event) -> Outbox:
        out = [*self.core.handle(event, 0.0), *self.core.assign(0.0)]
        invariants.check(self.core)
        return [(peer, message) for peer, message in out if not isinstance(message, m.Workers | m.WorkerChanged)]


def test_the_schedulers_own_log_is_answered_at_once() -> None:
    assert Hub().do(Received(CLIENT, ReadLog(7, "", 2))) == [(CLIENT, m.Answer(7, {"lines": ["own", "own"]}))]


def test_a_machine_is_asked_and_its_answer_goes_to_who_asked() -> None:
    hub = Hub()
    assert hub.do(Received(CLIENT, ReadLog(7, "w3", 50))) == [(ONE, ReadLog(1, "", 50))]
    assert hub.do(Received(OTHER, ReadLog(7, "w4", 9))) == [(TWO, ReadLog(2, "", 9))]
    assert hub.do(Received(ONE, m.Answer(2, LINES))) == [], "that is another one's to answer"
    assert hub.do(Received(TWO, m.Answer(2, LINES))) == [(OTHER, m.Answer(7, LINES))]
    assert hub.do(Received(ONE, m.Answer(1, LINES))) == [(CLIENT, m.Answer(7, LINES))]
    assert hub.do(Received(ONE, m.Answer(1, LINES))) == [], "once"


def test_who_waits_for_a_machine_that_leaves_is_told() -> None:
    hub = Hub()
    hub.do(Received(CLIENT, ReadLog(7, "w3", 50)))
    assert (CLIENT, m.Answer(7, {"error": "it has left the cluster"})) in hub.do(Left(ONE, "gone"))
    (answer,) = hub.do(Received(CLIENT, ReadLog(8, "w3", 50)))
    assert answer == (CLIENT, m.Answer(8, {"error": "there is no such machine"}))


def test_a_client_that_left_is_told_nothing() -> None:
    hub = Hub()
    hub.do(Received(CLIENT, ReadLog(7, "w3", 50)))
    hub.do(Left(CLIENT, "gone"))
    assert hub.do(Received(ONE, m.Answer(1, LINES))) == []
    assert not hub.core.answers.logs.readers


def test_one_client_cannot_ask_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOST_REQUESTS", 3)
    hub = Hub()
    for request in range(3):
        hub.do(Received(CLIENT, ReadLog(request, "w3", 1)))
    hub.do(Received(OTHER, ReadLog(1, "w3", 1)))
    with pytest.raises(ProtocolError, match="3 requests for logs wait already"):
        hub.core.handle(Received(CLIENT, ReadLog(4, "w3", 1)), 0.0)


def test_many_requests_that_wait_make_the_next_one_no_dearer() -> None:
    hub = Hub()
    steps = []
    for request in range(500):
        with counted_steps() as counted:
            hub.core.handle(Received(CLIENT, ReadLog(request, "w3", 1)), 0.0)
        steps.append(counted[0])
    assert steps[-1] <= steps[10]
