"""Chunks on a cluster: read where they are used, a few at a time, or sent where workers cannot read them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minidask
from minidask.errors import MinidaskError
from minidask.ml import chunks
from minidask.ml.data import each


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of six arrays of 100 rows, as `.npy` files."""
    for number in range(6):
        np.save(tmp_path / f"{number}.npy", np.full((100, 3), number))
    return tmp_path


def where(X: Any, y: Any, factor: int) -> tuple[int, int]:
    return os.getpid(), int(X.sum()) * factor


def test_a_chunk_is_read_by_the_worker_that_uses_it_and_results_come_in_order(
    client: minidask.Client, folder: Path
) -> None:
    found = list(each(chunks(folder), where, 2))
    assert [value for _, value in found] == [600 * number for number in range(6)]
    assert os.getpid() not in {pid for pid, _ in found}


def test_rows_that_nobody_knows_are_counted_on_the_cluster(client: minidask.Client) -> None:
    read_by = os.getpid()

    def rows(n: int) -> Any:
        assert os.getpid() != read_by
        return np.zeros((n, 2))

    data = chunks([lambda n=n: rows(n) for n in range(1, 5)])
    assert data.rows == 10
    assert [chunk.rows for chunk in data.counted()] == [1, 2, 3, 4]
    pair = chunks(([lambda n=n: rows(n) for n in range(1, 5)], np.arange(10)))
    assert [list(y) for _, y in each(pair, lambda X, y: (X, y))] == [[0], [1, 2], [3, 4, 5], [6, 7, 8, 9]]


def test_what_workers_cannot_read_is_sent_by_this_program(client: minidask.Client) -> None:
    mine = os.getpid()

    def here() -> Any:
        assert os.getpid() == mine, "read by a worker"
        return np.ones((5, 2))

    assert list(each(chunks([here] * 4, shared=False), lambda X, y: X.sum())) == [10.0] * 4


def test_a_file_that_a_worker_does_not_have_is_named_with_what_to_do(client: minidask.Client, folder: Path) -> None:
    data = chunks(folder)
    (folder / "3.npy").unlink()
    with pytest.raises(MinidaskError, match=r"3\.npy.*shared=False"):
        list(each(data, where, 1))


def test_no_more_than_a_few_chunks_are_under_way(client: minidask.Client) -> None:
    made = []

    def here(number: int) -> Callable[[], Any]:
        def read() -> Any:
            made.append(number)
            return np.ones(1)

        return read

    found = each(chunks([here(n) for n in range(50)], shared=False), lambda X, y: 1)
    for taken, _ in enumerate(found):
        assert len(made) <= taken + 2 * 2
    assert len(made) == 50


def test_what_is_left_is_stopped_when_nobody_takes_it(client: minidask.Client, folder: Path) -> None:
    found = each(chunks(folder), where, 1)
    next(found)
    found.close()
    assert client.submit(abs, -1).result(20) == 1


class Delayed:
    """What a Dask array has of a block, in this test."""

    def __init__(self, first: int) -> None:
        self.first = first

    def compute(self, scheduler: str) -> Any:
        assert scheduler == "synchronous"
        return np.arange(self.first, self.first + 100).reshape(50, 2)


class Collection:
    def to_delayed(self) -> Any:
        return np.array([Delayed(first) for first in range(0, 1000, 100)], dtype=object).reshape(10, 1)


def test_a_dask_collection_is_computed_block_by_block_where_it_is_used(client: minidask.Client) -> None:
    data = chunks(Collection())
    assert data.rows == 500
    assert sum(each(data, lambda X, y: int(X.sum()))) == 499500


def test_without_a_client_the_error_says_what_to_make() -> None:
    code = "import numpy, minidask.ml; print(minidask.ml.chunks([lambda: numpy.zeros(3)]).rows)"
    import subprocess
    import sys

    ended = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert "make one with minidask.Client()" in ended.stderr
