"""joblib's own suite for parallel backends, with minidask among them (see docs/decisions.md for how)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# Child processes of other backends import minidask too: joblib's tests nest every backend in every other one.
SITE = "import minidask\n"
PLUGIN = "import minidask\n"


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
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    ours = re.findall(r"::\S*minidask\S* (\w+)", result.stdout)
    assert ours.count("PASSED") >= 60, result.stdout[-3000:]
    assert set(ours) <= {"PASSED"}
