"""Machines by a batch system: a job for each. What differs between the systems is one table.

The script is the worker (`exec`), so the signal that comes some seconds before the time limit drains it: it takes
nothing new, gives back what has not begun, and ends when what runs has ended. Slurm and LSF send that signal
themselves; elsewhere `timeout` does. The access file lies in a folder that all machines share.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from minidask.errors import MinidaskError
from minidask.launch.cluster import LaunchedCluster
from minidask.launch.engine import ALIVE, Plan

COMMAND_SECONDS = 60.0


class System(NamedTuple):
    """A batch system: its mark for lines of options, these lines, the variable with a job's id, and its commands."""

    mark: str
    lines: str
    variable: str
    submit: str
    every: str
    waiting: str
    drain: str
    cancel: str
    signals: bool = False  # whether it sends SIGTERM by itself before the time is over


SYSTEMS = {
    "slurm": System("#SBATCH", "--job-name=minidask --ntasks=1 --cpus-per-task={cores} --time={minutes}"
        " --signal=B:TERM@{drain} --output={logs}/%j.log", "SLURM_JOB_ID", "sbatch --parsable",
        "squeue --me --noheader --format=%A", "squeue --me --noheader --format=%A --states=PENDING",
        "scancel --batch --signal=TERM", "scancel", signals=True),
    "pbs": System("#PBS", "-N^minidask -l^select=1:ncpus={cores} -l^walltime={clock} -j^oe -o^{logs}/", "PBS_JOBID",
        "qsub", "qselect", "qselect -s QHW", "qsig -s SIGTERM", "qdel"),
    "lsf": System("#BSUB", "-J^minidask -n^{cores} -R^span[hosts=1] -W^{minutes} -wt^{drain_minutes} -wa^TERM"
        " -o^{logs}/%J.log", "LSB_JOBID", "bsub", "bjobs -noheader -o jobid", "bjobs -noheader -p -o jobid",
        "bkill -s TERM", "bkill", signals=True),
    "sge": System("#$", "-N^minidask -pe^smp^{cores} -l^h_rt={clock} -j^y -o^{logs}/$JOB_ID.log -S^/bin/sh", "JOB_ID",
        "qsub -terse", "qstat", "qstat -s p", "qdel", "qdel"),
}  # fmt: skip
"""Of options a blank separates one from the next, and `^` stands for a blank within one."""


class BatchEngine:
    """Submits a job for each machine.

    Args:
        system: a name of `SYSTEMS`.
        plan: for the workers.
        cores: of a job, which are the tasks that it runs at once.
        minutes: until the batch system ends it.
        drain: seconds before that at which the worker takes nothing new.
        lines: further options for the batch system, such as ["--partition=long"].
        before: lines of shell that come before the worker, such as ["module load python"].
    """

    def __init__(
        self, system: str, plan: Plan, cores: int, minutes: int, drain: int = 60, lines: Sequence[str] = (),
        before: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._system, self._plan = SYSTEMS[system], plan
        self._cores, self._minutes, self._drain, self._more, self._before = cores, minutes, drain, lines, before

    def describe(self) -> str:
        """The script."""
        system, clock = self._system, f"{self._minutes // 60:02}:{self._minutes % 60:02}:00"
        values = {"cores": self._cores, "minutes": self._minutes, "clock": clock, "logs": self._plan.folder or "."}
        values |= {"drain": self._drain, "drain_minutes": -(-self._drain // 60)}
        own = [word.replace("^", " ").format(**values) for word in system.lines.split()]
        limit = "" if system.signals else f"timeout --signal=TERM {max(1, 60 * self._minutes - self._drain)} "
        worker = shlex.join([*self._plan.worker("NAME"), "--nworkers", str(self._cores)])
        worker = worker.replace("NAME", f'"${system.variable}"', 1)
        options = [f"{system.mark} {line}" for line in (*own, *self._more)]
        return "\n".join(["#!/bin/sh", *options, *self._before, f"exec {limit}{worker}"])

    def start(self, n: int) -> list[str]:
        """Submit `n` jobs."""
        return [_run(self._system.submit, stdin=self.describe() + "\n")[0] for _ in range(n)]

    def stop(self, ids: Collection[str]) -> None:
        """Cancel the jobs that wait; have the others' workers drain."""
        waiting = set(_run(self._system.waiting)) & set(ids)
        running = set(_run(self._system.every)) & set(ids) - waiting
        for command, those in ((self._system.cancel, waiting), (self._system.drain, running)):
            if those:
                _run(command, *sorted(those), check=False)  # one that has ended by now is no error

    def alive(self, ids: Iterable[str]) -> dict[str, str]:
        """Ask for all jobs of this user. Why one has ended is the last line of its log."""
        ids = list(ids)
        every = set(_run(self._system.every)) if ids else set()
        return {name: ALIVE if name in every else self._last_words(name) for name in ids}

    def _last_words(self, name: str) -> str:
        logs = sorted(self._plan.folder.glob(f"*{name}*")) if self._plan.folder else []
        lines = [line for log in logs for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "its job is over"


def _run(command: str, *arguments: str, stdin: str = "", check: bool = True) -> list[str]:
    """Run a command of the batch system. Returns the ids that its lines begin with.

    Raises:
        MinidaskError: it is not there, or refuses, or does not answer.
    """
    words = [*command.split(), *arguments]
    try:
        done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=check)
    except FileNotFoundError as error:
        raise MinidaskError(
            f"there is no command {words[0]} on this machine: run this where jobs are submitted"
        ) from error
    except subprocess.CalledProcessError as error:
        raise MinidaskError(f"{words[0]} refused: {error.stderr.strip() or error.stdout.strip()}") from error
    except subprocess.TimeoutExpired as error:
        raise MinidaskError(f"{words[0]} did not answer within {COMMAND_SECONDS:g} seconds") from error
    return re.findall(r"^(?:Job <)?\s*(\d[\w.\[\]-]*)", done.stdout, re.MULTILINE)


class BatchCluster(LaunchedCluster):
    """A scheduler here, and a job of a batch system for each worker: ask for some with `scale` or `adapt`.

    Args:
        system: "slurm", "pbs", "lsf" or "sge".
        cores, minutes, drain, lines, before: as in `BatchEngine`.
        options: as in `LaunchedCluster`.
    """

    def __init__(
        self, system: str, *, cores: int = 1, minutes: int = 60, drain: int = 60, lines: Sequence[str] = (),
        before: Sequence[str] = (), **options: Any,
    ) -> None:  # fmt: skip
        if system not in SYSTEMS:
            raise ValueError(f"system must be one of {', '.join(SYSTEMS)}, got {system!r}")
        super().__init__(
            lambda plan: BatchEngine(system, plan, cores, minutes, drain, lines, before), shared=True, **options
        )


class SlurmCluster(BatchCluster):
    """The same on Slurm: `with minidask.SlurmCluster(cores=16, minutes=240) as cluster: cluster.adapt(0, 20)`."""

    def __init__(self, **options: Any) -> None:
        super().__init__("slurm", **options)
