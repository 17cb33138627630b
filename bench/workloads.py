"""What is measured. A workload runs on whichever engine is joblib's backend, checks its result, and returns one figure.

Sizes are for a machine of 2 cores; `short` runs prove only that a workload works, and their figures mean nothing.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import neg
from typing import Any

import joblib
import numpy as np
from joblib import Parallel, delayed


@dataclass(frozen=True)
class Workload:
    """One row of the table. `run(short)` returns the figure, in `unit`; less is better."""

    name: str
    title: str
    unit: str
    run: Callable[[bool], float]


WORKLOADS: dict[str, Workload] = {}


def workload(title: str, unit: str) -> Callable[[Callable[[bool], float]], Callable[[bool], float]]:
    """Add a function to `WORKLOADS` under its name."""

    def add(function: Callable[[bool], float]) -> Callable[[bool], float]:
        WORKLOADS[function.__name__] = Workload(function.__name__, title, unit, function)
        return function

    return add


def _timed(call: Callable[[], Any], check: Callable[[Any], bool]) -> float:
    began = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - began
    if not check(result):
        raise AssertionError("the result is wrong")
    return seconds


def _per_task(function: Callable[[int], int], count: int, **options: Any) -> float:
    """Microseconds for each of `count` calls."""
    Parallel(**options)(delayed(function)(i) for i in range(4))
    seconds = _timed(
        lambda: Parallel(**options)(delayed(function)(i) for i in range(count)),
        lambda result: result == [-i for i in range(count)],
    )
    return seconds / count * 1e6


@workload("no-op, batch_size=1, importable function", "us/task")
def noop(short: bool) -> float:
    return _per_task(neg, 50 if short else 1000, batch_size=1)


@workload("no-op, batch_size=1, function sent by value", "us/task")
def noop_by_value(short: bool) -> float:
    return _per_task(lambda i: -i, 50 if short else 1000, batch_size=1)


@workload('no-op, batch_size=1, pre_dispatch="all"', "us/task")
def noop_all(short: bool) -> float:
    return _per_task(neg, 50 if short else 1000, batch_size=1, pre_dispatch="all")


@workload('no-op, batch_size="auto"', "us/task")
def noop_auto(short: bool) -> float:
    return _per_task(neg, 200 if short else 20_000)


@workload("a Parallel call of one task", "ms")
def one_task(short: bool) -> float:
    Parallel()([delayed(neg)(1)])
    count = 2 if short else 10
    return (
        _timed(lambda: [Parallel()([delayed(neg)(1)]) for _ in range(count)], lambda r: r == [[-1]] * count)
        / count
        * 1e3
    )


@functools.cache
def _array(mebibytes: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random(mebibytes * 2**17)


def _ends(array: np.ndarray[Any, Any], i: int) -> float:
    return float(array[0] + array[-1]) + i


def _with_array(array: np.ndarray[Any, Any]) -> float:
    expected = [_ends(array, i) for i in range(4)]
    return _timed(lambda: Parallel()(delayed(_ends)(array, i) for i in range(4)), lambda r: r == expected)


@workload("4 tasks with one argument of 256 MiB, first call", "s")
def large_first(short: bool) -> float:
    array = _array(4 if short else 256)
    array[1] = time.perf_counter()  # data that no engine has seen before
    return _with_array(array)


@workload("4 tasks with one argument of 256 MiB, next call", "s")
def large_next(short: bool) -> float:
    array = _array(4 if short else 256)
    _with_array(array)
    return _with_array(array)


@workload("100 results of 8 MiB", "s")
def large_results(short: bool) -> float:
    count = 4 if short else 100
    return _timed(
        lambda: Parallel()(delayed(np.full)(2**20, float(i)) for i in range(count)),
        lambda r: [a[-1] for a in r] == list(range(count)),
    )


@workload("400 tasks with arguments of 100 KiB", "s")
def medium_arguments(short: bool) -> float:
    arrays = [np.full(12_800, float(i)) for i in range(10 if short else 400)]
    return _timed(
        lambda: Parallel(batch_size=1)(delayed(_ends)(a, 0) for a in arrays), lambda r: r == [2 * a[0] for a in arrays]
    )


@functools.cache
def _digits(short: bool) -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.data[:200], digits.target[:200]) if short else (digits.data, digits.target)


@workload("RandomizedSearchCV of 50 support vector machines", "s")
def randomized_search(short: bool) -> float:
    from sklearn.model_selection import RandomizedSearchCV
    from sklearn.svm import SVC

    space = {"C": np.logspace(-6, 6, 13), "gamma": np.logspace(-8, 8, 17), "class_weight": [None, "balanced"]}
    search = RandomizedSearchCV(SVC(), space, cv=3, n_iter=4 if short else 50, random_state=0)
    return _timed(lambda: search.fit(*_digits(short)), lambda s: s.best_score_ > 0.05)


@workload("GridSearchCV of 200 short fits", "s")
def grid_search(short: bool) -> float:
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV

    grid = {"alpha": np.logspace(-3, 3, 2 if short else 40)}
    search = GridSearchCV(Ridge(), grid, cv=5)
    return _timed(lambda: search.fit(*_digits(short)), lambda s: s.best_score_ > 0)


@workload("RandomForestClassifier of 400 trees", "s")
def forest(short: bool) -> float:
    from sklearn.ensemble import RandomForestClassifier

    trees = 10 if short else 400
    model = RandomForestClassifier(trees, n_jobs=-1, random_state=0)
    return _timed(lambda: model.fit(*_digits(short)), lambda m: len(m.estimators_) == trees)


@workload("search over 12 forests of 30 trees, nested", "s")
def nested_forests(short: bool) -> float:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV

    model = RandomForestClassifier(5 if short else 30, n_jobs=-1, random_state=0)
    search = GridSearchCV(model, {"max_depth": [2, 4, 8, None]}, cv=3)
    return _timed(lambda: search.fit(*_digits(short)), lambda s: s.best_score_ > 0.3)


def _nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@workload("a straggler of 1 s among 100 tasks of 20 ms: time over the ideal", "s")
def straggler(short: bool) -> float:
    naps = [0.02] * (4 if short else 100)
    naps[len(naps) // 2] = 0.1 if short else 1.0
    workers = joblib.effective_n_jobs(-1)
    ideal = max(sum(naps) / workers, max(naps))
    return _timed(lambda: Parallel()(delayed(_nap)(n) for n in naps), lambda r: r == naps) - ideal


MISSING = {
    "cold": "process start to first result; import time and install size",
    "memory": "peak memory of all processes beside each figure",
    "scheduler_scale": "queues of 10^3 to 10^6 tasks, 2 to 1,000 simulated workers",
    "broadcast": "one array to 1, 2, 4, 8 hosts in network namespaces",
    "idle": "CPU of a cluster at rest",
}
"""What is to be measured and is not yet; it stands in the table, so that nobody takes it for done."""


def chosen(names: list[str]) -> Iterator[Workload]:
    """The workloads with these names, or all.

    Raises:
        SystemExit: there is no such workload.
    """
    for name in names or WORKLOADS:
        if name not in WORKLOADS:
            raise SystemExit(f"there is no workload {name!r}; there are: {', '.join(WORKLOADS)}")
        yield WORKLOADS[name]
