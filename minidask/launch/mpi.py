"""`minidask-run`: a script and its cluster inside an allocation, started by `mpirun` or `srun`.

    mpirun -n 9 minidask-run search.py        rank 0 runs the scheduler and the script, 1 to 8 the workers

No MPI is spoken: the launcher only starts processes and tells each its rank. They meet by the access file, in a folder
that they share: rank 0's scheduler writes the secret and its address there, and the others wait for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from minidask.errors import MinidaskError
from minidask.host.program import fail
from minidask.host.resources import cpu_count
from minidask.launch.cluster import LaunchedCluster
from minidask.launch.engine import Plan
from minidask.launch.ssh import SSHEngine
from minidask.net.access import default_access_file, load_access

PROGRAM = "minidask-run"
WAIT_SECONDS = 120.0
USAGE = f"usage: mpirun|srun {PROGRAM} SCRIPT [ARGUMENT ...]\nRank 0 runs the script, and all others are workers."


class Place(NamedTuple):
    """Which process of which job this is: its rank, how many there are, on this machine too, and the job's name."""

    rank: int
    size: int
    local_size: int
    job: str


def place(environment: Mapping[str, str]) -> Place:
    """Read what the launcher has told this process: Open MPI, MPICH and Intel MPI, or Slurm.

    Raises:
        MinidaskError: it has told nothing.
    """
    for rank, size, local, job in (
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "PMIX_NAMESPACE"),
        ("PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS", "PMI_ID"),
        ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_TASKS_PER_NODE", "SLURM_STEP_ID"),
    ):
        if rank in environment and size in environment:
            words = [environment.get("SLURM_JOB_ID", ""), environment.get(job, "")]
            per_node = environment.get(local, "1").partition("(")[0].partition(",")[0]
            return Place(int(environment[rank]), int(environment[size]), int(per_node), "-".join(filter(None, words)))
    raise MinidaskError(f"no mpirun or srun has started this process\n{USAGE}")


def cores(here: int, machine: int, local_size: int) -> int:
    """How many tasks a worker runs at once: the cores that it is bound to, or else its share of the machine. Pure."""
    return max(1, here if here < machine else machine // local_size)


def _work(where: Place, access_file: Path) -> int:
    end = time.monotonic() + WAIT_SECONDS
    while not access_file.exists() or load_access(access_file).address is None:
        if time.monotonic() > end:
            raise MinidaskError(
                f"rank 0 has not written {access_file} in {WAIT_SECONDS:g} s: do they share that folder?"
            )
        time.sleep(0.05)
    count = cores(cpu_count(), os.cpu_count() or 1, where.local_size)
    options = ["--access-file", str(access_file), "--nworkers", str(count), "--name", f"rank{where.rank}"]
    os.execv(sys.executable, [sys.executable, "-m", "minidask.worker", *options])


def _run(where: Place, access_file: Path, script: list[str]) -> int:
    access_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    access_file.unlink(missing_ok=True)  # of a job of the same name, which was killed
    try:
        with LaunchedCluster(_nobody, access_file=access_file) as cluster:
            cluster.wait_until_joined(where.size - 1)
            own = {"MINIDASK_SCHEDULER": cluster.scheduler_address, "MINIDASK_ACCESS_FILE": str(access_file)}
            return subprocess.run([sys.executable, *script], env={**os.environ, **own}, check=False).returncode
    finally:
        access_file.unlink(missing_ok=True)


def _nobody(plan: Plan) -> SSHEngine:
    return SSHEngine([], plan)  # the workers are there already


def main(arguments: list[str] | None = None) -> int:
    """Run `minidask-run` with these arguments, by default those of the command line. Returns its exit code."""
    script = sys.argv[1:] if arguments is None else arguments
    try:
        if not script or script[0].startswith("-"):
            raise MinidaskError(USAGE)
        where = place(os.environ)
        if where.size < 2:
            raise MinidaskError("one process is not enough: rank 0 runs the script, and the others are the workers")
        access_file = default_access_file().expanduser().parent / f"run-{where.job or 'job'}"
        if where.rank:
            return _work(where, access_file)
        return _run(where, access_file, script)
    except MinidaskError as error:
        return fail(PROGRAM, error)


if __name__ == "__main__":
    sys.exit(main())
