"""A Slurm of this machine's own: munged, slurmctld and one slurmd of Debian's, with a configuration in one folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
MinJobAge=300
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def have_slurm() -> bool:
    """Whether this machine has what these tests need: root, and Debian's slurmctld, slurmd and munge."""
    return os.getuid() == 0 and all(shutil.which(program) for program in PROGRAMS)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in sockets]


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """The variables that have Slurm's commands use it."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(folder=folder, host=host, ports=free_ports(2), cpus=os.cpu_count() or 1)
    )
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    environment = {"SLURM_CONF": str(configuration)}
    names = {"key-file": key, "socket": f"{folder}/munge.socket", "pid-file": f"{folder}/munge.pid"}
    names |= {"log-file": f"{folder}/munge.log", "seed-file": f"{folder}/munge.seed"}
    commands = [
        ["munged", "--foreground", "--force", *(f"--{name}={value}" for name, value in names.items())],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-N", host],
    ]
    with contextlib.ExitStack() as stack:
        for command in commands:
            log = (folder / f"{command[0]}.out").open("w")
            stack.callback(log.close)
            daemon = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
            stack.callback(_end, daemon)
            if command[0] == "munged":
                wait_until((folder / "munge.socket").exists, "munged listened")

        def idle() -> bool:
            told = subprocess.run(
                ["sinfo", "-h", "-o", "%t"],
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                timeout=20,
            )
            return told.stdout.strip() in ("idle", "mix")

        wait_until(idle, "Slurm's node was there")
        yield environment
        subprocess.run(["scancel", "--me"], env={**os.environ, **environment}, timeout=20, capture_output=True)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
