"""joblib's contract on a minidask cluster; joblib's own suite is run by foreign/test_joblib_suite.py."""

from __future__ import annotations

import functools
import os
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import TimeoutError as ParallelTimeout
from operator import neg
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed
from sklearn.datasets import load_digits
from sklearn.model_selection import RandomizedSearchCV
from sklearn.svm import SVC

import minidask
from minidask import errors
from tests.helpers import at_rest, delayed_calls, wait_until

pytestmark = pytest.mark.usefixtures("on_client")


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
@pytest.mark.parametrize("n_jobs", [None, 1, 2, 3, -1, -2])
@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
@pytest.mark.parametrize("pre_dispatch", ["all", "2*n_jobs", 1])
def test_every_way_to_call(return_as: str, n_jobs: int | None, batch_size: Any, pre_dispatch: Any) -> None:
    results = Parallel(n_jobs=n_jobs, batch_size=batch_size, pre_dispatch=pre_dispatch, return_as=return_as)(
        delayed_calls(neg, 20)
    )
    expected = [-i for i in range(20)]
    assert (sorted(results, reverse=True) if return_as == "generator_unordered" else list(results)) == expected


def test_the_readmes_search_equals_the_sequential_one() -> None:
    digits = load_digits()
    X, y = digits.data[:400], digits.target[:400]

    def search() -> RandomizedSearchCV:
        space = {"C": np.logspace(-6, 6, 13), "gamma": np.logspace(-8, 8, 17)}
        return RandomizedSearchCV(SVC(), space, cv=3, n_iter=8, random_state=0).fit(X, y)

    distributed = search()
    with joblib.parallel_config("sequential"):
        sequential = search()
    assert distributed.best_params_ == sequential.best_params_
    expected = sequential.cv_results_["mean_test_score"]
    np.testing.assert_allclose(distributed.cv_results_["mean_test_score"], expected)


def running_at_once(folder: Path, hold: float) -> int:
    """Count, through files, how many calls run at the time of this one."""
    mine = folder / f"{os.getpid()}-{time.monotonic_ns()}"
    mine.touch()
    time.sleep(hold)
    count = len(list(folder.iterdir()))
    mine.unlink()
    return count


def meet(folder: Path, count: int) -> bool:
    """Wait until so many calls run at once."""
    (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    wait_until(lambda: len(list(folder.iterdir())) == count, f"{count} calls met")
    return True


@pytest.mark.parametrize("n_jobs", [2, 3])
def test_never_more_than_n_jobs_calls_at_once(
    n_jobs: int, tmp_path: Path, clusters: Callable[..., minidask.Client]
) -> None:
    meeting, counting = tmp_path / "meeting", tmp_path / "counting"
    meeting.mkdir()
    counting.mkdir()
    with joblib.parallel_config("minidask", scheduler=clusters(4)):
        assert all(Parallel(n_jobs=-1, batch_size=1)(delayed(meet)(meeting, 4) for _ in range(4)))
        counts = Parallel(n_jobs=n_jobs, pre_dispatch="all", batch_size=1)(
            delayed(running_at_once)(counting, 0.05) for _ in range(20)
        )
    assert max(counts) == n_jobs


def test_n_jobs_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(n_jobs=0)(delayed_calls(neg, 2))


@pytest.mark.alone(reason="it measures milliseconds")
def test_a_call_of_one_task_does_not_wait_for_joblibs_next_look() -> None:
    """joblib looks for results every 10 ms; a call that returns in less has not waited for that."""
    Parallel()(delayed_calls(neg, 2))
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        Parallel()([delayed(neg)(1)])
        seconds.append(time.perf_counter() - began)
    assert statistics.median(seconds) < 0.009


def test_batches_grow_with_short_tasks() -> None:
    with joblib.parallel_config("minidask", scheduler=minidask.get_client()):
        parallel = Parallel(n_jobs=2)
        sizes = []

        class Watched(type(parallel._backend)):  # type: ignore[misc]
            def compute_batch_size(self) -> int:
                size: int = super().compute_batch_size()
                sizes.append(size)
                return size

        parallel._backend.__class__ = Watched
        assert parallel(delayed_calls(neg, 3000)) == [-i for i in range(3000)]
    assert max(sizes) > 16


def test_waiting_in_the_queue_does_not_count_as_running() -> None:
    """200 tasks of 20 ms dispatched at once: were the wait counted, batches would look long and stay at 1."""
    backend = Parallel(n_jobs=2)._backend
    durations = []

    class Watched(type(backend)):  # type: ignore[misc]
        def batch_completed(self, batch_size: int, duration: float) -> None:
            super().batch_completed(batch_size, duration)
            durations.append(self._smoothed_batch_duration)

    backend.__class__ = Watched
    with joblib.parallel_config(backend):
        Parallel(n_jobs=2, pre_dispatch="all")(delayed(time.sleep)(0.02) for _ in range(40))
    assert min(filter(None, durations)) < 0.1


@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_an_exception_ends_the_call_with_the_remote_traceback(return_as: str, client: minidask.Client) -> None:
    def fails_in_here(i: int) -> int:
        if i == 3:
            raise ValueError(f"not {i}")
        time.sleep(0.01)
        return i

    with pytest.raises(ValueError, match="not 3") as caught:
        list(Parallel(n_jobs=2, return_as=return_as)(delayed_calls(fails_in_here, 1000)))
    assert "fails_in_here" in str(caught.value.__cause__)
    wait_until(lambda: at_rest(client), "what was left was cancelled", 5)


def test_a_parallel_object_can_be_used_again() -> None:
    parallel = Parallel(n_jobs=2)
    for _ in range(3):
        assert parallel(delayed_calls(neg, 5)) == [0, -1, -2, -3, -4]
    with Parallel(n_jobs=2) as managed:
        for _ in range(3):
            assert managed(delayed_calls(neg, 5)) == [0, -1, -2, -3, -4]
    with pytest.raises(ZeroDivisionError):
        parallel(delayed(divmod)(1, 0) for _ in range(4))
    assert parallel(delayed_calls(neg, 2)) == [0, -1]


def test_an_abandoned_generator_cancels_what_is_left(client: minidask.Client) -> None:
    results = Parallel(n_jobs=2, return_as="generator", batch_size=1)(
        delayed(time.sleep)(0.01 if i == 0 else 30) for i in range(10)
    )
    assert next(results) is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del results
    wait_until(lambda: at_rest(client), "the rest was cancelled", 5)


def test_generators_stream(tmp_path: Path) -> None:
    def call(i: int) -> int:
        while i and not (tmp_path / "the first has come").exists():
            time.sleep(0.01)
        return i

    results = Parallel(n_jobs=2, return_as="generator", batch_size=1)(delayed(call)(i) for i in range(8))
    assert next(results) == 0
    (tmp_path / "the first has come").touch()
    assert list(results) == list(range(1, 8))


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_a_timeout_ends_the_call_in_time(return_as: str, client: minidask.Client) -> None:
    began = time.monotonic()
    with pytest.raises(ParallelTimeout):
        list(Parallel(n_jobs=2, timeout=0.3, return_as=return_as)(delayed(time.sleep)(30) for _ in range(4)))
    assert 0.25 < time.monotonic() - began < 2
    wait_until(lambda: at_rest(client), "the calls were stopped", 5)
    assert Parallel(n_jobs=2, timeout=20)(delayed_calls(neg, 5)) == [0, -1, -2, -3, -4]


@pytest.mark.parametrize("pre_dispatch", ["all", "2*n_jobs"])
@pytest.mark.parametrize("position", [0, 1, 30])
@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_an_iterable_that_raises(pre_dispatch: str, position: int, return_as: str) -> None:
    def iterable() -> Iterator[Any]:
        for i in range(100):
            if i == position:
                raise OSError("no more")
            yield delayed(neg)(i)

    with pytest.raises(OSError, match="no more"):
        list(Parallel(n_jobs=2, pre_dispatch=pre_dispatch, return_as=return_as)(iterable()))


def test_empty_iterables() -> None:
    assert Parallel(n_jobs=2)([]) == []
    assert Parallel(n_jobs=2)(iter([])) == []
    assert list(Parallel(n_jobs=2, return_as="generator")([])) == []


def test_a_batch_that_kills_its_process_does_not_blame_its_first_call_alone(client: minidask.Client) -> None:
    calls = [*delayed_calls(neg, 7), delayed(os._exit)(3)]
    with pytest.raises(errors.KilledWorker, match=r"task 'neg'.*exit code 3") as raised:
        Parallel(n_jobs=2, batch_size=4, pre_dispatch="all")(calls)
    assert raised.value.__notes__ == ["It is a batch of 4 calls, named after the first: any may have died."]


def test_an_iterable_may_itself_use_the_cluster(client: minidask.Client) -> None:
    def iterable() -> Iterator[Any]:
        for i in range(20):
            yield delayed(neg)(client.submit(abs, -i).result(10) + sum(Parallel(n_jobs=2)(delayed_calls(abs, 3))))

    expected = [-(i + 3) for i in range(20)]
    assert Parallel(n_jobs=2, batch_size=1)(iterable()) == expected
    assert list(Parallel(n_jobs=2, batch_size=1, return_as="generator")(iterable())) == expected


@pytest.mark.parametrize(
    ("function", "argument", "error"),
    [
        (len, threading.Lock(), errors.SerializationError),
        (functools.partial(threading.Lock), None, errors.SerializationError),
        (os._exit, 1, errors.KilledWorker),
        (exit, 1, errors.TaskError),
    ],
)
@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_bad_tasks_end_the_call_and_not_the_cluster(
    function: Any, argument: Any, error: type[Exception], return_as: str
) -> None:
    call = [delayed(function)(*([argument] if argument is not None else [])) for _ in range(5)]
    with pytest.raises(error):
        list(Parallel(n_jobs=2, return_as=return_as)(call))
    assert Parallel(n_jobs=2)(delayed_calls(neg, 3)) == [0, -1, -2]


def test_calls_from_several_threads_at_once(client: minidask.Client) -> None:
    results: dict[int, list[int]] = {}

    def call(number: int) -> None:
        with joblib.parallel_config("minidask", scheduler=client):
            results[number] = Parallel(n_jobs=2)(delayed(pow)(i, number) for i in range(100))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {number: [i**number for i in range(100)] for number in range(4)}


def test_verbose_shows_progress(capsys: pytest.CaptureFixture[str]) -> None:
    Parallel(n_jobs=2, verbose=11)(delayed_calls(neg, 10))
    captured = capsys.readouterr()
    assert "MinidaskBackend with 2 concurrent workers" in captured.err
    assert "Done  10 out of  10" in captured.err


def test_a_slot_loads_joblib_only_for_a_task_that_does_and_nests_it_from_then_on() -> None:
    def loaded() -> set[str]:
        return {"joblib", "numpy"} & set(sys.modules)

    def backend() -> str:
        from joblib.parallel import get_active_backend

        return type(get_active_backend()[0]).__name__

    with minidask.Client(n_workers=1) as client, joblib.parallel_config("minidask", scheduler=client):
        assert Parallel(n_jobs=2)([delayed(loaded)()]) == [set()]
        assert Parallel(n_jobs=2)([delayed(backend)(), delayed(backend)()]) == ["MinidaskBackend"] * 2
        assert Parallel(n_jobs=2)([delayed(backend)()]) == ["MinidaskBackend"]
        assert client.submit(backend).result(10) == "MinidaskBackend"


def test_nested_calls_run_inside_their_task() -> None:
    def outer(i: int) -> int:
        return sum(Parallel(n_jobs=2)(delayed(neg)(j) for j in range(i)))

    assert Parallel(n_jobs=2)(delayed_calls(outer, 5)) == [0, 0, -1, -3, -6]
    with pytest.raises(ZeroDivisionError):
        Parallel(n_jobs=2)([delayed(lambda: Parallel(n_jobs=2)([delayed(divmod)(1, 0)]))()])


def test_shared_memory_is_left_to_threads() -> None:
    found: list[int] = []
    Parallel(n_jobs=2, require="sharedmem")(delayed(found.append)(i) for i in range(5))
    assert sorted(found) == [0, 1, 2, 3, 4]


def threads_in_task() -> tuple[set[int], str]:
    np.ones((50, 50)) @ np.ones((50, 50))
    import threadpoolctl

    return {info["num_threads"] for info in threadpoolctl.threadpool_info()}, os.environ["OMP_NUM_THREADS"]


def test_inner_max_num_threads_is_kept_to(client: minidask.Client) -> None:
    before = client.submit(threads_in_task).result(20)
    for limit in (1, 2, 3):
        with joblib.parallel_config("minidask", scheduler=client, inner_max_num_threads=limit):
            (found,) = Parallel(n_jobs=2)([delayed(threads_in_task)()])
        assert found == ({limit}, str(limit))
    assert client.submit(threads_in_task).result(20) == before


def test_scattered_objects_are_found_by_identity(client: minidask.Client) -> None:
    pickled = []

    class Data(list[int]):
        def __reduce__(self) -> Any:
            pickled.append(1)
            return (list, (list(self),))

    array, data, plain = np.arange(10_000), Data([1, 2]), [3, 4]
    with joblib.parallel_config("minidask", scheduler=client, scatter=[array, data, plain]):
        sums = Parallel(n_jobs=2, batch_size=1)(
            delayed(lambda a, b, c, i: a.sum() + sum(b["deep"]) + sum(c) + i)(array, {"deep": data}, plain, i)
            for i in range(10)
        )
    assert sums == [array.sum() + 10 + i for i in range(10)]
    assert len(pickled) == 1


@pytest.mark.parametrize("scatter", [5, "ab", np.ones(3)])
def test_scatter_must_be_a_list(scatter: Any) -> None:
    with pytest.raises(TypeError, match="list or tuple"):
        joblib.parallel_config("minidask", scatter=scatter)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(TypeError, match="no option nworkers; it takes scheduler"):
        joblib.parallel_config("minidask", nworkers=3)


def test_globals_of_a_function_are_taken_anew_by_each_call() -> None:
    namespace: dict[str, Any] = {"value": 1}
    exec("def read(_): return value", namespace)
    assert Parallel(n_jobs=2)(delayed_calls(namespace["read"], 3)) == [1, 1, 1]
    namespace["value"] = 2
    assert Parallel(n_jobs=2)(delayed_calls(namespace["read"], 3)) == [2, 2, 2]


def test_nothing_is_kept_after_a_call(client: minidask.Client) -> None:
    Parallel(n_jobs=2)(delayed_calls(lambda i: i, 50))
    wait_until(lambda: at_rest(client), "the cluster was at rest")
    assert len(client.shell.core) == 0


def test_the_backend_can_be_pickled() -> None:
    import cloudpickle

    backend = Parallel(n_jobs=2)._backend
    assert len(cloudpickle.dumps(backend)) < 200
