"""What runs, and what is imported, in a few words: see minidask/client/glance.py."""

from __future__ import annotations

import pytest

from minidask.client.events import ClusterEvent
from minidask.client.glance import MOST_CALLS, importing, names_of, shown
from minidask.client.state import MachineState


def machine(*calls: tuple[str, float], idle: int = 0, imports: tuple[str, ...] = ()) -> MachineState:
    made = MachineState("tcp://m1", "m1", len(calls) + idle, usage={"cpu": 1.0})
    for number, (name, seconds) in enumerate([*calls, *[("", 0.0)] * idle]):
        info = {"idle": not name, "importing": imports[number] if number < len(imports) else ""}
        made.workers[number] = ClusterEvent("running", 1.0, worker=number, name=name, seconds=seconds, info=info)
    return made


def test_the_longest_calls_come_first_and_of_many_the_number() -> None:
    assert shown(machine(("fit", 0.25), ("score", 75.0), idle=2)) == "score 75 s, fit 0.2 s, 2 idle"
    assert shown(machine(*[("fit", 1.0)] * (MOST_CALLS + 3))).endswith("fit 1.0 s, 3 more")
    assert names_of(machine(("fit", 0.25), ("score", 75.0), idle=1)) == ["fit", "score"]


def test_a_machine_that_has_not_told_shows_nothing() -> None:
    assert shown(MachineState("tcp://m1", "m1", 2)) == ""


@pytest.mark.parametrize(
    ("imports", "text"),
    [
        ((), ""),
        (("sklearn",), "1 worker is importing sklearn"),
        (("sklearn", "sklearn", "sklearn"), "3 workers are importing sklearn"),
        (("numpy", "sklearn", "sklearn"), "2 workers are importing sklearn, 1 numpy"),
    ],
)
def test_what_workers_import_is_a_sentence(imports: tuple[str, ...], text: str) -> None:
    assert importing([machine(*[("fit", 1.0)] * 3, imports=imports)]) == text
