"""`Parallel(initializer=…, initargs=…)`, as loky has it."""

from __future__ import annotations

import os
from pathlib import Path

import joblib
import pytest
from joblib import Parallel, delayed

import minidask
from minidask import errors


def note(folder: Path, text: str) -> None:
    with (folder / str(os.getpid())).open("a") as file:
        file.write(text)


def notes(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def seen(folder: Path) -> str:
    return (folder / str(os.getpid())).read_text()


@pytest.fixture(params=["minidask", "loky"])
def backend(request: pytest.FixtureRequest, client: minidask.Client) -> str:
    return str(request.param)


def test_it_runs_once_in_each_worker_before_the_first_batch(backend: str, tmp_path: Path) -> None:
    with joblib.parallel_config(backend, n_jobs=2):
        for _ in range(2):
            parallel = Parallel(initializer=note, initargs=(tmp_path, "once"), batch_size=1)
            assert parallel(delayed(seen)(tmp_path) for _ in range(20)) == ["once"] * 20


def test_it_may_be_given_to_parallel_config(backend: str, tmp_path: Path) -> None:
    with joblib.parallel_config(backend, n_jobs=2, initializer=note, initargs=(tmp_path, "first")):
        assert set(Parallel()(delayed(seen)(tmp_path) for _ in range(4))) == {"first"}


def test_another_one_runs_too(client: minidask.Client, tmp_path: Path) -> None:
    with joblib.parallel_config("minidask", n_jobs=2):
        for text in ("a", "b", "a"):
            Parallel(initializer=note, initargs=(tmp_path, text))(delayed(seen)(tmp_path) for _ in range(8))
    assert set(notes(tmp_path).values()) <= {"a", "b", "ab", "ba"}


def test_a_new_process_runs_it_again(client: minidask.Client, tmp_path: Path) -> None:
    def call() -> list[str]:
        parallel = Parallel(n_jobs=2, backend="minidask", initializer=note, initargs=(tmp_path, "once"))
        return list(parallel(delayed(seen)(tmp_path) for _ in range(8)))

    call()
    with pytest.raises(errors.KilledWorker):
        client.submit(os._exit, 1).result(30)
    assert call() == ["once"] * 8


def test_in_a_nested_call_and_in_threads(
    client: minidask.Client, thread_client: minidask.Client, tmp_path: Path
) -> None:
    def nested() -> list[str]:
        return list(
            Parallel(n_jobs=2, initializer=note, initargs=(tmp_path, "n"))(delayed(seen)(tmp_path) for _ in range(9))
        )

    assert client.submit(nested).result(30) == ["n"] * 9
    with joblib.parallel_config("minidask", scheduler=thread_client, n_jobs=2):
        parallel = Parallel(initializer=note, initargs=(tmp_path, "thread"), batch_size=1)
        assert parallel(delayed(seen)(tmp_path) for _ in range(9)) == ["thread"] * 9


def test_its_error_is_the_calls(client: minidask.Client, tmp_path: Path) -> None:
    with joblib.parallel_config("minidask", n_jobs=2):
        with pytest.raises(ZeroDivisionError):
            Parallel(initializer=lambda: 1 / 0)(delayed(abs)(-1) for _ in range(4))
        with pytest.raises(TypeError, match="initializer must be a function"):
            Parallel(initializer=3)(delayed(abs)(-1) for _ in range(4))
        with pytest.raises(TypeError, match="initargs must be a tuple"):
            Parallel(initializer=abs, initargs=3)(delayed(abs)(-1) for _ in range(4))
        with pytest.raises(errors.SerializationError, match="initializer"):
            Parallel(initializer=note, initargs=((i for i in "x"), ""))(delayed(abs)(-1) for _ in range(4))
        assert Parallel()(delayed(abs)(-1) for _ in range(4)) == [1] * 4


def test_an_option_that_nobody_knows_is_an_error(client: minidask.Client) -> None:
    with joblib.parallel_config("minidask", n_jobs=2):
        with pytest.raises(TypeError, match="no option initialiser"):
            Parallel(initialiser=abs)(delayed(abs)(-1) for _ in range(4))
        assert Parallel(idle_worker_timeout=3)(delayed(abs)(-1) for _ in range(4)) == [1] * 4
