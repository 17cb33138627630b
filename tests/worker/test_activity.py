"""What a worker tells of its slots and its machine, and what those who look make of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from minidask.client.events import EventDecoder
from minidask.data.store import BlobStore
from minidask.wire import messages as m
from minidask.wire.observing import Events
from minidask.wire.packing import pack
from minidask.worker import activity
from minidask.worker.activity import ActivityReport
from minidask.worker.slot.recorder import Recorder


def run(task: int) -> m.Run:
    return m.Run(task, 1, 7, "fit", None, [], 0, False, [b"call"])


def decoded(message: activity.Activity) -> dict[str, list[object]]:
    rows = [["activity", 50.0, "tcp://m1", message.payload[0]]]
    found: dict[str, list[object]] = {}
    for event in EventDecoder().events(Events(50.0, 0, [pack(rows)]), 1050.0):
        found.setdefault(event.kind, []).append(event)
    return found


def test_what_runs_what_is_over_and_how_busy_the_machine_is(tmp_path: Path) -> None:
    report, slots = ActivityReport(BlobStore(str(tmp_path))), {0: Recorder(), 1: Recorder()}
    (tmp_path / "blob").write_bytes(bytes(5000))
    report.begin()
    for slot in slots.values():
        slot.looked_at = True
    slots[0].end(slots[0].begin(run(1), 0, on_top=False), failed=True)
    slots[1].begin(run(2), 9, on_top=False)
    found = decoded(report.message(slots, {1: 4096}))
    (usage,) = found["usage"]
    assert set(usage.info) == {"cpu", "memory", "memory_total", "received", "sent", "store"}  # type: ignore[attr-defined]
    assert usage.info["store"] >= 4096 and 0 < usage.info["memory"] < usage.info["memory_total"]  # type: ignore[attr-defined]
    (call,) = found["call"]
    assert (call.worker, call.task, call.how, call.machine) == (0, 1, "raised", "tcp://m1")  # type: ignore[attr-defined]
    idle, busy = found["running"]
    assert (idle.worker, idle.name, idle.info["over"], idle.info["idle"]) == (0, "", 1, True)  # type: ignore[attr-defined]
    assert (busy.worker, busy.task, busy.call, busy.memory) == (1, 2, 9, 4096)  # type: ignore[attr-defined]
    assert 1040 < busy.time <= 1050 and busy.time + busy.seconds == pytest.approx(1050)  # type: ignore[attr-defined]
    for slot in slots.values():
        slot.close()


def test_what_a_slot_imports_is_told(tmp_path: Path) -> None:
    report, slot = ActivityReport(BlobStore(str(tmp_path))), Recorder()
    slot.begin(run(1), 0, on_top=False)
    slot.imports_now("sklearn")
    (running,) = decoded(report.message({0: slot}, {}))["running"]
    assert running.info["importing"] == "sklearn"  # type: ignore[attr-defined]
    slot.close()


def test_a_slot_that_has_ended_has_told_its_last_calls_and_the_one_in_which_it_ended(tmp_path: Path) -> None:
    report, slot = ActivityReport(BlobStore(str(tmp_path))), Recorder()
    slot.looked_at = True
    slot.end(slot.begin(run(1), 0, on_top=False), failed=False)
    slot.begin(run(2), 9, on_top=False)
    report.slot_ended(3, slot)
    slot.close()
    found = decoded(report.message({}, {}))
    assert [(c.worker, c.task, c.call, c.how) for c in found["call"]] == [(3, 1, 0, "done"), (3, 2, 9, "raised")]  # type: ignore[attr-defined]
    assert "call" not in decoded(report.message({}, {})), "once"


def test_too_many_calls_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "MOST_CALLS", 10)
    report, slot = ActivityReport(BlobStore(str(tmp_path))), Recorder()
    slot.looked_at = True
    for task in range(25):
        slot.end(slot.begin(run(task), 0, on_top=False), failed=False)
    found = decoded(report.message({0: slot}, {}))
    assert len(found["call"]) == 10
    assert [event.size for event in found["missed"]] == [15]  # type: ignore[attr-defined]
    slot.close()


@pytest.mark.alone(reason="it measures milliseconds")
def test_a_report_costs_a_machine_next_to_nothing(tmp_path: Path) -> None:
    report, slots = ActivityReport(BlobStore(str(tmp_path))), {number: Recorder() for number in range(64)}
    began = time.perf_counter()
    report.message(slots, {})
    assert time.perf_counter() - began < 0.25, "some milliseconds, twice a second"
    for slot in slots.values():
        slot.close()
