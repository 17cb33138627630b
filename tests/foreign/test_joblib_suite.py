"""joblib's own suite for parallel backends, with minidask among them (see docs/decisions.md for how)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minidask.host.folders import sweep

# Child processes of other backends import minidask too: joblib's tests nest every backend in every other one.
SITE = "import minidask\n"

# Calls on minidask, nested in and around the others; threads, which share its process; and the options of a call, as
# `eval_expr` is replaced. The rest of the suite, most of its time, is about other backends, with minidask imported. The
# two halves are two tests, so that two processes share them.
OURS = "minidask or threading or dispatch_one_job or dispatch_multiprocessing or njobs or pretty_print"


# joblib.test.test_memmapping has few tests of backends. Those that name two of joblib's get ours as a third; those that
# name none run on the default, which ours is made. Scripts that are given an import path of their own keep ours too.
MEMMAPPING_PLUGIN = """
import os
import subprocess

import joblib.parallel
import pytest

from minidask.backend.backend import MinidaskBackend

joblib.parallel.register_parallel_backend("minidask", MinidaskBackend, make_default=True)


class Popen(subprocess.Popen):
    def __init__(self, *args, env=None, **options):
        if env is not None:
            env = {**env, "PYTHONPATH": os.pathsep.join([env["PYTHONPATH"], os.environ["PYTHONPATH"]])}
        super().__init__(*args, env=env, **options)


subprocess.Popen = Popen


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc):
    for mark in metafunc.definition.iter_markers("parametrize"):
        if mark.args[0] == "backend" and "minidask" not in mark.args[1]:
            mark.args[1].append("minidask")
"""
MEMMAPPING = (
    "test_permission_error_windows_reference_cycle[minidask]",
    "test_permission_error_windows_memmap_sent_to_parent[minidask]",
    "test_many_parallel_calls_on_same_object[minidask]",
    "test_resource_tracker_silent_when_reference_cycles[minidask]",
    "test_direct_mmap",
    "test_parallel_memmap2d_as_memmap_1d_base",
)


def run_suite(folder: Path, plugin: str, *tests: str) -> str:
    """Run tests of joblib's with a plugin of ours, to success; returns what pytest printed."""
    (folder / "sitecustomize.py").write_text(SITE)
    (folder / "minidask_plugin.py").write_text(plugin)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-p", "minidask_plugin", "-p", "no:cacheprovider", "--pyargs", *tests]
    command += ["--timeout", "120", "-W", "default", "-v", "-c", os.devnull]
    result = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=580, check=False
    )
    sweep()  # loky ends its workers with SIGKILL, and a cluster nested in one of them with it, store and all
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    return result.stdout


@pytest.mark.timeout(240)
def test_joblibs_own_tests_of_parallel(tmp_path: Path) -> None:
    printed = run_suite(tmp_path, SITE, "joblib.test.test_parallel", "-k", OURS)
    ours = re.findall(r"::\S*minidask\S* (\w+)", printed)
    assert ours.count("PASSED") >= 60, printed[-3000:]
    assert set(ours) <= {"PASSED"}


@pytest.mark.timeout(600)
def test_joblibs_own_tests_of_other_backends(tmp_path: Path) -> None:
    run_suite(tmp_path, SITE, "joblib.test.test_parallel", "-k", f"not ({OURS})")


@pytest.mark.timeout(120)
def test_joblibs_own_tests_of_large_data_where_they_are_about_backends(tmp_path: Path) -> None:
    printed = run_suite(tmp_path, MEMMAPPING_PLUGIN, *(f"joblib.test.test_memmapping::{test}" for test in MEMMAPPING))
    assert printed.count(" PASSED") == len(MEMMAPPING), printed[-3000:]
