"""A pytest plugin that makes a backend joblib's default, and keeps what became of each test.

`tests/foreign/sklearn_suite.py` runs the tests of others with it. It imports nothing else of the project's tests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import joblib.parallel
import pytest
import threadpoolctl

from minidask.backend.backend import MinidaskBackend

Outcome = tuple[str, float]


class Counted(MinidaskBackend):
    """Counts the calls that went to the cluster, lest a run without any should look like a success."""

    calls = 0

    def start_call(self) -> None:
        Counted.calls += 1
        super().start_call()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--joblib-backend", choices=["loky", "minidask"], default="loky", help="joblib's default backend")
    parser.addoption("--default-n-jobs", type=int, required=True, help="what n_jobs=None means on it")
    parser.addoption("--outcomes", required=True, help="the file for outcomes, one line a test")


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("--joblib-backend")
    backend = Counted if name == "minidask" else joblib.parallel.BACKENDS[name]
    _set_default_n_jobs(backend, config.getoption("--default-n-jobs"))
    joblib.parallel.register_parallel_backend(name, backend, make_default=True)
    config.pluginmanager.register(_Recorder(Path(config.getoption("--outcomes"))))


def pytest_sessionstart() -> None:
    """After scikit-learn's own limit: on a machine that does other things too, several threads wait for each other."""
    threadpoolctl.threadpool_limits(1)


def _set_default_n_jobs(backend: Any, default: int) -> None:
    """Also where joblib's own backends take None for 1."""
    effective = backend.effective_n_jobs
    backend.default_n_jobs = default
    backend.effective_n_jobs = lambda self, n_jobs: effective(self, default if n_jobs is None else n_jobs)


class _Recorder:
    """Writes a line when a test is over, so that those before a crash are there too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcome = "passed"
        self._seconds = 0.0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "setup":
            self._outcome, self._seconds = "passed", 0.0
        self._seconds += report.duration
        if report.outcome != "passed" and self._outcome != "failed":
            self._outcome = report.outcome
        if report.when == "teardown":
            with self._path.open("a") as file:
                file.write(json.dumps([report.nodeid, self._outcome, round(self._seconds, 3)]) + "\n")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.write_line(f"Parallel calls on minidask: {Counted.calls}")
