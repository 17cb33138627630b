"""Cores and memory of this machine, as far as this process may use them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import joblib
import psutil
import pytest

from minidask.host.resources import cpu_count, memory_total, thread_limits


def test_cores_are_counted_as_joblib_counts_them() -> None:
    assert cpu_count() == joblib.cpu_count()
    code = "import minidask.host.resources, joblib; print(minidask.host.resources.cpu_count(), joblib.cpu_count())"
    for environment, prefix in (({"LOKY_MAX_CPU_COUNT": "1"}, []), ({}, ["taskset", "-c", "0"])):
        command = [*prefix, sys.executable, "-c", code]
        result = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
        assert result.stdout.split() == ["1", "1"]


def control_groups(root: Path, membership: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/a/b\n", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000"}, 1),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "90000", "cpu/x/cpu.cfs_period_us": "100000"}, 1),
        ("4:memory:/x\n", {"cpu/x/cpu.cfs_quota_us": "90000", "cpu/x/cpu.cfs_period_us": "100000"}, None),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("", {}, None),
    ],
)
def test_a_containers_quota_counts(membership: str, files: dict[str, str], cores: int | None, tmp_path: Path) -> None:
    assert cpu_count(control_groups(tmp_path, membership, files)) == (cores or joblib.cpu_count())


def test_a_containers_memory_counts(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    two = control_groups(tmp_path / "2", "0::/a\n", {"memory.max": "1000000", "a/memory.max": "max"})
    one = control_groups(tmp_path / "1", "9:memory:/a\n", {"memory/a/memory.limit_in_bytes": "2000000"})
    assert memory_total(two) == 1_000_000
    assert memory_total(one) == 2_000_000
    assert memory_total(control_groups(tmp_path / "0", "", {})) == total


def test_library_threads_leave_alone_what_the_user_set() -> None:
    limits = thread_limits(10**6, {"OMP_NUM_THREADS": "3"})
    assert "OMP_NUM_THREADS" not in limits
    assert limits["OPENBLAS_NUM_THREADS"] == "1"
    assert thread_limits(1, {})["MKL_NUM_THREADS"] == str(cpu_count())
    assert thread_limits(0, {})["MKL_NUM_THREADS"] == str(cpu_count())
