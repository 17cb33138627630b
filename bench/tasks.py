"""Workloads of small tasks: an engine's own cost for each task, and how well it fills its workers."""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Callable
from operator import neg
from typing import Any

import joblib
from joblib import Parallel, delayed

from bench.timing import timed
from bench.workload import Setting, workload


def _per_task(function: Callable[[int], int], count: int, **options: Any) -> float:
    """Return the microseconds for each of `count` calls, after a few calls that are not timed."""
    Parallel(**options)(delayed(function)(i) for i in range(4))
    seconds = timed(
        lambda: Parallel(**options)(delayed(function)(i) for i in range(count)),
        lambda result: result == [-i for i in range(count)],
    )
    return seconds / count * 1e6


@workload("no-op, batch_size=1, importable function", "us/task")
def noop(setting: Setting) -> float:
    return _per_task(neg, 50 if setting.short else 1000, batch_size=1)


@workload("no-op, batch_size=1, function sent by value", "us/task")
def noop_by_value(setting: Setting) -> float:
    return _per_task(lambda i: -i, 50 if setting.short else 1000, batch_size=1)


@workload('no-op, batch_size=1, pre_dispatch="all"', "us/task")
def noop_all(setting: Setting) -> float:
    return _per_task(neg, 50 if setting.short else 1000, batch_size=1, pre_dispatch="all")


@workload('no-op, batch_size="auto"', "us/task")
def noop_auto(setting: Setting) -> float:
    return _per_task(neg, 200 if setting.short else 20_000)


@workload("a Parallel call of one task", "ms")
def one_task(setting: Setting) -> float:
    Parallel()([delayed(neg)(1)])
    count = 2 if setting.short else 10
    return (
        timed(lambda: [Parallel()([delayed(neg)(1)]) for _ in range(count)], lambda r: r == [[-1]] * count)
        / count
        * 1e3
    )


def _nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def _best(lengths: list[float], workers: int) -> float:
    """Return the seconds that tasks of these lengths take in their order, if the engine itself costs nothing."""
    free = [0.0] * workers
    for length in lengths:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def _straggler(setting: Setting, **options: Any) -> float:
    naps = [0.02] * (4 if setting.short else 400)
    naps.insert(len(naps) // 2, 0.1 if setting.short else 5.0)
    seconds = timed(lambda: Parallel(**options)(delayed(_nap)(n) for n in naps), lambda r: r == naps)
    return (seconds / _best(naps, joblib.effective_n_jobs(-1)) - 1) * 100


@workload("a straggler of 5 s among 400 tasks of 20 ms", "% over")
def straggler(setting: Setting) -> float:
    return _straggler(setting)


@workload("the same with batch_size=1", "% over")
def straggler_single(setting: Setting) -> float:
    return _straggler(setting, batch_size=1)


def _in_threads(setting: Setting) -> list[list[int]]:
    count = 20 if setting.short else 500
    calls: list[list[int]] = [[] for _ in range(4)]

    def call(results: list[int]) -> None:
        with joblib.parallel_config(setting.engine, n_jobs=setting.workers):  # each thread has its own configuration
            results += Parallel()(delayed(neg)(i) for i in range(count))

    threads = [threading.Thread(target=call, args=(results,)) for results in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return calls


@workload("4 threads, each with a Parallel of 500 short tasks", "ms")
def four_threads(setting: Setting) -> float:
    expected = [[-i for i in range(20 if setting.short else 500)]] * 4
    return timed(lambda: _in_threads(setting), lambda calls: calls == expected) * 1e3


def _spin(seconds: float) -> float:
    """Keep a core busy for `seconds`; return how long it really took."""
    began = time.perf_counter()
    while time.perf_counter() < began + seconds:
        pass
    return time.perf_counter() - began


@workload("200 tasks of 5 to 25 ms: makespan over sum of task times / workers", "% over")
def makespan(setting: Setting) -> float:
    lengths = random.Random(0).choices((0.005, 0.01, 0.025), k=8 if setting.short else 200)
    took: list[float] = []
    seconds = timed(
        lambda: took.extend(Parallel()(delayed(_spin)(length) for length in lengths)),
        lambda _: all(t >= length for t, length in zip(took, lengths, strict=True)),
    )
    return (seconds * setting.workers / sum(took) - 1) * 100


def _naps_within(count: int) -> int:
    return len(Parallel(n_jobs=-1)(delayed(_nap)(0.02) for _ in range(count)))


@workload("2 outer tasks, one after the other, each with 100 inner ones of 20 ms: idle share of the workers", "% idle")
def nested_idle(setting: Setting) -> float:
    count = 4 if setting.short else 100
    Parallel(n_jobs=2)(delayed(_naps_within)(2) for _ in range(2))
    seconds = timed(
        lambda: [Parallel(n_jobs=2)([delayed(_naps_within)(count)])[0] for _ in range(2)],
        lambda result: result == [count] * 2,
    )
    return (1 - 2 * count * 0.02 / (setting.workers * seconds)) * 100
