"""What a progress bar shows, from counts alone: done, running, failed, and a total once all calls know theirs."""

from __future__ import annotations

from typing import Any

from minidask.client.tally import BarText, CallCounts, SchedulerCounts, Tally, counts_of_asker, since


def test_a_bar_adds_up_its_counts_and_knows_its_total_when_all_do() -> None:
    tally = Tally()
    assert not tally
    first, second = CallCounts(10), CallCounts()
    tally.open(first)
    tally.open(second)
    first.submitted, first.done, first.failed = 4, 2, 1
    second.submitted, second.done = 3, 3
    assert tally
    assert tally.text() == BarText(6, None, "1 failed")
    tally.close(second, ended_well=True)
    assert tally.text(SchedulerCounts(1, 0, 0)) == BarText(6, 13, "1 running, 1 failed")
    tally.close(first, ended_well=False)
    assert tally.text(SchedulerCounts(0, 0, 0)) == BarText(6, 13, "1 failed")


def test_calls_that_did_not_end_well_keep_their_total_known_or_not() -> None:
    tally = Tally()
    known, unknown = CallCounts(10), CallCounts()
    tally.open(known)
    tally.open(unknown)
    known.submitted = known.done = unknown.submitted = unknown.done = 1
    tally.close(known, ended_well=False)
    tally.close(unknown, ended_well=False)
    assert tally.text() == BarText(2, None, "")
    known = CallCounts(1)
    tally.open(known)
    known.cancelled = known.submitted = 1
    assert tally.text() == BarText(2, None, "1 cancelled")


def test_a_task_that_failed_counts_as_one_call() -> None:
    counts = CallCounts()
    counts.add(5)
    counts.add(5, failed=True)
    counts.add(5, cancelled=True)
    assert (counts.done, counts.failed, counts.cancelled) == (5, 1, 5)


def test_nested_calls_are_a_note_from_when_the_bar_began() -> None:
    def entry(number: int, running: int, nested: tuple[int, int]) -> dict[str, Any]:
        return {"id": number, "running": running, "nested": {"submitted": nested[0], "finished": nested[1]}}

    info = {"you": 7, "clients": [entry(3, 9, (1, 1)), entry(7, 2, (340, 220))]}
    counts = counts_of_asker(info)
    assert counts == SchedulerCounts(2, 340, 220)
    tally = Tally()
    tally.open(CallCounts(20, submitted=8))
    assert tally.text(since(counts, SchedulerCounts(0, 100, 100))) == BarText(0, 20, "2 running, nested 120/240")
    assert counts_of_asker({"you": 8, "clients": []}) is None
