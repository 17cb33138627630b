"""What a worker tells a scheduler again, with a clock of the test's own."""

from __future__ import annotations

import pytest

from minidask.wire import messages as m
from minidask.worker.reports import UNDER_WAY_SECONDS, Reports

KEY = m.OUTLIVES
"""The first number of a task that means the same to all schedulers."""


def done(task: int, *buffers: bytes) -> m.Done:
    return m.Done(KEY + task, 1, 0.5, [b"result", *buffers])


def test_an_outcome_is_told_again_until_the_scheduler_was_heard_a_while_later() -> None:
    reports = Reports()
    reports.sent(done(1), 10.0)
    reports.heard(10.0 + UNDER_WAY_SECONDS / 2)
    reports.sent(done(2), 10.0 + UNDER_WAY_SECONDS)
    assert reports.ended() == {KEY + 1: 1, KEY + 2: 1} == reports.attempts()
    reports.heard(10.1 + UNDER_WAY_SECONDS)
    assert reports.again(20.0) == [done(2)], "the scheduler has the first one"


def test_what_is_told_again_may_be_lost_once_more() -> None:
    reports = Reports()
    reports.sent(done(1), 0.0)
    assert reports.again(100.0) == [done(1)] == reports.again(200.0)
    reports.heard(201.0 + UNDER_WAY_SECONDS)
    assert reports.again(300.0) == []


@pytest.mark.parametrize(
    "report", [m.Died(1, 1, "SIGKILL", "?"), m.Stopped(1, 1, m.Reason.CANCELLED, ""), m.TaskMessage(1, 1, "c", [b"x"])]
)
def test_all_else_is_told_once(report: m.Report) -> None:
    """A death would count twice, and people would see twice what a task tells."""
    reports = Reports()
    reports.unsent(report)
    assert reports.attempts() == {1: 1} and not reports.ended()
    assert reports.again(0.0) == [report]
    assert reports.again(0.0) == [] and not reports.attempts()


def test_an_outcome_that_names_data_in_the_store_is_told_once() -> None:
    reports = Reports()
    reports.sent(done(1, b"n" * 16 + b"w"), 0.0)
    reports.sent(done(2, bytes(1 << 16)), 0.0)
    assert reports.ended() == {KEY + 2: 1}


def test_an_outcome_of_a_task_within_a_task_is_told_once() -> None:
    """To another scheduler its number may be that of another task."""
    reports = Reports()
    reports.sent(m.Done(7, 1, 0.5, [b"result"]), 0.0)
    assert not reports.again(0.0) and not reports.attempts()
