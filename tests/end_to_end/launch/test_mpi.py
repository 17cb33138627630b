"""`minidask-run` under Debian's Open MPI."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from minidask.errors import MinidaskError
from minidask.launch.mpi import Place, cores, place
from tests.helpers import Programs

MPIRUN = ("mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none")
RUN = (sys.executable, "-m", "minidask.launch.mpi")

SCRIPT = """
import sys, time, joblib, minidask
client = minidask.Client()
with joblib.parallel_config("minidask"):
    print(sum(joblib.Parallel(n_jobs=-1)(joblib.delayed(abs)(-i) for i in range(100))), sys.argv[1:])
names = {machine["name"] for machine in client.scheduler_info()["machines"]}
print(sorted(names), flush=True)
if "fail" in sys.argv:
    raise ValueError("of the script")
"""

needs_mpi = pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs Debian's openmpi-bin")


def script(folder: Path) -> str:
    path = folder / "script.py"
    path.write_text(SCRIPT)
    return str(path)


@needs_mpi
def test_rank_0_runs_the_script_and_the_others_the_calls(programs: Programs, tmp_path: Path) -> None:
    ran = programs.start(*MPIRUN, "-n", "3", *RUN, script(tmp_path), "one")
    assert ran.exit_code() == 0, ran.text
    assert "4950 ['one']\n['rank1', 'rank2']\n" in ran.text
    state = Path(os.environ["XDG_STATE_HOME"]) / "minidask"
    assert not list(state.glob("run-*"))


@needs_mpi
def test_a_script_that_fails_ends_all_with_its_error(programs: Programs, tmp_path: Path) -> None:
    ran = programs.start(*MPIRUN, "-n", "2", *RUN, script(tmp_path), "fail")
    assert ran.exit_code() != 0
    assert "ValueError: of the script" in ran.text


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (
            {
                "OMPI_COMM_WORLD_RANK": "2",
                "OMPI_COMM_WORLD_SIZE": "4",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
                "PMIX_NAMESPACE": "77",
            },
            Place(2, 4, 2, "77"),
        ),
        (
            {
                "SLURM_PROCID": "1",
                "SLURM_NTASKS": "8",
                "SLURM_TASKS_PER_NODE": "4(x2)",
                "SLURM_JOB_ID": "9",
                "SLURM_STEP_ID": "0",
            },
            Place(1, 8, 4, "9-0"),
        ),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, Place(0, 2, 1, "")),
    ],
)
def test_the_launcher_tells_each_process_its_place(environment: dict[str, str], expected: Place) -> None:
    assert place(environment) == expected


def test_without_a_launcher_the_error_shows_how_to_start_it() -> None:
    with pytest.raises(MinidaskError, match=r"usage: mpirun\|srun minidask-run"):
        place({})


def test_a_worker_takes_the_cores_that_it_is_bound_to_or_its_share() -> None:
    assert [cores(4, 16, 4), cores(16, 16, 4), cores(16, 16, 1), cores(2, 2, 8)] == [4, 4, 16, 1]
