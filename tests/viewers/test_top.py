"""What `minidask-top` shows: see minidask/viewers/top.py; with real daemons in end_to_end/cluster/test_events.py."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from minidask.client.events import ClusterEvent
from minidask.client.state import ClusterState
from minidask.viewers import top


def shown(state: ClusterState, rows: int | None = None, width: int = 120) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False, force_terminal=True, color_system="truecolor").print(
        top.screen(state, "tcp://node1:8786", 1000.0, rows)
    )
    return out.getvalue()


def room(machines: int = 2, workers: int = 2, name: str = "fit", seconds: float = 65.0) -> ClusterState:
    state = ClusterState()
    described = [{"address": f"tcp://m{n}", "name": f"m{n}", "workers": workers} for n in range(machines)]
    client = {"id": 1, "name": "sarah", "queued": 44, "running": 3, "finished": 16, "failed": 2}
    tasks = {"queued": 44, "finished": 16}
    state.take(ClusterEvent("snapshot", 1.0, info={"machines": described, "clients": [client], "tasks": tasks}))
    for machine in range(machines):
        address = f"tcp://m{machine}"
        usage = {"cpu": 50.0, "memory": 1 << 30, "memory_total": 1 << 34, "store": 5, "received": 1e6, "sent": 0.0}
        for _ in range(3):
            state.take(ClusterEvent("usage", 2.0, address, info=usage))
            for worker in range(workers):
                sums = {"over": 7, "failed": 1, "busy_seconds": 1.0, "idle": worker == 1}
                state.take(ClusterEvent("running", 2.0, address, worker, name=name, seconds=seconds, info=sums))
    return state


def test_machines_what_runs_what_waits_and_what_has_failed() -> None:
    state = room()
    state.take(ClusterEvent("ended", 500.0, "tcp://m1", task=6, name="score", how="raised", text="ValueError: no"))
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown(state))
    assert "2 machines, 2 of 4 workers busy, 44 waiting, 16 finished" in text
    assert re.search(r"m0 +1/2 +50 % +1.0 GiB of 16.0 GiB +5 B +976.6 KiB/s +0 B/s", text)
    assert re.search(r"m1 +0 +1:05 +\? +7 +1 +fit", text)
    assert "workers: 2 idle" in text
    assert re.search(r"sarah +44 +3 +16 +2", text)
    assert re.search(r"m1 +score raised +ValueError: no", text)


def test_workers_that_import_are_shown_with_what() -> None:
    state = room(machines=1, workers=3)
    for worker, name in ((0, "fit"), (1, "")):
        sums = {"over": 0, "failed": 0, "busy_seconds": 0.0, "idle": not name, "importing": "sklearn"}
        state.take(ClusterEvent("running", 3.0, "tcp://m0", worker, name=name, seconds=2.0, info=sums))
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown(state))
    assert re.search(r"m0 +0 .* fit, importing sklearn *\n", text)
    assert re.search(r"m0 +1 .* importing sklearn *\n", text)
    assert "workers: 0 idle" in text


@pytest.mark.parametrize(
    "name", ["[red]x[/red]", "\x1b[2J\x1b]0;title\x07", "<script>", "a\nb\rc", "[/nothing]", "日本"]
)
def test_names_of_others_are_no_markup_and_control_no_terminal(name: str) -> None:
    state = room(name=name)
    state.take(ClusterEvent("ended", 5.0, "tcp://m1", task=6, name=name, how="raised", text=name))
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown(state))
    assert "\x1b" not in text and "\x07" not in text and "\r" not in text
    assert len(text.splitlines()) == len(re.sub(r"\x1b\[[0-9;]*m", "", shown(room())).splitlines()) + 4
    if name.isprintable():
        assert name in text


def test_of_many_workers_those_that_have_run_for_the_longest_fit_on_the_screen() -> None:
    text = shown(room(machines=10, workers=64), rows=50)
    assert len(text.splitlines()) <= 50
    assert "more that are busy" in text
    assert len(shown(room(machines=10, workers=64)).splitlines()) > 600, "one table has all"


def test_a_cluster_without_machines_or_clients_is_a_table_too() -> None:
    assert "0 machines" in shown(ClusterState())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (12.0, "12 s"), (65.0, "1:05"), (3661.0, "1:01:01"), (90000.0, "25:00:00")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert top._seconds(seconds) == text


@pytest.mark.parametrize("value", [None, "x", float("nan"), float("inf"), -1, 10**30, [1]])
def test_figures_that_are_none_are_a_question_mark(value: Any) -> None:
    assert top._bytes(value) == "?"
