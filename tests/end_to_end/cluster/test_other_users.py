"""Other users of this machine plant files, look at processes and knock at sockets: it gains them nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import minidask
from minidask.host.folders import SHARED_MEMORY, owner
from minidask.net.access import default_access_file, load_access
from tests.helpers import Programs, our_processes

BECOMES_NOBODY = """
import os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
"""

PLANTS = """
gone, mine = sys.argv[1:]
os.umask(0)
os.mkdir(f"/dev/shm/minidask-{gone}-planted")
os.symlink(mine, f"/dev/shm/minidask-{gone}-linked")
os.mkdir("/dev/shm/minidask-1-2")
"""

KNOCKS = """
reached = []
for path in sys.argv[1:]:
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
        reached.append(path)
    except OSError:
        pass
    for how in (os.O_RDONLY, os.O_WRONLY):
        try:
            os.close(os.open(path, how))
            reached.append(path)
        except OSError:
            pass
print(reached)
"""

CLUSTER = """
import os, time, numpy as np, minidask
os.umask(0)
with minidask.Client(n_workers=1) as client:
    array = np.ones(1 << 20)
    assert client.submit(np.sum, array).result(30) == 1 << 20
    kept = client.submit(np.ones, 1 << 20).result(30)
    print(client.shell.connection.address.path, client.shell.store.folder, flush=True)
    time.sleep(100)
"""


def as_nobody(program: str, *arguments: str) -> str:
    """Run a program as another user, which takes root: the interpreter may be in a folder that only root can read."""
    command = [sys.executable, "-c", BECOMES_NOBODY + program, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def a_process_that_is_gone() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.alone  # it looks at what lies in shared memory
def test_files_of_others_stop_nobody_and_are_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    gone = owner(a_process_that_is_gone())
    as_nobody(PLANTS, gone, str(precious))
    planted = [SHARED_MEMORY / f"minidask-{gone}-{what}" for what in ("planted", "linked")]
    planted.append(SHARED_MEMORY / "minidask-1-2")
    try:
        with minidask.Client(n_workers=1) as client:
            assert client.submit(abs, -1).result(30) == 1
        assert precious.exists()
        assert all(path.is_symlink() or path.exists() for path in planted)
    finally:
        for path in planted:
            path.unlink() if path.is_symlink() else path.rmdir()


def test_another_user_reaches_nothing_of_a_cluster_whatever_the_umask(programs: Programs) -> None:
    program = programs.script(CLUSTER)
    socket_path, store = program.wait_for("\n").split()
    found = {Path(socket_path), *Path(socket_path).parent.rglob("*"), *Path(store).rglob("*")}
    folders = {Path(socket_path).parent, Path(store), *(path for path in found if path.is_dir())}
    assert len(found) > 4
    for path in found | folders:
        if not path.is_symlink():
            assert not path.stat().st_mode & 0o077, path
    reached = as_nobody(KNOCKS, *map(str, found | folders))
    assert reached == "[]\n"


def test_nothing_tells_the_secret(programs: Programs) -> None:
    scheduler, address = programs.scheduler("--log-level", "debug")
    worker = programs.worker(address, "--nworkers", "1", "--log-level", "debug")
    secret = load_access(default_access_file()).secret
    forms = [secret, secret.hex().encode(), repr(secret).encode()]
    with minidask.Client(address) as client:
        seen = client.submit(lambda: (dict(os.environ), sys.argv)).result(30)
        told = [repr(seen), scheduler.text, worker.text, str(client.scheduler_info()), repr(vars(client))]
    for process in [psutil.Process(number) for number in programs.pids()] + our_processes():
        folder = Path(f"/proc/{process.pid}")
        told += [(folder / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")]
    for text in told:
        assert not any(form in text.encode() for form in forms)
