"""System calls and places that are mostly there: without them it works in another way, or says what is missing."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import Programs

ALL_KINDS = """
import os, signal, time
import numpy as np, minidask

def total(array):
    return float(array.sum())

def nested(i):
    client = minidask.get_client()
    return sum(client.gather(client.map(abs, [-i, -i])))

def pid():
    return os.getpid()

def all_kinds(client):
    data = np.arange(2**18)
    assert client.gather(client.map(total, [data] * 4)) == [data.sum()] * 4
    assert (client.submit(np.add, client.scatter(data), 1).result(60) == data + 1).all()
    assert client.gather(client.map(nested, range(4))) == [0, 2, 4, 6]
    killed = client.submit(pid).result(60)
    os.kill(killed, signal.SIGKILL)
    assert killed not in {client.submit(lambda: (time.sleep(0.05), os.getpid())[1]).result(60) for _ in range(4)}
"""

RUN = (
    ALL_KINDS
    + """
with minidask.Client(n_workers=2) as client:
    all_kinds(client)
print("all is right", flush=True)
"""
)

REFUSE = """
import errno, importlib, os
def refused(*_, **__):
    raise OSError({error}, os.strerror({error}))
for name in {names}:
    module, _, function = name.rpartition(".")
    setattr(importlib.import_module(module), function, refused)
"""


def refusing(folder: Path, error: int, *names: str) -> dict[str, str]:
    """The environment in which these functions fail, in every process."""
    (folder / "sitecustomize.py").write_text(REFUSE.format(names=names, error=error))
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


# --- system calls ---


@pytest.mark.parametrize(
    ("error", "names"),
    [
        (errno.EPERM, ("os.pidfd_open", "os.sched_setscheduler", "resource.prlimit", "resource.setrlimit")),
        (errno.ENOLCK, ("fcntl.flock",)),
        (errno.EOPNOTSUPP, ("fcntl.flock", "fcntl.lockf")),
        (errno.EOPNOTSUPP, ("os.link", "os.posix_fallocate")),
    ],
    ids=["sandbox", "flock", "no locks", "no links"],
)
def test_a_system_call_that_is_refused(programs: Programs, tmp_path: Path, error: int, names: tuple[str, ...]) -> None:
    program = programs.script(RUN, **refusing(tmp_path, error, *names))
    assert program.exit_code(60) == 0, program.text
    assert "all is right" in program.text
    assert "Traceback" not in program.text


def test_children_are_noticed_where_their_signal_is_ignored_or_blocked(programs: Programs) -> None:
    start = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    start += "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])\n"
    program = programs.script(start + RUN)
    assert program.exit_code(60) == 0, program.text


# --- places ---


def test_where_only_shared_memory_can_be_written_to(programs: Programs) -> None:
    if os.getuid() != 0 or not shutil.which("unshare"):
        pytest.skip("a file system of one's own needs root, and unshare")
    path = programs.folder / "run.py"
    path.write_text(RUN)
    command = f"""
        for place in $(findmnt -rno TARGET | grep -vE '^/(dev|proc|sys)(/|$)'); do
            mount --bind $place $place && mount -o remount,ro,bind $place
        done
        cd /
        if touch /tmp/x $HOME/x 2>/dev/null; then echo "not read-only"; exit 3; fi
        exec {sys.executable} {path}
    """
    environment = {"TMPDIR": "/tmp", "XDG_RUNTIME_DIR": "/run"}
    program = programs.start("unshare", "--mount", "sh", "-c", command, **environment)
    assert program.exit_code(60) == 0, program.text
    assert "all is right" in program.text


@pytest.mark.parametrize("place", ["/proc", "/dev/shm"])
def test_where_a_place_of_the_system_is_missing(programs: Programs, place: str) -> None:
    if os.getuid() != 0 or not shutil.which("unshare"):
        pytest.skip("a file system of one's own needs root, and unshare")
    path = programs.folder / "run.py"
    path.write_text(RUN)
    command = f"mount -t tmpfs -o ro none {place}; exec {sys.executable} {path}"
    program = programs.start("unshare", "--mount", "sh", "-c", command)
    assert program.exit_code(60) == 0, program.text
    assert "all is right" in program.text


CLEANED = (
    ALL_KINDS
    + """
import pathlib, shutil
with minidask.Client(n_workers=2) as client:
    for name in ("TMPDIR", "XDG_RUNTIME_DIR"):
        shutil.rmtree(os.environ[name])
    all_kinds(client)
    socket = pathlib.Path(client.address.removeprefix("unix://"))
    assert socket.stat().st_mode & 0o77 == socket.parent.stat().st_mode & 0o77 == 0
    with minidask.Client(client.address) as other:
        all_kinds(other)
print("all is right", [os.path.exists(os.environ[name] + "/minidask-") for name in ("TMPDIR", "XDG_RUNTIME_DIR")])
"""
)


def test_folders_that_are_removed_while_a_cluster_lives(programs: Programs, tmp_path: Path) -> None:
    places = {name: str(tmp_path / name[0]) for name in ("TMPDIR", "XDG_RUNTIME_DIR")}
    for place in places.values():
        os.mkdir(place)
    program = programs.script(CLEANED, **places)
    assert program.exit_code(60) == 0, program.text
    assert "all is right" in program.text
    assert not [path for place in places.values() for path in Path(place).glob("minidask-*")]


# --- limits ---

LIMITED = """
import resource, sys
soft, hard, workers = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
import minidask
try:
    with minidask.Client(n_workers=workers) as client:
        client.wait_for_workers(workers, 60)
        limits = client.submit(lambda: resource.getrlimit(resource.RLIMIT_NOFILE)).result(60)
        print("limits of a task:", *limits, flush=True)
except minidask.errors.MinidaskError as error:
    print("said:", error, flush=True)
"""


@pytest.mark.parametrize(
    ("soft", "hard", "workers", "text"),
    [
        (40, 200, 10, "limits of a task: 40 200"),
        (64, 64, 5, "limits of a task: 64 64"),
        (
            64,
            64,
            10,
            "said: 10 workers need 92 open files, and the limit of this process is 64: raise it (`ulimit -n 92`",
        ),
    ],
)
def test_a_limit_of_descriptors(programs: Programs, soft: int, hard: int, workers: int, text: str) -> None:
    program = programs.script(LIMITED, str(soft), str(hard), str(workers))
    assert program.exit_code(90) == 0, program.text
    assert text in program.text
    assert "Traceback" not in program.text


def test_a_worker_says_in_a_line_what_it_lacks(programs: Programs, tmp_path: Path) -> None:
    _, address = programs.scheduler()
    command = [sys.executable, "-m", "minidask.worker", address, "--nworkers", "20"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    few = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, timeout=60, check=False)
    assert (few.returncode, few.stderr.count("\n")) == (1, 1), few.stderr
    assert "20 workers need 152 open files" in few.stderr
    for limit_of_files in (9, 12, 20):  # with 8 Python itself does not start
        for daemon in ([sys.executable, "-m", "minidask.scheduler", "--port", "0"], [*command[:4], "--nworkers", "1"]):
            files = (limit_of_files, limit_of_files)
            least = subprocess.run(
                daemon,
                preexec_fn=lambda files=files: resource.setrlimit(resource.RLIMIT_NOFILE, files),  # type: ignore[misc]
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert (least.returncode, least.stderr.count("\n")) == (1, 1), least.stderr
            assert "open files, and the limit of this process is" in least.stderr
    command += ["--local-directory", str(tmp_path / "missing")]
    missing = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert missing.returncode == 2  # wrong usage
    assert missing.stderr.splitlines()[-1].endswith("is no folder: make it first")


NO_PROCESSES = """
import os, signal, sys, minidask
flag = sys.argv[1]
with minidask.Client(n_workers=1) as client:
    pid = client.submit(os.getpid).result(60)
    open(flag, "w").close()
    os.kill(pid, signal.SIGKILL)
    future = client.submit(abs, -5)
    print("submitted", flush=True)
    print("result", future.result(60), flush=True)
"""

FAILING_POPEN = """
import os, subprocess
start = subprocess.Popen.__init__
def fail_now_and_then(self, *arguments, **options):
    if os.path.exists({flag!r}):
        raise BlockingIOError(11, "Resource temporarily unavailable")
    start(self, *arguments, **options)
subprocess.Popen.__init__ = fail_now_and_then
"""


def test_a_process_that_cannot_be_started_for_a_moment_is_tried_again(programs: Programs, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    (tmp_path / "sitecustomize.py").write_text(FAILING_POPEN.format(flag=str(flag)))
    program = programs.script(NO_PROCESSES, str(flag), PYTHONPATH=str(tmp_path))
    program.wait_for(
        "worker 0 cannot be started: [Errno 11] Resource temporarily unavailable; trying again in 0.2 seconds"
    )
    flag.unlink()
    program.wait_for("result 5")
    assert program.exit_code(30) == 0, program.text


def test_where_no_process_can_be_started_a_cluster_says_so(programs: Programs, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    (tmp_path / "sitecustomize.py").write_text(FAILING_POPEN.format(flag=str(flag)))
    script = (
        "import minidask\ntry:\n    minidask.Client()\nexcept minidask.errors.MinidaskError as error:\n    print(error)"
    )
    program = programs.script(script, PYTHONPATH=str(tmp_path))
    assert program.exit_code(30) == 0, program.text
    assert program.text == "the local cluster did not start: [Errno 11] Resource temporarily unavailable\n"
    assert not list(Path("/dev/shm").glob(f"minidask-{program.process.pid}-*"))
