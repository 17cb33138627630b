"""What users of joblib's Dask backend rely on, and joblib's `test_dask.py` checks there, holds for minidask too.

Each test here is the counterpart of one there. Left out:

- `test_dask_funcname`, its half about the text that a batch shows as: Dask's own class; a task's name is here.
- `test_errors`: it asks for a client first; here a cluster starts instead (test_start_and_end_of_programs.py).
- `test_dask_backend_keywords`, the keyword `workers`: work goes where slots are free; `scheduler` is here.
- `test_nested_parallelism_with_dask`, `test_nested_backend_context_manager_implicit_n_jobs` and
  `test_correct_nested_backend`, the class of the nested backend: only what nested calls return is here.
- `test_secede_with_no_processes`, its name: a task that waits holds its slot here; that it does not block is here.
- `test_wait_for_workers[adaptive]`: a cluster does not change its size by itself.
- `test_joblib_warning_inside_dask_daemonic_worker`, the warning: a slot is no daemon of multiprocessing and may have
  children, so loky and multiprocessing do run inside it; that is here.
"""

from __future__ import annotations

import os
import random
import uuid
import warnings
from collections.abc import Iterator
from operator import neg
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import psutil
import pytest
from joblib import Parallel, delayed, parallel_backend, parallel_config
from joblib.parallel import AutoBatchingMixin

import minidask
from minidask.backend.backend import MinidaskBackend
from minidask.wire.large import LARGE_BYTES
from minidask.wire.messages import Message, PutBlob
from tests.helpers import largest_task, offered, pids_of, wait_until


@pytest.fixture(autouse=True)
def backend(client: minidask.Client) -> Iterator[None]:
    with parallel_config("minidask", scheduler=client):
        yield


# --- test_simple, test_dask_backend_uses_autobatching ---


def test_a_call_works_before_and_after_one_that_fails() -> None:
    def fail_at_three(i: int) -> None:
        if i == 3:
            raise ValueError("three")

    for _ in range(2):
        assert Parallel()(delayed(neg)(i) for i in range(10)) == [-i for i in range(10)]
        with pytest.raises(ValueError, match="three"):
            Parallel()(delayed(fail_at_three)(i) for i in range(10))


def test_short_tasks_are_batched_by_joblibs_own_rule() -> None:
    assert MinidaskBackend.compute_batch_size is AutoBatchingMixin.compute_batch_size
    with Parallel() as parallel:
        backend = parallel._backend
        assert isinstance(backend, MinidaskBackend)
        assert backend.parallel is parallel
        assert backend._effective_batch_size == 1
        parallel(delayed(int)() for _ in range(10_000))
        assert backend._effective_batch_size > 10


# --- the generators ---


def wait_for(path: Path) -> str:
    wait_until(path.exists, f"{path.name} was there")
    return path.name


@pytest.mark.parametrize("n_jobs", [2, -1])
@pytest.mark.parametrize("context", [parallel_config, parallel_backend])
def test_an_unordered_generator_gives_first_what_is_ready_first(
    n_jobs: int, context: Any, client: minidask.Client, tmp_path: Path
) -> None:
    """The first task waits for a file that is written once the others' results were seen."""
    names = ["slow", *(f"quick{i}" for i in range(5))]
    for name in names[1:]:
        (tmp_path / name).touch()
    with context("minidask", scheduler=client):
        results = Parallel(n_jobs=n_jobs, batch_size=1, return_as="generator_unordered")(
            delayed(wait_for)(tmp_path / name) for name in names
        )
        assert {next(results) for _ in range(5)} == set(names[1:])
        (tmp_path / "slow").touch()
        assert list(results) == ["slow"]


@pytest.mark.parametrize("n_jobs", [2, -1])
@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
@pytest.mark.parametrize("context", [parallel_config, parallel_backend])
def test_generators_that_are_open_at_once_do_not_wait_for_each_other(
    n_jobs: int, return_as: str, context: Any, client: minidask.Client
) -> None:
    """One feeds another, a third is left after its first result; large results hold nothing up."""
    with context("minidask", scheduler=client):
        left = Parallel(n_jobs=n_jobs, return_as=return_as)(delayed(np.full)(10**6, i) for i in range(10))
        assert next(left).size == 10**6
        arrays = Parallel(n_jobs=n_jobs, return_as=return_as)(delayed(np.full)(10**6, i) for i in range(6))
        sums = Parallel(n_jobs=n_jobs, return_as=return_as)(delayed(np.mean)(array) for array in arrays)
        assert sorted(float(value) for value in sums) == [0, 1, 2, 3, 4, 5]
        assert next(left).size == 10**6
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib tells how many results were not used, if any
            left.close()
        assert Parallel(n_jobs=n_jobs)(delayed(neg)(i) for i in range(3)) == [0, -1, -2]


# --- nested calls ---


def descend(levels: int, data: Any) -> list[tuple[int, int, float]]:
    """The level, process and data of a chain of calls, each of which is a task of the one before."""
    here = (levels, os.getpid(), 0.0 if data is None else float(data[-1]))
    if levels == 0:
        return [here]
    return [here, *Parallel(n_jobs=2)(delayed(descend)(levels - 1, data) for _ in range(2))[1]]


@pytest.mark.parametrize("context", [parallel_config, parallel_backend])
@pytest.mark.parametrize("size", [0, 10**7])
def test_four_levels_of_calls_run_in_the_clusters_processes(context: Any, size: int, client: minidask.Client) -> None:
    data = np.ones(size, dtype=np.uint8) if size else None
    for _ in range(2):
        with context("minidask", scheduler=client):
            found = descend(4, data)
        assert [level for level, _, _ in found] == [4, 3, 2, 1, 0]
        assert {pid for _, pid, _ in found[1:]} <= pids_of(client)
        assert {value for _, _, value in found} == {1.0 if size else 0.0}


def test_nested_calls_with_n_jobs_run_in_the_clusters_processes_and_end(client: minidask.Client) -> None:
    def nested_pids(_: int) -> set[int]:
        pids = Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(2))
        return set(pids + Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(2)))

    for _ in range(2):
        for pids in Parallel(n_jobs=2)(delayed(nested_pids)(i) for i in range(10)):
            assert pids <= pids_of(client)


def test_without_n_jobs_all_workers_are_used_and_nested_calls_end() -> None:
    def nested(i: int) -> list[int]:
        with Parallel() as parallel:
            return list(parallel(delayed(neg)(j) for j in range(i)))

    with Parallel() as parallel:
        assert isinstance(parallel._backend, MinidaskBackend)
        assert parallel.n_jobs == -1
        assert parallel._effective_n_jobs() == 2
        assert parallel(delayed(nested)(i) for i in range(3)) == [[], [0], [0, -1]]


@pytest.mark.parametrize("require", [None, "sharedmem"])
def test_a_nested_call_that_requires_shared_memory_has_it(require: str | None) -> None:
    def outer() -> list[int]:
        found: list[int] = []
        (result,) = Parallel(n_jobs=2, prefer="threads", require=require)([delayed(middle)(found)])
        return found if require else [int(i) for i in result]

    def middle(found: list[int]) -> list[int]:
        if require:
            Parallel(n_jobs=2, require=require)(delayed(found.append)(i) for i in range(4))
            return found
        return list(Parallel(n_jobs=2)(delayed(abs)(i) for i in range(4)))

    (result,) = Parallel(n_jobs=2)([delayed(outer)()])
    assert sorted(result) == [0, 1, 2, 3]


def test_nested_calls_over_slices_of_the_same_data() -> None:
    def inner(array: Any, _: int) -> float:
        return float(array.sum())

    def outer(array: Any) -> float:
        with parallel_config("minidask"):
            return float(sum(Parallel()(delayed(inner)(array[j:], j) for j in range(10))))

    data = np.ones(2 * LARGE_BYTES // 8)
    for _ in range(2):
        sums = Parallel()(delayed(outer)(data[i:]) for i in range(10))
        assert sums == [sum(data.size - i - j for j in range(10)) for i in range(10)]


def test_with_threads_for_slots_a_call_and_a_nested_one_end(thread_client: minidask.Client) -> None:
    def nested(i: int) -> int:
        return sum(Parallel(n_jobs=2)(delayed(neg)(j) for j in range(i)))

    with parallel_config("minidask", scheduler=thread_client):
        assert Parallel(n_jobs=4)(delayed(neg)(i) for i in range(2)) == [0, -1]
        assert Parallel(n_jobs=4)(delayed(nested)(i) for i in range(4)) == [0, 0, -1, -3]


# --- what is not remembered ---


def draw() -> float:
    return random.random()


def test_functions_are_not_taken_for_pure() -> None:
    values = Parallel(n_jobs=2, batch_size=1)(delayed(draw)() for _ in range(20))
    assert len(set(values)) == 20


@pytest.mark.parametrize("size", [0, 10**6])
def test_no_call_sees_what_another_did_to_its_argument(size: int, messages: list[Message]) -> None:
    """Arguments that look alike at first are pickled each time; only large data is sent once."""
    lists: list[list[str]] = [[] for _ in range(100)]
    data = np.arange(size) if size else None

    def append(target: list[str], array: Any) -> list[str]:
        assert array is None or np.array_equal(array, np.arange(size))
        target.append(uuid.uuid4().hex)
        return target

    results = Parallel()(delayed(append)(target, data) for target in lists)
    assert lists == [[] for _ in range(100)]
    assert [len(result) for result in results] == [1] * 100
    assert len({result[0] for result in results}) == 100
    assert offered(messages) == (1 if size else 0)


def test_memory_recomputes_nothing_that_any_task_has_computed(tmp_path: Path) -> None:
    memory, counted = joblib.Memory(tmp_path / "cache", verbose=0), tmp_path / "calls"
    counted.mkdir()

    def square(i: int) -> int:
        (counted / f"{i}-{uuid.uuid4().hex}").touch()
        return i * i

    square.__module__, square.__qualname__ = "counted", "square"
    cached = memory.cache(square)
    for _ in range(3):
        assert Parallel(n_jobs=2, batch_size=1)(delayed(cached)(i) for i in range(6)) == [i * i for i in range(6)]
        assert len(list(counted.iterdir())) == 6
    assert cached(3) == 9
    assert len(list(counted.iterdir())) == 6


# --- what is sent how often ---


class Pickled:
    """A number that counts how often it is pickled."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.count = 0

    def __reduce__(self) -> Any:
        self.count += 1
        return Pickled, (self.value,)


def total(a: Pickled, b: Pickled, c: Pickled, d: Any = 0, e: Any = 0) -> int:
    return sum(getattr(item, "value", item) for item in (a, b, c, d, e))


def test_scattered_objects_are_pickled_once_and_others_as_often_as_by_submit(client: minidask.Client) -> None:
    w, x, y, z = items = [Pickled(value) for value in range(4)]
    calls: list[Any] = [delayed(total)(x, y, z, d=4, e=5) for _ in range(10)]
    calls += [delayed(total)(x, z, y, d=5, e=4), delayed(total)(y, x, z, d=x, e=5), delayed(total)(z, z, x, d=z, e=y)]
    expected = [function(*args, **kwargs) for function, args, kwargs in calls]

    with parallel_config("minidask", scheduler=client, scatter=[w, x, y]):
        assert Parallel(batch_size=1)(calls) == expected
        assert Parallel(batch_size=1)(calls) == expected
    counts = [item.count for item in items]
    assert counts == [1, 1, 1, 2 * len(calls)]

    for item in items:
        item.count = 0
    handles = {id(item): client.scatter(item) for item in (w, x, y)}
    for function, args, kwargs in calls:
        by_name = {key: handles.get(id(value), value) for key, value in kwargs.items()}
        client.submit(function, *(handles.get(id(value), value) for value in args), **by_name).result(20)
    assert [item.count for item in items] == [1, 1, 1, len(calls)]


def test_a_function_is_sent_once_for_all_tasks_of_a_call(messages: list[Message]) -> None:
    table = list(range(10_000))
    lookup = lambda i: table[i]  # noqa: E731 - a function that no worker can import, and holds much
    assert Parallel(batch_size=1)(delayed(lookup)(i) for i in range(30)) == list(range(30))
    large = [
        message for message in messages if isinstance(message, PutBlob) and sum(map(len, message.payload)) > 10_000
    ]
    assert len(large) == 1
    assert largest_task(messages) < 1000


def test_large_arguments_are_sent_once_each_however_often_they_are_named(messages: list[Message]) -> None:
    one, two = np.ones(LARGE_BYTES, dtype=np.uint8), np.zeros(LARGE_BYTES, dtype=np.uint8)

    def use(*args: Any, **kwargs: Any) -> None:
        assert args[0][0] == kwargs["option"][0]

    Parallel(batch_size=1)(delayed(use)(data, data, i, option=data) for i, data in enumerate([one] * 3 + [two] * 3))
    assert offered(messages) == 2
    assert largest_task(messages) < 1000


def test_small_arguments_go_with_their_tasks(messages: list[Message]) -> None:
    data = np.ones(LARGE_BYTES, dtype=np.uint8)
    assert Parallel(batch_size=1)(delayed(len)(data[: 3 + i]) for i in range(5)) == [3, 4, 5, 6, 7]
    assert offered(messages) == 0


# --- other backends in a task ---


@pytest.mark.parametrize("name", ["loky", "multiprocessing"])
def test_other_process_backends_work_in_a_task_without_a_warning_and_leave_no_process(name: str) -> None:
    def other() -> tuple[list[int], list[str], list[int]]:
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            results = Parallel(n_jobs=2, backend=name)(delayed(neg)(i) for i in range(10))
        return results, [str(w.message) for w in record], [p.pid for p in psutil.Process().children(recursive=True)]

    with minidask.Client(n_workers=1) as client:
        results, said, children = client.submit(other).result(40)
    assert results == [-i for i in range(10)]
    assert said == []
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in children), f"the children had ended: {children}")
