"""A fast part of scikit-learn's own tests on minidask, and the command that runs the rest; see `sklearn_suite.py`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.foreign.sklearn_suite import (
    CRASHED,
    DIED,
    MODULES,
    Results,
    compare,
    differing,
    find_tests,
    run_module,
    table,
)


@pytest.mark.timeout(150)
def test_scikit_learns_tests_of_multioutput_pass(tmp_path: Path) -> None:
    # One test compares sums of floats that a forest's threads add up in the order in which they happen to end.
    keyword = "not test_multi_output_classification or partial_fit"
    outcomes = run_module("multioutput", "minidask", tmp_path, n_jobs=-1, timeout=60, limit=140, keyword=keyword)
    log = (tmp_path / "multioutput-minidask.log").read_text()
    assert {outcome for outcome, _ in outcomes.values()} <= {"passed", "skipped"}, log[-5000:]
    assert len(outcomes) > 50
    (calls,) = re.findall(r"Parallel calls on minidask: (\d+)", log)
    assert int(calls) > 50


def test_a_run_that_ends_early_is_told(tmp_path: Path) -> None:
    outcomes = run_module("multioutput", "loky", tmp_path, n_jobs=1, timeout=60, limit=0.01, keyword="")
    assert outcomes == {CRASHED: (DIED, 0.0)}


def test_all_modules_are_found_and_others_refused() -> None:
    assert all(find_tests(module).exists() for module in MODULES)
    with pytest.raises(ValueError, match="no tests of a module 'nothing'"):
        find_tests("nothing")


def test_what_differs_is_told() -> None:
    loky = {"a": ("passed", 1.0), "b": ("passed", 1.0), "c": ("skipped", 0.0)}
    ours = {"a": ("passed", 1.0), "b": ("failed", 2.0), CRASHED: (DIED, 0.0)}
    results: Results = {"cluster": {"loky": loky, "minidask": ours}, "pipeline": {"loky": loky}}
    assert differing(results) == [
        "cluster: b: passed on loky, failed on minidask",
        "cluster: c: skipped on loky, not run on minidask",
        f"cluster: {CRASHED}: not run on loky, {DIED} on minidask",
    ]
    assert re.search(
        r"cluster +2 / 0 / 1 in 2 s +1 / 1 / 0, died in 3 s\npipeline +2 / 0 / 1 in 2 s +-$", table(results)
    )
    mended: Results = {"cluster": {"minidask": loky}}
    assert compare(results, mended)[1] == "cluster: b: failed on old, passed on new"
