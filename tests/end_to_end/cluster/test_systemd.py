"""The daemons as services: what they tell systemd, and what their units allow."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import minidask
from tests.helpers import Programs

UNITS = sorted((Path(__file__).parents[3] / "docs" / "systemd").glob("*.service"))


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(30)
        yield sock


def test_daemons_say_that_they_are_ready_alive_and_ending(manager: socket.socket, programs: Programs) -> None:
    told = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "200000"}
    scheduler = programs.start(sys.executable, "-m", "minidask.scheduler", "--port", "0", **told)
    address = scheduler.wait_for("minidask.Client(").split('"')[1]
    assert [manager.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
    scheduler.send(signal.SIGSTOP)  # one that hangs says nothing
    while True:
        manager.settimeout(1)
        try:
            assert manager.recv(100) == b"WATCHDOG=1"
        except TimeoutError:
            break
    scheduler.send(signal.SIGCONT)
    manager.settimeout(30)
    worker = programs.start(
        sys.executable, "-m", "minidask.worker", address, "--nworkers", "1", **{**told, "WATCHDOG_USEC": ""}
    )
    while manager.recv(100) != b"READY=1":
        pass
    with minidask.Client(address) as client:
        assert client.submit(os.getenv, "NOTIFY_SOCKET").result(30) is None, "it is not for tasks"
    for program in (worker, scheduler):
        program.send(signal.SIGTERM)
        while manager.recv(100) != b"STOPPING=1":
            pass
        assert program.exit_code() == 0


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_allows_little(unit: Path) -> None:
    text = unit.read_text()
    for line in ("Type=notify", "KillMode=mixed", "Restart=always", "NoNewPrivileges=yes", "UMask=0077"):
        assert line in text.splitlines()
    if shutil.which("systemd-analyze"):
        command = ["systemd-analyze", "security", "--offline=true", "--threshold=29", "--no-pager", str(unit)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=50)
        assert ended.returncode == 0, ended.stdout + ended.stderr
