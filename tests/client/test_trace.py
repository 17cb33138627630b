"""A run as a picture: see minidask/client/trace.py."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import joblib
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidask
from minidask.client.events import ClusterEvent
from minidask.client.trace import ChromeTrace
from tests.helpers import DEADLINE

from .chrome_format import check, checked

M1, M2 = "tcp://m1", "tcp://m2"


def rows(*events: ClusterEvent) -> list[dict[str, Any]]:
    trace = ChromeTrace()
    machines = [{"address": address, "name": address[-2:]} for address in (M1, M2)]
    found = [*trace.rows(ClusterEvent("snapshot", 0.0, info={"machines": machines}))]
    for event in events:
        found += trace.rows(event)
    return [*found, *trace.arrows()]


def place(machine: int, worker: int) -> tuple[int, int]:
    """A track has a number that no other one has, and no machine either."""
    return machine, machine * 65536 + worker


def call(task: int, machine: str, worker: int, at: float, seconds: float, **fields: Any) -> ClusterEvent:
    return ClusterEvent("call", at, machine, worker, task=task, name="fit", how="done", seconds=seconds, **fields)


def test_each_call_is_a_bar_on_the_track_of_its_worker() -> None:
    found = rows(call(1, M1, 0, 10.0, 0.5, cpu=0.4, memory=99), call(2, M2, 3, 11.0, 0.25))
    names = {(row["pid"], row.get("tid")): row["args"]["name"] for row in found if row["ph"] == "M"}
    assert names == {place(1, 0): "worker 0", place(2, 3): "worker 3", (1, None): "m1", (2, None): "m2"}
    first, second = [row for row in found if row["ph"] == "X"]
    assert (first["pid"], first["tid"], first["ts"]) == (*place(1, 0), 10e6)
    assert (first["dur"], first["name"]) == (0.5e6, "fit")
    assert first["args"]["cpu_seconds"] == 0.4 and first["args"]["memory"] == 99
    assert (second["pid"], second["tid"]) == place(2, 3)


def test_arrows_go_from_a_task_to_those_that_it_has_submitted() -> None:
    submitted = ClusterEvent("submitted", 10.2, task=2, name="leaf", info={"group": 0, "parent": 1})
    found = rows(submitted, call(2, M2, 1, 10.3, 0.1), call(1, M1, 0, 10.0, 0.5))
    start, end = [row for row in found if row["ph"] in "sf"]
    assert (start["pid"], start["tid"], start["ts"]) == (*place(1, 0), 10.2e6)
    assert (end["pid"], end["tid"], end["ts"]) == (*place(2, 1), 10.3e6)
    assert start["id"] == end["id"]


def test_of_the_calls_of_a_lease_the_arrow_begins_at_the_one_that_ran_then() -> None:
    submitted = ClusterEvent("submitted", 10.7, task=2, name="leaf", info={"group": 0, "parent": 1})
    found = rows(submitted, call(1, M1, 0, 10.0, 0.5), call(1, M1, 0, 10.6, 0.5), call(2, M2, 1, 10.8, 0.1))
    (start,) = [row for row in found if row["ph"] == "s"]
    assert start["ts"] == pytest.approx(10.7e6)


def test_data_goes_from_machine_to_machine() -> None:
    fetched = ClusterEvent("fetched", 5.0, M2, size=4096, info={"blob": "ab", "source": M1})
    found = rows(fetched, fetched._replace(info={"blob": "ab", "source": ""}))
    assert [(row["pid"], row["name"]) for row in found if row["ph"] == "X"] == [
        (2, "4096 bytes"), (1, "4096 bytes, sent"), (2, "4096 bytes"),
    ]  # fmt: skip
    assert [(row["ph"], row["pid"]) for row in found if row["ph"] in "sf"] == [("s", 1), ("f", 2)]


def test_a_death_is_a_mark() -> None:
    (mark,) = [
        row for row in rows(ClusterEvent("again", 5.0, M1, name="fit", how="died", text="SIGKILL")) if row["ph"] == "i"
    ]
    assert mark["name"] == "fit died" and mark["args"]["text"] == "SIGKILL"


@st.composite
def reports(draw: st.DrawFn) -> list[ClusterEvent]:
    """Calls of one worker in the order of their ends, some within others, their times inexact by up to 20 ms."""
    events: list[ClusterEvent] = []
    now, number = 100.0, 1
    for _ in range(draw(st.integers(1, 12))):
        inner = draw(st.integers(0, 3))
        outer, began = number, now
        for _ in range(inner):
            number += 1
            at, seconds = now + 0.01, draw(st.floats(0, 0.3))
            events.append(ClusterEvent("submitted", at, task=number, name="in", info={"group": 0, "parent": outer}))
            events.append(call(number, M1, 0, at + draw(st.floats(0, 0.02)), seconds))
            now = at + seconds
        now += draw(st.floats(0, 0.3))
        events.append(call(outer, M1, 0, began + draw(st.floats(-0.02, 0.02)), now - began))
        number += 1
    return events


@given(reports())
def test_bars_never_cross_whatever_the_clocks_say(events: list[ClusterEvent]) -> None:
    check(rows(*events))


def test_a_block_that_is_entered_again_adds_to_its_file(client: minidask.Client, tmp_path: Path) -> None:
    block = client.trace(tmp_path / "run.json")
    for times in (1, 2):
        with block:
            client.submit(time.sleep, 0.01).result(DEADLINE)
        bars = [row["name"] for row in checked(tmp_path / "run.json") if row["ph"] == "X"]
        assert bars.count("sleep") == times


def test_a_run_is_a_file_that_perfetto_reads(client: minidask.Client, tmp_path: Path) -> None:
    with client.trace(tmp_path / "run.json"):
        with joblib.parallel_config("minidask"):
            joblib.Parallel(n_jobs=2, batch_size=1)(joblib.delayed(time.sleep)(0.01) for _ in range(10))
        client.submit(len, 'a "name"\n').result(DEADLINE)
    bars = [row["name"] for row in checked(tmp_path / "run.json") if row["ph"] == "X"]
    assert bars.count("sleep") == 10 and "len" in bars


def test_a_block_that_raises_leaves_a_whole_file(client: minidask.Client, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), client.trace(str(tmp_path / "run.json")):
        raise ValueError("mine")
    assert json.loads((tmp_path / "run.json").read_text())["traceEvents"]


@pytest.mark.parametrize("path", [None, "", 7, b"x", "a\0b"])
def test_a_path_that_is_none_is_refused(client: minidask.Client, path: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="path"):
        client.trace(path)


def test_a_file_that_cannot_be_written_is_an_error_at_once(client: minidask.Client, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="none"), client.trace(tmp_path / "none" / "run.json"):
        pass
