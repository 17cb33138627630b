"""`task_timeout=`, `on_error=` and `retries=`: a call that hangs or fails does not end the others."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest
from joblib import Parallel, delayed

import minidask
from minidask import errors
from tests.helpers import at_rest, wait_until

LIMIT = 1.0
"""Seconds for calls among which one hangs: enough for a fresh process to import what the others need."""


class Flaky(Exception):
    pass


def hang_in_python() -> None:
    while True:
        pass


def hang_in_c() -> None:
    ctypes.PyDLL(None).sleep(60)  # with the GIL held


def tried(path: Path) -> int:
    """How many times this was called, and once more."""
    with path.open("a") as file:
        file.write("x")
    return path.stat().st_size


def third_time(path: Path, seen: list[int]) -> int:
    """Raise twice, and return 3. Each try must find an empty list."""
    seen.append(1)
    if len(seen) > 1:
        raise AssertionError("a try has found what the try before has changed")
    if tried(path) < 3:
        raise Flaky(path.name)
    return tried(path) - 1


# --- time limits ---


@pytest.mark.alone(reason="it measures milliseconds")
@pytest.mark.parametrize("hang", [hang_in_python, hang_in_c])
def test_a_call_that_hangs_is_stopped_in_time(client: minidask.Client, hang: Callable[[], None]) -> None:
    began = time.monotonic()
    with (
        joblib.parallel_config("minidask", task_timeout=0.3),
        pytest.raises(errors.TaskTimeout, match=r"0\.3 seconds"),
    ):
        Parallel()(delayed(f)() for f in [os.getpid, hang])
    assert time.monotonic() - began < 1.3
    wait_until(lambda: at_rest(client), "nothing was left running")


def one_hangs(i: int) -> int:
    if i == 3:
        hang_in_python()  # its process goes on: a fresh one needs time for imports, and that counts
    return i


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
@pytest.mark.parametrize("batch_size", ["auto", 4])
def test_it_ends_alone_and_the_others_are_not_run_again(
    client: minidask.Client, tmp_path: Path, return_as: str, batch_size: Any
) -> None:
    def call(i: int) -> int:
        tried(tmp_path / str(i))
        return one_hangs(i)

    with joblib.parallel_config("minidask", task_timeout=LIMIT, on_error="return"):
        results = list(Parallel(return_as=return_as, batch_size=batch_size)(delayed(call)(i) for i in range(12)))
    assert sorted(r for r in results if type(r) is int) == [0, 1, 2, *range(4, 12)]
    (failed,) = (r for r in results if type(r) is not int)
    assert isinstance(failed, errors.TaskTimeout)
    if return_as != "generator_unordered":
        assert results[3] is failed
    assert {path.stat().st_size for path in tmp_path.iterdir()} == {1}


def test_waiting_does_not_count(client: minidask.Client) -> None:
    with joblib.parallel_config("minidask", task_timeout=LIMIT):
        assert Parallel(pre_dispatch="all")(delayed(time.sleep)(0.3) for _ in range(10)) == [None] * 10


class SlowToLoad:
    """An argument that takes a second to unpickle, as one whose class has to be imported."""

    def __init__(self, i: int) -> None:
        self.i = i

    def __reduce__(self) -> Any:
        return slow_to_load, (self.i,)


def slow_to_load(i: int) -> SlowToLoad:
    time.sleep(0.5)
    return SlowToLoad(i)


def number_of(loaded: SlowToLoad) -> int:
    return loaded.i


def test_loading_does_not_count(client: minidask.Client) -> None:
    with joblib.parallel_config("minidask", task_timeout=0.3):
        assert Parallel()(delayed(number_of)(SlowToLoad(i)) for i in range(3)) == [0, 1, 2]


def test_a_call_of_its_own_process_has_the_limit_too(client: minidask.Client, one_worker: minidask.Client) -> None:
    """joblib would run these calls itself: with `n_jobs=1`, and on a cluster of one worker."""
    for options in ({"scheduler": client, "n_jobs": 1}, {"scheduler": one_worker}, {"scheduler": client, "n_jobs": -2}):
        with joblib.parallel_config("minidask", task_timeout=LIMIT, on_error="return", **options):
            results = Parallel()(delayed(one_hangs)(i) for i in range(5))
            assert isinstance(results[3], errors.TaskTimeout)
            assert [*results[:3], results[4]] == [0, 1, 2, 4]


def test_one_at_a_time_stays_one_at_a_time(client: minidask.Client, tmp_path: Path) -> None:
    def alone() -> bool:
        (tmp_path / "runs").mkdir()
        time.sleep(0.01)
        (tmp_path / "runs").rmdir()
        return True

    with Parallel(n_jobs=1, backend="minidask", on_error="raise", retries=1, retry_on=ValueError) as parallel:
        assert parallel(delayed(alone)() for _ in range(6)) == [True] * 6


def test_in_a_nested_call(client: minidask.Client) -> None:
    def outer(count: int) -> list[Any]:
        with joblib.parallel_config("minidask", task_timeout=LIMIT, on_error="return"):
            return list(Parallel(n_jobs=2)(delayed(hang)(i) for i in range(count)))

    def hang(i: int) -> int:
        if i == 1:
            hang_in_python()
        return i

    results = client.submit(outer, 4).result(20)
    assert isinstance(results[1], errors.TaskTimeout)
    assert [results[0], *results[2:]] == [0, 2, 3]


def test_on_threads_the_call_goes_on_and_its_result_is_dropped(thread_client: minidask.Client, tmp_path: Path) -> None:
    def slow(i: int) -> int:
        if i == 1:
            wait_until((tmp_path / "end").exists, "the test ends")
        return i

    began = time.monotonic()
    with joblib.parallel_config("minidask", scheduler=thread_client, task_timeout=LIMIT, on_error="return"):
        results = Parallel()(delayed(slow)(i) for i in range(4))
    assert time.monotonic() - began < 5
    (tmp_path / "end").touch()
    assert isinstance(results[1], errors.TaskTimeout)
    assert [results[0], *results[2:]] == [0, 2, 3]


# --- errors in the place of results ---


def fails_in_some_way(i: int) -> Any:
    match i:
        case 1:
            raise Flaky("one")
        case 2:
            os._exit(1)
        case 3:
            raise SystemExit(3)
        case 4:
            return threading.Lock()  # it cannot be pickled
    return i


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_whatever_a_call_ends_with_is_in_the_place_of_its_result(client: minidask.Client, return_as: str) -> None:
    calls = [delayed(fails_in_some_way)(i) for i in range(6)] + [delayed(id)(threading.Lock())]
    results = list(Parallel(n_jobs=2, backend="minidask", on_error="return", return_as=return_as)(iter(calls)))
    kinds = [type(result) for result in results]
    expected = [int, Flaky, errors.KilledWorker, errors.TaskError, errors.SerializationError, int]
    if return_as == "generator_unordered":
        assert sorted(map(str, kinds)) == sorted(map(str, [*expected, errors.SerializationError]))
    else:
        assert kinds == [*expected, errors.SerializationError]
        assert "fails_in_some_way(1)" in results[1].__notes__[0]


def test_a_nested_call_returns_errors_too(client: minidask.Client) -> None:
    def outer() -> list[Any]:
        return list(Parallel(n_jobs=2, backend="minidask", on_error="return")(delayed(divide)(i) for i in range(3)))

    def divide(i: int) -> float:
        return 1 / i

    zero, *others = client.submit(outer).result(20)
    assert isinstance(zero, ZeroDivisionError)
    assert others == [1, 0.5]


def test_the_end_of_the_cluster_is_raised_all_the_same() -> None:
    with minidask.Client(n_workers=2) as client:
        own = client.cluster
        assert own is not None

        def calls() -> Iterator[Any]:
            yield from (delayed(abs)(i) for i in range(4))
            own.close()
            yield from (delayed(abs)(i) for i in range(100))

        with (
            joblib.parallel_config("minidask", scheduler=client, on_error="return"),
            pytest.raises(errors.SchedulerLost),
        ):
            Parallel()(calls())


def test_an_error_of_the_users_iterable_is_raised(client: minidask.Client) -> None:
    def calls() -> Iterator[Any]:
        yield from (delayed(abs)(i) for i in range(20))
        raise KeyError("mine")

    with joblib.parallel_config("minidask", on_error="return"), pytest.raises(KeyError, match="mine"):
        Parallel(pre_dispatch=2)(calls())


# --- other tries ---


@pytest.mark.parametrize("limit", [None, 20])
def test_a_call_that_raises_is_tried_again_with_what_was_sent(
    client: minidask.Client, tmp_path: Path, limit: int | None
) -> None:
    """With a limit the calls go by messages, else through the call queue."""
    with joblib.parallel_config("minidask", retries=2, task_timeout=limit):
        assert Parallel()(delayed(third_time)(tmp_path / str(i), []) for i in range(6)) == [3] * 6
    with joblib.parallel_config("minidask", retries=1, task_timeout=limit):
        with pytest.raises(Flaky) as raised:
            Parallel()(delayed(third_time)(tmp_path / "few", []) for i in range(1))
        assert raised.value.__notes__[0].endswith("in try 2 of 2")


def test_only_these_exceptions_are_worth_another_try(client: minidask.Client, tmp_path: Path) -> None:
    for retry_on, tries in ((Flaky, 3), ((KeyError, Flaky), 3), (KeyError, 1)):
        name = tmp_path / str(retry_on)[:30]
        with joblib.parallel_config("minidask", retries=9, retry_on=retry_on, on_error="return"):
            Parallel()([delayed(third_time)(name, [])])
        assert name.stat().st_size >= tries
        assert (tries == 1) == (name.stat().st_size == 1)


def test_submit_and_map_try_again(client: minidask.Client, tmp_path: Path) -> None:
    assert client.submit(third_time, tmp_path / "a", seen=[], retries=2, retry_on=Flaky).result(20) == 3
    assert client.gather(client.map(third_time, [tmp_path / "b", tmp_path / "c"], [[], []], retries=2)) == [3, 3]
    with pytest.raises(Flaky):
        client.submit(third_time, tmp_path / "d", [], retries=2, retry_on=(KeyError, OSError)).result(20)


def test_a_class_of_the_users_own_script_counts(client: minidask.Client, tmp_path: Path) -> None:
    class Mine(Exception):
        pass

    def fails() -> None:
        tried(tmp_path / "f")
        raise Mine

    with pytest.raises(Mine):
        client.submit(fails, retries=2, retry_on=Mine).result(20)
    assert (tmp_path / "f").stat().st_size == 3


def test_nested_calls_are_tried_again(client: minidask.Client, tmp_path: Path) -> None:
    def outer() -> list[int]:
        calls = (delayed(nested)(tmp_path / str(i)) for i in range(6))
        return list(Parallel(n_jobs=2, backend="minidask", retries=2)(calls))

    def nested(path: Path) -> int:
        if tried(path) < 3:
            raise Flaky
        return tried(path) - 1

    assert client.gather(client.map(lambda _: outer(), [0])) == [[3] * 6]


def test_a_limit_is_for_all_tries_together(client: minidask.Client, tmp_path: Path) -> None:
    def fails_slowly() -> None:
        time.sleep(0.05)
        raise Flaky

    with joblib.parallel_config("minidask", retries=10**6, task_timeout=0.3), pytest.raises(errors.TaskTimeout):
        Parallel()([delayed(fails_slowly)()])


def test_what_was_stopped_is_not_tried_again(client: minidask.Client, tmp_path: Path) -> None:
    def makes_an_error_of_it() -> None:
        tried(tmp_path / "f")
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            raise Flaky from None

    future = client.submit(makes_an_error_of_it, retries=100)
    wait_until(lambda: (tmp_path / "f").exists() and (tmp_path / "f").stat().st_size, "it ran")
    client.cancel(future, force=True)
    wait_until(lambda: at_rest(client), "it was stopped")
    assert (tmp_path / "f").stat().st_size == 1


def test_a_fork_is_not_tried_again(client: minidask.Client, tmp_path: Path) -> None:
    def forks() -> int:
        tried(tmp_path / "f")
        pid = os.fork()
        if not pid:
            raise Flaky
        os.waitpid(pid, 0)
        return pid

    assert client.submit(forks, retries=5).result(20)
    assert (tmp_path / "f").stat().st_size == 1


def test_every_try_prints_before_the_outcome(client: minidask.Client, capsys: pytest.CaptureFixture[str]) -> None:
    def speaks() -> None:
        print("a try")
        raise Flaky

    with joblib.parallel_config("minidask", retries=2, on_error="return"):
        Parallel()([delayed(speaks)()])
    assert capsys.readouterr().out == "a try\n" * 3


# --- bad values ---


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"task_timeout": 0}, ValueError, "task_timeout must be above 0 seconds, got 0"),
        ({"task_timeout": -1}, ValueError, "above 0"),
        ({"task_timeout": float("nan")}, ValueError, "above 0"),
        ({"task_timeout": "x"}, TypeError, "task_timeout must be a number of seconds, got 'x'"),
        ({"task_timeout": True}, TypeError, "number of seconds, got True"),
        ({"on_error": "ignore"}, ValueError, "on_error must be 'raise' or 'return', got 'ignore'"),
        ({"on_error": 1}, ValueError, "on_error must be"),
        ({"retries": 1.5}, TypeError, "retries must be a whole number, got 1.5"),
        ({"retries": -1}, ValueError, "retries must be a whole number from 0"),
        ({"retry_on": KeyboardInterrupt}, TypeError, "retry_on must be a class under Exception"),
        ({"retry_on": "ValueError"}, TypeError, "retry_on must be"),
        ({"retry_on": ()}, ValueError, "empty tuple"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_where_it_is_given(
    client: minidask.Client, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        joblib.parallel_config("minidask", **options)
    with pytest.raises(error, match=text):
        Parallel(n_jobs=2, backend="minidask", **options)([delayed(abs)(1)])
    if "retries" in options or "retry_on" in options:
        with pytest.raises(error, match=text):
            client.submit(abs, 1, **options)
        with pytest.raises(error, match=text):
            client.map(abs, [1], **options)
