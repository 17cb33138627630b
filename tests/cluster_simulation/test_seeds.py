"""Some seeds of the simulated cluster; `python -m tests.cluster_simulation --seeds 10000` looks at more."""

from __future__ import annotations

from collections import Counter

import pytest

from .simulation import Simulation, failure_of

CHUNK = 250
CHUNKS = 10
MET = (
    "adopted", "has the GPU", "adopted beyond a group's limit", "early report", "fault: both", "fault: client's link",
    "fault: machine", "fault: machine's link", "fault: scheduler", "fault: slot", "held", "held twice",
    "held while it is known", "hold stopped",
    "cut off", "guest", "waits still", "fault: slot's link", "large result", "lost on the way", "lost: killed",
    "lost: timeout",
    "moved over", "report of a cancelled task", "resumed", "sent in vain", "silent worker", "stale report", "stopped",
    "submitted again", "taken over", "tried again", "unsent report",
)  # fmt: skip
"""What has to be met, so that a seed that is not broken means something."""


@pytest.mark.parametrize("first", range(0, CHUNKS * CHUNK, CHUNK))
def test_every_task_has_its_outcome_whatever_is_lost(first: int) -> None:
    some, failures = Counter[str](), []
    for seed in range(first, first + CHUNK):
        failure, found = failure_of(seed)
        some += found
        failures += [failure] if failure else []
    assert not failures, "\n".join(failures)
    rare = ("held twice", "adopted beyond a group's limit", "silent worker", "waits still")
    missing = [what for what in MET if not some[what] and what not in rare]
    assert not missing, f"seeds {first} to {first + CHUNK - 1} never met: {missing}"


def test_a_seed_leads_to_the_same_trace_each_time() -> None:
    for seed in (1, 2, 3):
        traces = []
        for _ in range(2):
            simulation = Simulation(seed)
            simulation.play()
            traces.append([*simulation.lines()])
        assert traces[0] == traces[1]
