"""Arguments and results of some size."""

from __future__ import annotations

import contextlib
import functools
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from joblib import Parallel, delayed

from bench.timing import timed
from bench.workload import Setting, workload
from minidask.folders import SHARED_MEMORY

Array = np.ndarray[Any, np.dtype[np.float64]]

MIB = 2**20
LOOK_SECONDS = 0.02


@functools.cache
def _array(mebibytes: int) -> Array:
    return np.random.default_rng(0).random(mebibytes * 2**17)


def large_array(setting: Setting) -> Array:
    """The large argument."""
    return _array(4 if setting.short else 256)


def _ends(array: Array, i: int) -> float:
    return float(array[0] + array[-1]) + i


def _with_array(array: Array) -> float:
    expected = [_ends(array, i) for i in range(4)]
    return timed(lambda: Parallel()(delayed(_ends)(array, i) for i in range(4)), lambda r: r == expected)


@workload("4 tasks with one argument of 256 MiB, first call", "s")
def large_first(setting: Setting) -> float:
    array = large_array(setting)
    array[1] = time.perf_counter()  # data that no engine has seen before
    return _with_array(array)


@workload("4 tasks with one argument of 256 MiB, next call", "s")
def large_next(setting: Setting) -> float:
    array = large_array(setting)
    _with_array(array)
    return _with_array(array)


@workload("100 results of 8 MiB", "s")
def large_results(setting: Setting) -> float:
    count = 4 if setting.short else 100
    return timed(
        lambda: Parallel()(delayed(np.full)(2**20, float(i)) for i in range(count)),
        lambda r: [a[-1] for a in r] == list(range(count)),
    )


@workload("400 tasks with arguments of 100 KiB", "s")
def medium_arguments(setting: Setting) -> float:
    arrays = [np.full(12_800, float(i)) for i in range(10 if setting.short else 400)]
    return timed(
        lambda: Parallel(batch_size=1)(delayed(_ends)(a, 0) for a in arrays), lambda r: r == [2 * a[0] for a in arrays]
    )


def _peak_mebibytes(call: Callable[[], object]) -> float:
    """How much more memory all processes of this one's tree have at the peak of the call; shared pages count once."""
    done = threading.Event()
    before = peak = _tree_bytes()

    def watch() -> None:
        nonlocal peak
        while not done.wait(LOOK_SECONDS):
            peak = max(peak, _tree_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return (peak - before) / MIB


def _tree_bytes() -> int:
    """The bytes of all processes of this one's tree, shared ones once, and of the files in shared memory."""
    total = shutil.disk_usage(SHARED_MEMORY).used
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(OSError):  # it has just ended
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                name, _, size = line.partition(":")
                if name in ("Pss_Anon", "Pss_File"):  # and not Pss_Shmem: those are pages of the files
                    total += int(size.split()[0]) * 1024
    return total


@workload("4 tasks with one argument of 256 MiB: peak memory of all processes beyond before", "MiB")
def large_memory(setting: Setting) -> float:
    array = large_array(setting)
    array[1] = time.perf_counter()
    return _peak_mebibytes(lambda: _with_array(array))


@workload("100 results of 8 MiB: peak memory of all processes beyond before", "MiB")
def results_memory(setting: Setting) -> float:
    return _peak_mebibytes(lambda: large_results(setting))
