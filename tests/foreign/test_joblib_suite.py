"""joblib's own suite for parallel backends, with minidask among them (see docs/decisions.md for how)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.foreign.joblib_suite import OURS, SITE, run_suite

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


@pytest.mark.timeout(1200)
def test_joblibs_own_tests_of_parallel(tmp_path: Path) -> None:
    printed = run_suite(tmp_path, SITE, "joblib.test.test_parallel", "-k", OURS)
    ours = re.findall(r"::\S*minidask\S* (\w+)", printed)
    assert ours.count("PASSED") >= 60, printed[-3000:]
    assert set(ours) <= {"PASSED"}


@pytest.mark.timeout(120)
def test_joblibs_own_tests_of_large_data_where_they_are_about_backends(tmp_path: Path) -> None:
    printed = run_suite(tmp_path, MEMMAPPING_PLUGIN, *(f"joblib.test.test_memmapping::{test}" for test in MEMMAPPING))
    assert printed.count(" PASSED") == len(MEMMAPPING), printed[-3000:]
