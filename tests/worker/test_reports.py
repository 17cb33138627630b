"""What a worker tells a scheduler again."""

from __future__ import annotations

import pytest

from minidask.wire import messages as m
from minidask.worker.reports import MOST_KEPT, Reports

KEY = m.OUTLIVES
"""The first number of a task that means the same to all schedulers."""


def done(task: int, *buffers: bytes) -> m.Done:
    return m.Done(KEY + task, 1, 0.5, [b"result", *buffers])


def test_an_outcome_is_told_again_until_the_scheduler_has_counted_it() -> None:
    reports = Reports()
    for message in (m.Heartbeat(0), done(1), done(2), m.Heartbeat(0)):
        reports.sent(message)
    reports.have_come(1)
    assert reports.ended() == {KEY + 1: 1, KEY + 2: 1} == reports.attempts()
    reports.have_come(2)
    assert reports.joined() == [done(2)]


def test_what_is_told_again_may_be_lost_once_more_and_is_counted_anew() -> None:
    reports = Reports()
    for message in (m.Heartbeat(0), done(1)):
        reports.sent(message)
    assert reports.joined() == [done(1)]
    reports.sent(done(1))
    assert reports.joined() == [done(1)]
    reports.sent(done(1))
    reports.have_come(1)
    assert reports.joined() == []


@pytest.mark.parametrize(
    "report", [m.Died(1, 1, "SIGKILL", "?"), m.Stopped(1, 1, m.Reason.CANCELLED, ""), m.TaskMessage(1, 1, "c", [b"x"])]
)
def test_all_else_is_told_once(report: m.Report) -> None:
    """A death would count twice, and people would see twice what a task tells."""
    reports = Reports()
    reports.unsent(report)
    assert reports.attempts() == {1: 1} and not reports.ended()
    assert reports.joined() == [report]
    reports.sent(report)
    assert reports.joined() == [] and not reports.attempts()


def test_an_outcome_that_names_data_in_the_store_is_told_once() -> None:
    reports = Reports()
    reports.sent(done(1, b"n" * 16 + b"w"))
    reports.sent(done(2, bytes(1 << 16)))
    assert reports.ended() == {KEY + 2: 1}


def test_of_many_outcomes_the_newest_are_told_again() -> None:
    """A worker names them when it joins: thousands would be over the limit of the handshake."""
    reports = Reports()
    for number in range(5000):
        reports.sent(done(number))
    assert [report.task - KEY for report in reports.joined()] == [*range(5000 - MOST_KEPT, 5000)]


def test_an_outcome_of_a_task_within_a_task_is_told_once() -> None:
    """To another scheduler its number may be that of another task."""
    reports = Reports()
    reports.sent(m.Done(7, 1, 0.5, [b"result"]))
    assert not reports.joined() and not reports.attempts()
