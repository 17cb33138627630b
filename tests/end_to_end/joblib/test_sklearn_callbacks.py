"""scikit-learn's callbacks on workers, which need not be on the caller's machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import psutil
import pytest

import minidask
from tests.helpers import Programs, at_rest, wait_until

ROOT = Path(__file__).parents[3]
callback = pytest.importorskip("sklearn.callback")
utils = pytest.importorskip("sklearn.callback.tests._utils")
adapter = pytest.importorskip("minidask.task.sklearn_callbacks")


def fit_search() -> Any:
    monitor = callback.ScoringMonitor(scoring="r2")
    X = np.random.RandomState(0).rand(30, 2)
    estimator = utils.MaxIterEstimator(max_iter=2).set_callbacks(monitor)
    utils.MetaEstimator(estimator, n_jobs=2, prefer="processes").fit(X, X[:, 0])
    return monitor.get_logs().data


def test_scores_are_those_of_a_sequential_fit_and_no_process_keeps_descriptors(client: minidask.Client) -> None:
    with joblib.parallel_config("sequential"):
        expected = fit_search()
    with joblib.parallel_config("minidask"):
        for _ in range(10):
            assert fit_search() == expected
        wait_until(lambda: at_rest(client), "no worker had a queue open")
        before = descriptors_of_all()
        for _ in range(10):
            fit_search()
    wait_until(lambda: descriptors_of_all() == before, f"all had as many descriptors as before: {before}")
    assert len(before) >= 3


def descriptors_of_all() -> dict[int, int]:
    """By process that this one has started, at any depth: the descriptors that it has open."""
    return {process.pid: process.num_fds() for process in psutil.Process().children(recursive=True)}


def test_a_search_fitted_in_a_task_has_told_all_when_its_result_is_there(client: minidask.Client) -> None:
    monitor = callback.ScoringMonitor(scoring="r2")
    estimator = utils.MaxIterEstimator(max_iter=50, computation_intensity=0).set_callbacks(monitor)
    X = np.random.RandomState(0).rand(30, 2)
    for fits in range(1, 10):
        client.submit(estimator.fit, X, X[:, 0]).result()
        assert len(monitor.get_logs(select="all")) == fits
        assert len(monitor.get_logs().data) == 51


def test_the_same_in_threads_of_this_process(thread_client: minidask.Client) -> None:
    with joblib.parallel_config("sequential"):
        expected = fit_search()
    with joblib.parallel_config("minidask"):
        assert fit_search() == expected


def test_this_scikit_learn_is_one_that_the_adapter_was_made_for() -> None:
    assert adapter._differences(adapter._transport) == []
    assert "ListenerHandle is not (address, authkey)" in adapter._differences(object())


# --- workers that share no file system with the caller ---


def start_far_worker(programs: Programs, address: str, name: str) -> None:
    """A worker whose /tmp and /dev/shm are its own, but for the sources, which may lie there."""
    command = [sys.executable, "-m", "minidask.worker", address, "--nworkers", "1", "--name", name]
    access = f"{os.environ['XDG_STATE_HOME']}/minidask/access"
    script = f"""
        set -e
        umask 077
        mount -t tmpfs none /dev/shm
        exec 3< {access}
        mkdir /dev/shm/kept
        mount --bind {ROOT} /dev/shm/kept
        mount -t tmpfs none /tmp
        mkdir -p {ROOT}
        mount --bind /dev/shm/kept {ROOT}
        umount /dev/shm/kept
        rmdir /dev/shm/kept
        cd /tmp
        cat <&3 > access
        exec 3<&-
        exec {" ".join(command)}
    """
    worker = programs.start("unshare", "-m", "sh", "-c", script, MINIDASK_ACCESS_FILE="/tmp/access")
    worker.wait_for("joined the scheduler")


@pytest.fixture
def far_client(programs: Programs) -> Iterator[minidask.Client]:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a mount namespace")
    _, address = programs.scheduler()
    for name in ("far", "farther"):
        start_far_worker(programs, address, name)
    with minidask.Client(address) as client:
        wait_until(lambda: sum(client.nthreads().values()) == 2, "both workers had joined")
        yield client


def fit_grid_search() -> tuple[Any, Any]:
    """A search with both kinds of callbacks; its scores, and those that the monitor has logged."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    X = np.random.RandomState(0).rand(60, 3)
    monitor = callback.ScoringMonitor(scoring="accuracy")
    estimator = LogisticRegression().set_callbacks(monitor)
    search = GridSearchCV(estimator, {"C": [0.1, 1.0, 10.0]}, cv=3, n_jobs=2, error_score="raise")
    search.set_callbacks(callback.ProgressBar()).fit(X, X[:, 0] > 0.5)
    return search.cv_results_["mean_test_score"].tolist(), monitor.get_logs().data


def test_a_search_on_workers_that_share_no_files_is_as_a_sequential_one(
    far_client: minidask.Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "200")  # else the bars are cut off
    with joblib.parallel_config("sequential"):
        expected = fit_grid_search()
    drawn = capsys.readouterr().out
    with joblib.parallel_config("minidask"):
        assert fit_grid_search() == expected
    assert capsys.readouterr().out.count("100%") == drawn.count("100%") > 0
    assert len(expected[1]) > 9


# --- what goes wrong, and what is nested ---


class Failing:
    """A callback that raises in the task."""

    def setup(self, estimator: Any, context: Any) -> None: ...
    def teardown(self, estimator: Any, context: Any) -> None: ...
    def on_fit_task_begin(self, estimator: Any, context: Any) -> None: ...
    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        if context.task_name.startswith("iteration"):
            raise ZeroDivisionError("in a callback")


def test_what_a_callback_raises_in_a_task_is_raised_by_the_fit(client: minidask.Client) -> None:
    estimator = utils.MaxIterEstimator(max_iter=2).set_callbacks(Failing())
    with joblib.parallel_config("minidask"), pytest.raises(ZeroDivisionError, match="in a callback"):
        utils.MetaEstimator(estimator, n_jobs=2, prefer="processes").fit()
    with joblib.parallel_config("minidask"):
        assert fit_search()


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_searches_in_tasks_report_too(client: minidask.Client, n_jobs: int) -> None:
    def fit(monitor: Any) -> None:
        estimator = utils.MaxIterEstimator(max_iter=2, computation_intensity=0).set_callbacks(monitor)
        X = np.random.RandomState(0).rand(30, 2)
        with joblib.parallel_config("minidask"):
            utils.MetaEstimator(estimator, n_outer=2, n_jobs=n_jobs, prefer="processes").fit(X, X[:, 0])

    monitors = [callback.ScoringMonitor(scoring="r2") for _ in range(3)]
    with joblib.parallel_config("minidask"):
        joblib.Parallel(n_jobs=2)(joblib.delayed(fit)(monitor) for monitor in monitors)
    fit(expected := callback.ScoringMonitor(scoring="r2"))
    for monitor in monitors:
        assert monitor.get_logs().data == expected.get_logs().data


def test_a_monitor_outlives_its_client() -> None:
    monitor = callback.ScoringMonitor(scoring="r2")
    estimator = utils.MaxIterEstimator(max_iter=2, computation_intensity=0).set_callbacks(monitor)
    X = np.random.RandomState(0).rand(30, 2)
    for fits in (1, 2):
        with minidask.Client(n_workers=1) as client:
            client.submit(estimator.fit, X, X[:, 0]).result()
        assert len(monitor.get_logs(select="all")) == fits
    estimator.fit(X, X[:, 0])
    assert len(monitor.get_logs(select="all")) == 3
