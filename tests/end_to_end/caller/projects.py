"""Projects of callers: folders with modules, scripts in them, and a worker that cannot see them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.helpers import Program, Programs

PRELUDE = """
import os, sys, minidask
client = minidask.Client(sys.argv[1])
def run(function, *arguments):
    return client.submit(function, *arguments).result(60)
"""


def project(folder: Path, **modules: str) -> Path:
    """A folder with these modules."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in modules.items():
        path = folder / (name.replace("__in__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


def ran(folder: Path, address: str, text: str, *options: str, cwd: Path | None = None, **environment: str) -> str:
    """What a script of a project prints; `run(function, *arguments)` is there."""
    script = folder / "program.py"
    script.write_text(PRELUDE + textwrap.dedent(text))
    result = subprocess.run(
        [sys.executable, *options, str(script), address],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd or folder,
        env={**os.environ, **environment},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def far_worker(programs: Programs, address: str, hidden: Path, *options: str, **environment: str) -> Program:
    """A worker for which a folder is empty, as on another machine."""
    command = [sys.executable, "-m", "minidask.worker", address, "--nworkers", "1", "--name", "far", *options]
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a mount namespace")
    line = f"mount -t tmpfs none {hidden} && cd / && exec " + " ".join(command)
    worker = programs.start("unshare", "-m", "sh", "-c", line, **environment)
    worker.wait_for("joined the scheduler")
    return worker
