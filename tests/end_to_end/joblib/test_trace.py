"""`parallel_config("minidask", trace=…)`: see minidask/backend/traced.py."""

from __future__ import annotations

import errno
import os
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import joblib
import pytest
from joblib import Parallel, delayed

import minidask
from tests.client.chrome_format import checked


def bars(path: Path) -> list[str]:
    return [row["name"] for row in checked(path) if row["ph"] == "X"]


def short(_: int) -> None:
    time.sleep(0.01)


def long(_: int) -> None:
    time.sleep(0.01)


def outer(_: int) -> int:
    return len(Parallel(n_jobs=2, batch_size=1)(delayed(short)(i) for i in range(4)))


def fails(_: int) -> None:
    raise ValueError("mine")


def test_each_call_of_the_block_is_in_one_file_that_is_whole_after_each(
    client: minidask.Client, tmp_path: Path
) -> None:
    path = tmp_path / "run.json"
    with joblib.parallel_config("minidask", scheduler=client, trace=path):
        assert bars(path) == []
        Parallel(n_jobs=2, batch_size=1)(delayed(short)(i) for i in range(6))
        assert bars(path).count("short") == 6
        Parallel(n_jobs=2, batch_size=1)(delayed(long)(i) for i in range(4))
        assert (bars(path).count("short"), bars(path).count("long")) == (6, 4)
    with joblib.parallel_config("minidask", scheduler=client, trace=str(path)):
        assert bars(path) == [], "another block writes its file anew"


def test_what_fails_is_there_and_raises_as_ever(client: minidask.Client, tmp_path: Path) -> None:
    config = joblib.parallel_config("minidask", scheduler=client, trace=tmp_path / "run.json")
    with config, pytest.raises(ValueError, match="mine"):
        Parallel(n_jobs=2, batch_size=1)(delayed(fails)(i) for i in range(2))
    failed = [row for row in checked(tmp_path / "run.json") if row["ph"] == "X" and row["cat"] == "raised"]
    assert failed and {row["name"] for row in failed} == {"fails"}


def test_nested_calls_have_arrows(client: minidask.Client, tmp_path: Path) -> None:
    with joblib.parallel_config("minidask", scheduler=client, trace=tmp_path / "run.json"):
        assert Parallel(n_jobs=2)(delayed(outer)(i) for i in range(1, 3)) == [4, 4]
    rows = checked(tmp_path / "run.json")
    assert [row["name"] for row in rows if row["ph"] == "X"].count("outer") == 2


def test_calls_at_once_share_the_file(client: minidask.Client, tmp_path: Path) -> None:
    def run(fn: Any) -> None:
        Parallel(n_jobs=2, batch_size=1, backend=backend)(delayed(fn)(i) for i in range(5))

    path = tmp_path / "run.json"
    with joblib.parallel_config("minidask", scheduler=client, trace=path):
        backend = joblib.parallel.get_active_backend()[0]
        first = Parallel(n_jobs=2, batch_size=1, return_as="generator")(delayed(short)(i) for i in range(5))
        next(first)
        threads = [threading.Thread(target=run, args=(fn,)) for fn in (long, abs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(list(first)) == 4
    found = bars(path)
    assert [found.count(name) for name in ("short", "long", "abs")] == [5, 5, 5]


@pytest.mark.parametrize("path", ["", 7, b"x", "a\0b"])
def test_what_is_no_path_is_refused_at_once(path: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="trace must be a path"):
        joblib.parallel_config("minidask", trace=path)


def test_a_file_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"trace= cannot be written.*none"):
        joblib.parallel_config("minidask", trace=tmp_path / "none" / "run.json")
    with pytest.raises(IsADirectoryError, match="trace= cannot be written"):
        joblib.parallel_config("minidask", trace=tmp_path)


def test_a_disk_that_is_full_later_costs_no_result(
    client: minidask.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(*_: object) -> None:
        whole()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with joblib.parallel_config("minidask", scheduler=client, trace=tmp_path / "run.json"):
        trace = joblib.parallel.get_active_backend()[0]._trace._trace
        whole = trace.__exit__
        monkeypatch.setattr(type(trace), "__exit__", is_full)
        with pytest.warns(RuntimeWarning, match=r"the trace in .*run.json is not whole: No space left"):
            assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]


def traced_within(path: str) -> str:
    try:
        joblib.parallel_config("minidask", trace=path)
    except ValueError as error:
        return str(error)
    return ""


def test_a_task_is_told_to_leave_that_to_its_caller(client: minidask.Client, tmp_path: Path) -> None:
    assert "outermost call" in client.submit(traced_within, str(tmp_path / "x.json")).result(30)
    assert not list(tmp_path.iterdir())


def test_nothing_is_warned_of(client: minidask.Client, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with joblib.parallel_config("minidask", scheduler=client, trace=tmp_path / "run.json"):
            Parallel(n_jobs=2)(delayed(abs)(i) for i in range(3))
