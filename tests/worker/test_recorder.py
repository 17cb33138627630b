"""What a slot writes of its calls, and what its daemon reads: see worker/slot/recorder.py."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator

import pytest

from minidask.wire import messages as m
from minidask.worker.slot.recorder import RECORDER_BYTES, RING, Recorder


def run(task: int, name: str = "fit") -> m.Run:
    return m.Run(task, 1, 7, name, None, [], 0, False, [b"call"])


@pytest.fixture
def ends() -> Iterator[tuple[Recorder, Recorder]]:
    """A slot's end and its daemon's, of one memory."""
    with tempfile.TemporaryFile() as file:
        os.ftruncate(file.fileno(), RECORDER_BYTES)
        slot, daemon = Recorder(file.fileno()), Recorder(file.fileno())
        yield slot, daemon
        slot.close()
        daemon.close()


def test_what_runs_is_seen_whether_anybody_has_looked_before_or_not(ends: tuple[Recorder, Recorder]) -> None:
    slot, daemon = ends
    assert daemon.look().present is None
    began = slot.begin(run(5), 3, on_top=False)
    present = daemon.look().present
    assert present is not None
    assert (present.task, present.attempt, present.call, present.name) == (5, 1, 3, "fit")
    assert present.began == began <= time.perf_counter()
    slot.end(began, failed=False)
    assert daemon.look().present is None


def test_calls_that_are_over_are_counted_always_and_told_while_somebody_looks(ends: tuple[Recorder, Recorder]) -> None:
    slot, daemon = ends
    slot.end(slot.begin(run(1), 0, on_top=False), failed=True)
    seen = daemon.look()
    assert (seen.over, seen.failed, seen.calls) == (1, 1, [])
    daemon.looked_at = True
    slot.end(slot.begin(run(2), 0, on_top=False), failed=False)
    slot.end(slot.begin(run(3), 0, on_top=False), failed=True)
    seen = daemon.look()
    assert [(call.task, call.failed) for call in seen.calls] == [(2, False), (3, True)]
    assert all(call.seconds > 0 and call.cpu >= 0 and call.memory > 1 << 20 for call in seen.calls)
    assert (seen.over, seen.failed, seen.missed) == (3, 2, 0)
    assert daemon.look().calls == [], "each is told once"
    daemon.looked_at = False
    slot.end(slot.begin(run(4), 0, on_top=False), failed=False)
    daemon.looked_at = True
    assert daemon.look().missed == 0, "nobody has looked then"


def test_a_call_that_had_begun_before_anybody_looked_is_told_without_processor_time(
    ends: tuple[Recorder, Recorder],
) -> None:
    slot, daemon = ends
    began = slot.begin(run(1), 0, on_top=False)
    daemon.looked_at = True
    slot.end(began, failed=False)
    (call,) = daemon.look().calls
    assert call.cpu < 0


def test_a_call_on_top_of_another_one_is_what_runs(ends: tuple[Recorder, Recorder]) -> None:
    slot, daemon = ends
    outer = slot.begin(run(1, "outer"), 0, on_top=False)
    inner = slot.begin(run(2, "inner"), 0, on_top=True)
    assert daemon.look().present._replace(began=0.0).name == "inner"  # type: ignore[union-attr]
    slot.end(inner, failed=False)
    present = daemon.look().present
    assert present is not None and present.name == "outer" and present.began == outer
    slot.end(outer, failed=False)


def test_what_the_ring_has_lost_is_counted(ends: tuple[Recorder, Recorder]) -> None:
    slot, daemon = ends
    daemon.looked_at = True
    for task in range(RING + 10):
        slot.end(slot.begin(run(task), 0, on_top=False), failed=False)
    seen = daemon.look()
    assert seen.missed == 10 and len(seen.calls) == RING
    assert [call.task for call in seen.calls] == list(range(10, RING + 10))
    assert seen.over == RING + 10


@pytest.mark.parametrize("name", ["", "x" * 500, "ä" * 100, "odd \udcff", "nul \0 within"])
def test_any_name_can_be_shown(ends: tuple[Recorder, Recorder], name: str) -> None:
    slot, daemon = ends
    slot.begin(run(1, name), 0, on_top=False)
    present = daemon.look().present
    assert present is not None
    assert present.name == name.encode("utf-8", "replace")[:63].decode("utf-8", "ignore")


def test_what_is_being_written_counts_as_nothing(ends: tuple[Recorder, Recorder]) -> None:
    slot, daemon = ends
    slot.begin(run(1), 0, on_top=False)
    slot._memory[40:48] = bytes(8)
    assert daemon.look().present is None


def test_a_slot_that_is_a_thread_needs_no_file() -> None:
    recorder = Recorder()
    recorder.looked_at = True
    recorder.end(recorder.begin(run(1), 0, on_top=False), failed=False)
    assert [call.task for call in recorder.look().calls] == [1]
    recorder.close()


def test_a_call_costs_the_slot_little() -> None:
    recorder, call = Recorder(), run(1)
    best = 1.0
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(200):
            recorder.end(recorder.begin(call, 0, on_top=False), failed=False)
        best = min(best, (time.perf_counter() - began) / 200)
    assert best < 50e-6, "about two microseconds"
    recorder.close()
