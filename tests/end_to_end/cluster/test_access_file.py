"""One file lets a machine in: given by the command that the scheduler prints, and changed while all run."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import minidask
from minidask.errors import AuthenticationError
from minidask.host.networks import host_for_others
from minidask.net.access import default_access_file, load_access, save_access
from minidask.scheduler.__main__ import give_command
from tests.helpers import Programs, wait_until


def runs_for_a_while(path: str) -> None:
    Path(path).touch()
    time.sleep(3)


def test_the_command_that_is_printed_is_all_that_another_machine_needs(programs: Programs, tmp_path: Path) -> None:
    scheduler, address = programs.scheduler()
    printed = next(line.strip() for line in scheduler.text.splitlines() if line.strip().startswith("ssh NODE"))
    assert printed == give_command(load_access(default_access_file()))
    home = tmp_path / "another machine"
    home.mkdir()
    subprocess.run(["bash", "-c", printed.replace("ssh NODE", f"HOME='{home}' bash -c")], check=True, timeout=30)
    there = home / ".local" / "state" / "minidask" / "access"
    for path in (there, there.parent, home / ".local"):
        assert not path.stat().st_mode & 0o077, path
    elsewhere = {"HOME": str(home), "XDG_STATE_HOME": ""}
    worker = programs.start(sys.executable, "-m", "minidask.worker", "--nworkers", "1", **elsewhere)
    worker.wait_for("joined the scheduler")
    with minidask.Client(access_file=there) as client:
        assert client.address == address
        assert client.submit(abs, -1).result(30) == 1


def test_who_has_the_old_secret_is_let_in_no_more(programs: Programs, tmp_path: Path) -> None:
    _, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "1")
    old, path = load_access(default_access_file()), tmp_path / "old"
    save_old = ["bash", "-c", f"umask 077; cat {old.source} > {path}"]
    subprocess.run(save_old, check=True)
    late = programs.worker(address, "--nworkers", "1", "--access-file", str(path), "--name", "late")
    with minidask.Client(address) as client, minidask.Client(address, access_file=path) as stranger:
        client.wait_for_workers(2)
        future = client.submit(runs_for_a_while, str(tmp_path / "runs"))
        wait_until((tmp_path / "runs").exists, "it runs")
        command = [sys.executable, "-m", "minidask.scheduler", "--new-secret"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
        assert "has a new secret" in ended.stdout
        assert load_access(default_access_file()) == old._replace(secret=load_access(default_access_file()).secret)
        wait_until(lambda: stranger.closed, "the old secret is of no use")
        assert future.result(30) is None, "those with the new one go on"
        with pytest.raises(AuthenticationError, match="the same secret"):
            minidask.Client(address, access_file=path)
        late.wait_for("does not hold the same secret")
        assert late.process.poll() is None, "it waits for its file"
        save_access(load_access(default_access_file())._replace(source=str(path)))
        client.wait_for_workers(2, timeout=30)
        assert worker.process.poll() is None


def test_an_access_file_without_an_address(programs: Programs, tmp_path: Path) -> None:
    path = tmp_path / "access"
    path.touch(0o600)
    path.write_text("ab" * 32 + "\n")
    with pytest.raises(ValueError, match="has no address: name the scheduler's"):
        minidask.Client(access_file=path)
    worker = programs.start(sys.executable, "-m", "minidask.worker", "--access-file", str(path))
    assert worker.exit_code() == 1
    assert "has no address: name the scheduler's, minidask-worker ADDRESS" in worker.text


def test_a_scheduler_on_all_networks_is_known_by_its_host(programs: Programs, tmp_path: Path) -> None:
    path = tmp_path / "access"
    scheduler, _ = programs.scheduler("--host", "0.0.0.0", "--access-file", str(path))
    address = load_access(path).address
    assert address is not None
    assert address.host == host_for_others()
    assert address.host not in ("0.0.0.0", "127.0.0.1")
    assert f"minidask-worker {address}" in scheduler.text
