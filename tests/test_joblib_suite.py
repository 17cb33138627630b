"""joblib's own suite for parallel backends, with minidask among them (see docs/decisions.md for how)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minidask.folders import sweep

# Child processes of other backends import minidask too: joblib's tests nest every backend in every other one.
SITE = "import minidask\n"
PLUGIN = """
import ast
import sys
import threading

import minidask

# Python 3.11 counts the depth of all `ast.parse` calls in one place (cpython gh-106905), and joblib calls it from the
# threads of its threading backend: now and then "SystemError: AST constructor recursion depth mismatch", with any
# backend. One at a time, the tests tell about backends alone.
if sys.version_info < (3, 12):
    parse, one_at_a_time = ast.parse, threading.RLock()

    def parse_alone(*args, **kwargs):
        with one_at_a_time:
            return parse(*args, **kwargs)

    ast.parse = parse_alone
"""


@pytest.mark.timeout(600)
def test_joblibs_own_tests_of_parallel(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    (tmp_path / "minidask_plugin.py").write_text(PLUGIN)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-p", "minidask_plugin", "-p", "no:cacheprovider", "--pyargs"]
    command += ["joblib.test.test_parallel", "--timeout", "120", "-W", "default", "-v", "-c", os.devnull]
    result = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=580, check=False
    )
    sweep()  # loky ends its workers with SIGKILL, and a cluster nested in one of them with it, store and all
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    ours = re.findall(r"::\S*minidask\S* (\w+)", result.stdout)
    assert ours.count("PASSED") >= 60, result.stdout[-3000:]
    assert set(ours) <= {"PASSED"}
