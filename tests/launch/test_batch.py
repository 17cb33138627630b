"""What is submitted to each batch system. Only Slurm's is also run, in `tests/end_to_end/launch`."""

from __future__ import annotations

from pathlib import Path

import pytest

from minidask.errors import MinidaskError
from minidask.launch.batch import SYSTEMS, BatchCluster, BatchEngine
from minidask.launch.engine import Plan

GOLDEN = Path(__file__).parent / "golden"
PLAN = Plan("tcp://login1:8786", "/home/ada/access", "/opt/python", ("--memory-limit", "4GiB"), Path("/home/ada/logs"))


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_script_is_the_one_that_was_looked_at(system: str) -> None:
    engine = BatchEngine(system, PLAN, 8, 90, lines=["-q long"], before=["module load python"])
    assert engine.describe() + "\n" == (GOLDEN / f"{system}.sh").read_text()


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_command_that_is_not_there_is_an_error_that_says_where_to_be(
    system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MinidaskError, match="run this where jobs are submitted"):
        BatchEngine(system, PLAN, 1, 1).start(1)


def test_a_system_that_is_not_known_is_an_error_at_once() -> None:
    with pytest.raises(ValueError, match="slurm, pbs, lsf, sge"):
        BatchCluster("moab")
