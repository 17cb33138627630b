"""Runs joblib's own tests with a plugin of ours; see docs/decisions.md for how."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from minidask.host.folders import sweep

# Child processes of other backends import minidask too: joblib's tests nest every backend in every other one.
SITE = "import minidask\n"

# Calls on minidask, nested in and around the others; threads, which share its process; and the options of a call, as
# `eval_expr` is replaced. The rest of the suite, most of its time, is about other backends, with minidask imported. The
# two halves are tests of two files, so that two processes share them.
OURS = "minidask or threading or dispatch_one_job or dispatch_multiprocessing or njobs or pretty_print"


def run_suite(folder: Path, plugin: str, *tests: str) -> str:
    """Run tests of joblib's with a plugin of ours, to success; returns what pytest printed."""
    (folder / "sitecustomize.py").write_text(SITE)
    (folder / "minidask_plugin.py").write_text(plugin)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-p", "minidask_plugin", "-p", "no:cacheprovider", "--pyargs", *tests]
    command += ["--timeout", "120", "-W", "default", "-v", "-c", os.devnull]
    result = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=1180, check=False
    )
    sweep()  # loky ends its workers with SIGKILL, and a cluster nested in one of them with it, store and all
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    return result.stdout
