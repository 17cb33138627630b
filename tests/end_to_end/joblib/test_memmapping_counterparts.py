"""What joblib's `test_memmapping.py` checks of pools and executors, for minidask: memory maps, and large data of tasks.

Its tests that name a backend or none are run themselves, by foreign/test_joblib_suite.py. Left out:

- temp folders (`isolated`, `reuse`, `thread_safety`, `get_temp_dir`, `too_small_dev_shm`): large data is in a store.
- the resource tracker: nothing here needs one.
- `test_numpy_arrays_use_different_memory`, its modes "r+" and "w+": refused (test_large_data.py); mode "c" is here.
- `test_memmapping_pool_for_large_arrays` and `_disabled`: test_large_data.py has the same.
- `_strided_from_memmap`, `_WeakArrayKeyMap`: joblib's own parts.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed

import minidask
from minidask.wire.large import LARGE_BYTES
from minidask.wire.messages import Message
from tests.helpers import Programs, forget_garbage, largest_task, offered, pinned, wait_until

Array = np.ndarray[Any, Any]


pytestmark = pytest.mark.usefixtures("on_client")


@pytest.fixture
def cube(tmp_path: Path) -> Any:
    """A memory map of a file that begins somewhere in it."""
    cube = np.memmap(tmp_path / "cube", dtype=np.float64, mode="w+", shape=(6, 5, 4), order="F", offset=5 * 4096 + 8)
    cube[:] = np.arange(cube.size).reshape(cube.shape)
    return cube


PARTS: dict[str, Callable[[Any], Any]] = {
    "all": lambda cube: cube,
    "first": lambda cube: cube[..., 1],
    "part": lambda cube: cube[1:-1, 2:, 1:3],
    "gaps": lambda cube: cube[::2, ::3],
    "backwards": lambda cube: cube[::-1, :, ::-2],
    "transposed": lambda cube: np.asarray(cube[1:4]).T,
    "flat": lambda cube: cube.T.reshape(-1, 10),
    "one": lambda cube: cube[3, 2, 1:2],
    "nothing": lambda cube: cube[2:2],
    "repeated": lambda cube: np.broadcast_to(cube[:, :, 0], (3, 6, 5)),
}


def add_one(array: Array) -> Array:
    array += 1
    return array


@pytest.mark.parametrize("part", PARTS)
def test_tasks_read_and_write_the_file_that_an_array_is_in(part: str, cube: Any) -> None:
    array = PARTS[part](cube)
    before = np.array(array)
    found = Parallel(n_jobs=2)(delayed(np.array)(array) for _ in range(2))
    for copy in found:
        np.testing.assert_array_equal(copy, before)
    if array.flags.writeable:
        Parallel(n_jobs=2, batch_size=1)(delayed(add_one)(array) for _ in range(1))
        np.testing.assert_array_equal(array, before + 1)
        assert cube.sum() == np.arange(cube.size).sum() + before.size


def kind(array: Array) -> tuple[str, str, bool]:
    return type(array).__name__, str(getattr(array, "filename", None)), array.flags.writeable


def test_a_map_arrives_as_one_a_view_as_an_array_and_what_was_read_only_as_that(cube: Any) -> None:
    name = str(cube.filename)
    reading = np.memmap(name, mode="r")
    found = Parallel(n_jobs=2)(delayed(kind)(array) for array in (cube, np.asarray(cube), reading))
    assert found == [("memmap", name, True), ("ndarray", "None", True), ("memmap", name, False)]
    with pytest.raises(ValueError, match="read-only"):
        Parallel(n_jobs=2)(delayed(add_one)(reading) for _ in range(2))


def test_what_only_this_process_has_is_sent_as_data(cube: Any) -> None:
    """A copy-on-write map that was written to, one of a file that is gone, and a result that only looks like one."""
    private = np.memmap(cube.filename, dtype=np.float64, mode="c", offset=cube.offset, shape=cube.size)
    private[:] = 7
    assert Parallel(n_jobs=2)(delayed(np.sum)(array) for array in (private, cube * 3)) == [
        7 * cube.size,
        3 * cube.sum(),
    ]
    assert cube[0, 0, 0] == 0
    os.unlink(cube.filename)
    assert Parallel(n_jobs=2)([delayed(np.sum)(cube), delayed(np.sum)(cube)]) == [cube.sum()] * 2
    with pytest.raises(ValueError, match="read-only"):
        Parallel(n_jobs=2)(delayed(add_one)(cube) for _ in range(2))


def read_back(name: str) -> Any:
    return np.memmap(name, np.float64, "r+", shape=(8, 10))[::2]


def test_a_memory_map_that_a_task_returns_is_an_array_to_write_to(tmp_path: Path) -> None:
    np.arange(80.0).tofile(tmp_path / "file")
    (array,) = Parallel(n_jobs=2)([delayed(read_back)(str(tmp_path / "file"))])
    assert (type(array), array.sum()) == (np.ndarray, np.arange(80.0).reshape(8, 10)[::2].sum())
    array += 1


def test_on_another_machine_a_map_is_data_and_nobody_writes_to_it_in_vain(cube: Any, programs: Programs) -> None:
    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "2")
    with minidask.Client(address) as client, joblib.parallel_config("minidask", scheduler=client):
        client.wait_for_workers(2, 20)
        reading = np.memmap(cube.filename, mode="r")
        assert Parallel()(delayed(kind)(array) for array in (cube, cube[::2])) == [("ndarray", "None", False)] * 2
        assert Parallel()(delayed(np.sum)(array) for array in (cube, reading)) == [cube.sum(), reading.sum()]
        with pytest.raises(ValueError, match="read-only"):
            Parallel()(delayed(add_one)(cube) for _ in range(2))


def test_a_file_is_neither_copied_nor_sent(tmp_path: Path, messages: list[Message]) -> None:
    array = np.memmap(tmp_path / "large", dtype=np.uint8, mode="w+", shape=4 * LARGE_BYTES)
    assert Parallel(n_jobs=2)(delayed(len)(array) for _ in range(10)) == [array.size] * 10
    assert offered(messages) == 0
    assert largest_task(messages) < 10_000


GAPS: dict[str, Callable[[Any], Any]] = {
    "rows": lambda array: array[::2],
    "columns": lambda array: array[:, 1:],
    "backwards": lambda array: array[::-1, ::-1],
    "strings": lambda array: array[::2].astype("U8")[:, ::2],
}


@pytest.mark.parametrize("gaps", GAPS)
def test_a_view_with_gaps_is_sent_once_and_returned_whole(gaps: str, messages: list[Message]) -> None:
    view = GAPS[gaps](np.arange(LARGE_BYTES).reshape(-1, 8))
    arrays = Parallel(n_jobs=2, batch_size=1)(delayed(np.asarray)(view) for _ in range(4))
    for array in arrays:
        np.testing.assert_array_equal(array, view)
    assert offered(messages) <= 2  # the first task may be over before the next one is submitted
    assert largest_task(messages) < 10_000


def give_back(array: Array) -> tuple[Array, Array]:
    return array, array[::2] * 2


def test_shared_data_that_a_task_returns_outlives_what_is_shared() -> None:
    """As on joblib's own backends it is read-only like what the task had; what the task made of it is writable."""
    with minidask.Client(n_workers=2) as client, joblib.parallel_config("minidask", scheduler=client):
        ((same, part),) = Parallel(n_jobs=2)([delayed(give_back)(np.ones(LARGE_BYTES))])
    part += 2
    assert (same.sum(), part.sum()) == (LARGE_BYTES, 2 * LARGE_BYTES)
    assert not same.flags.writeable


def test_arrays_of_objects_are_each_tasks_own() -> None:
    objects = np.array([["a", 1]] * LARGE_BYTES, dtype=object)[:10, ::-1]
    results = Parallel(n_jobs=2)(delayed(np.array)(objects, copy=True) for _ in range(2))
    assert [result.tolist() for result in results] == [[[1, "a"]] * 10] * 2


def test_each_task_may_write_to_its_own_copy_of_large_data() -> None:
    arrays = [np.zeros(LARGE_BYTES // 8) for _ in range(6)]
    results = Parallel(n_jobs=2, mmap_mode="c")(delayed(np.add)(array, i, array) for i, array in enumerate(arrays))
    assert [set(result) for result in results] == [{float(i)} for i in range(6)]
    assert not any(array.any() for array in arrays)


def test_nothing_of_a_call_that_failed_stays_in_the_store(client: minidask.Client) -> None:
    forget_garbage(client)

    def fail() -> None:
        data = np.ones(LARGE_BYTES)
        Parallel(n_jobs=2)(delayed(np.linalg.inv)(data) for _ in range(10))

    with pytest.raises(np.linalg.LinAlgError):
        fail()
    client.submit(len, "").result(20)  # which releases what the end of the data has left
    wait_until(lambda: not pinned(client), "nothing was held")


def test_a_call_that_fails_takes_nothing_from_another_with_the_same_data(client: minidask.Client) -> None:
    data, failed = np.ones(LARGE_BYTES), threading.Event()
    sums: list[float] = []

    def fail() -> None:
        with joblib.parallel_config("minidask", scheduler=client):
            for _ in range(5):
                with pytest.raises(np.linalg.LinAlgError):
                    Parallel(n_jobs=2)(delayed(np.linalg.inv)(data) for _ in range(4))
        failed.set()

    thread = threading.Thread(target=fail)
    thread.start()
    while not failed.is_set() and thread.is_alive():
        sums += Parallel(n_jobs=2)(delayed(np.sum)(data) for _ in range(4))
    thread.join(30)
    assert failed.is_set()
    assert set(sums) <= {float(data.size)}
