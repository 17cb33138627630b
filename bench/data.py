"""Workloads of large arguments and results: how long they take, and how much memory all processes need."""

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
import scipy.sparse
from joblib import Parallel, delayed

from bench.timing import timed
from bench.workload import Setting, workload
from minidask.host.folders import SHARED_MEMORY

Array = np.ndarray[Any, np.dtype[np.float64]]

MIB = 2**20
LOOK_SECONDS = 0.02


@functools.cache
def _array(mebibytes: int) -> Array:
    return np.random.default_rng(0).random(mebibytes * 2**17)


def large_array(setting: Setting) -> Array:
    """Return the array that is the large argument."""
    return _array(4 if setting.short else 256)


def _ends(array: Array, i: int) -> float:
    return float(array[0] + array[-1]) + i


def _with_array(array: Array, tasks: int) -> float:
    expected = [_ends(array, i) for i in range(tasks)]
    return timed(lambda: Parallel()(delayed(_ends)(array, i) for i in range(tasks)), lambda r: r == expected)


def _new_array(setting: Setting) -> Array:
    """Return the large array with a content that no engine has seen before."""
    array = large_array(setting)
    np.add(array, 1.0, out=array)
    return array


def _hundred(setting: Setting) -> int:
    return 4 if setting.short else 100


@workload("4 tasks with one argument of 256 MiB, first call", "s")
def large_first(setting: Setting) -> float:
    return _with_array(_new_array(setting), 4)


@workload("4 tasks with one argument of 256 MiB, next call", "s")
def large_next(setting: Setting) -> float:
    array = large_array(setting)
    _with_array(array, 4)
    return _with_array(array, 4)


@workload("100 tasks with one argument of 256 MiB, first call", "s")
def hundred_first(setting: Setting) -> float:
    return _with_array(_new_array(setting), _hundred(setting))


@workload("100 tasks with one argument of 256 MiB, next call", "s")
def hundred_next(setting: Setting) -> float:
    array = large_array(setting)
    _with_array(array, 4)
    return _with_array(array, _hundred(setting))


@functools.cache
def _sparse_matrix(mebibytes: int) -> Any:
    """Return a matrix in CSR form whose buffers together have this many MiB."""
    rows, columns = 2**10, 2**20
    count = mebibytes * MIB // 12 // rows * rows  # 8 bytes for a value, 4 for its column
    random = np.random.default_rng(0)
    indices = np.sort(random.integers(0, columns, (rows, count // rows), dtype=np.int32), axis=1)
    indptr = np.arange(0, count + 1, count // rows, dtype=np.int32)
    return scipy.sparse.csr_matrix((random.random(count), indices.ravel(), indptr), shape=(rows, columns))


def _last_value(inputs: dict[str, Any], i: int) -> float:
    return float(inputs["matrix"].data[-1]) + i


@workload("100 tasks with a sparse matrix of 64 MiB in a dict", "s")
def sparse_nested(setting: Setting) -> float:
    inputs = {"name": "text", "matrix": _sparse_matrix(4 if setting.short else 64)}
    inputs["matrix"].data[0] = time.perf_counter()
    count = _hundred(setting)
    expected = [_last_value(inputs, i) for i in range(count)]
    return timed(lambda: Parallel()(delayed(_last_value)(inputs, i) for i in range(count)), lambda r: r == expected)


@workload("100 results of 8 MiB", "s")
def large_results(setting: Setting) -> float:
    count = _hundred(setting)
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
    """Return by how many MiB the memory of this process and its descendants grows at the peak of a call.

    Pages that processes share count once.
    """
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
    """Return the bytes of this process, its descendants, and all files in shared memory. Shared pages count once."""
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
    return _peak_mebibytes(lambda: large_first(setting))


@workload("100 tasks with one argument of 256 MiB: peak memory of all processes beyond before", "MiB")
def hundred_memory(setting: Setting) -> float:
    return _peak_mebibytes(lambda: hundred_first(setting))


@workload("100 results of 8 MiB: peak memory of all processes beyond before", "MiB")
def results_memory(setting: Setting) -> float:
    return _peak_mebibytes(lambda: large_results(setting))


@workload("100 tasks with a sparse matrix of 64 MiB in a dict: peak memory of all processes beyond before", "MiB")
def sparse_memory(setting: Setting) -> float:
    _sparse_matrix(4 if setting.short else 64)
    return _peak_mebibytes(lambda: sparse_nested(setting))
