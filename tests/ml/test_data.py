"""Chunks: names that are split, shuffled and mapped without reading anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidask.ml import Chunks, chunks

X = np.arange(1000.0).reshape(500, 2)
Y = np.arange(500)


def rows(data: Chunks) -> list[int]:
    return [int(y) for chunk in data for y in chunk.read()[1]]


@pytest.mark.parametrize("by", ["chunk", "row"])
def test_a_split_has_each_row_once_and_the_same_ones_for_the_same_seed(by: str) -> None:
    data = chunks((X, Y), rows=50)
    train, test = data.split(0.3, by=by, random_state=1)
    assert sorted(rows(train) + rows(test)) == list(range(500))
    assert len(rows(test)) == test.rows == 150
    assert train.rows == 350
    again = data.split(0.3, by=by, random_state=1)
    assert rows(again[0]) == rows(train)
    assert rows(data.split(0.3, by=by, random_state=2)[0]) != rows(train)


@pytest.mark.parametrize("by", ["chunk", "row"])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_each_row_is_in_the_test_data_of_one_fold(by: str, n: int) -> None:
    folds = chunks((X, Y), rows=50).folds(n, by=by, random_state=0)
    assert sorted(row for _, test in folds for row in rows(test)) == list(range(500))
    assert all(sorted(rows(train) + rows(test)) == list(range(500)) for train, test in folds)


def test_no_chunk_of_a_split_is_empty_though_the_last_one_has_a_single_row() -> None:
    data = chunks((X[:101], Y[:101]), rows=50)
    for train, test in (data.split(0.25, by="row"), *data.folds(3, by="row", random_state=0)):
        assert sorted(rows(train) + rows(test)) == list(range(101))
        assert all(chunk.rows and len(chunk.read()[1]) == chunk.rows for chunk in (*train, *test))
    with pytest.raises(ValueError, match="no chunk has rows enough"):
        chunks((X[:9], Y[:9]), rows=1).split(0.25, by="row")


def test_x_and_y_stay_together_whatever_is_done() -> None:
    data = chunks((X, Y), rows=50).shuffle(3, within=True).map(lambda X: X + 1)
    assert rows(data) != list(range(500))
    assert sorted(rows(data)) == list(range(500))
    for chunk in data:
        found, target = chunk.read()
        np.testing.assert_array_equal(found[:, 0], 2 * target + 1)


def test_chunks_can_be_shuffled_without_their_rows() -> None:
    data = chunks((X, Y), rows=50).shuffle(3)
    assert [chunk.read()[1][0] % 50 for chunk in data] == [0] * 10


def test_a_slice_is_data_and_an_item_is_a_chunk() -> None:
    data = chunks((X, Y), rows=50)
    assert rows(data[2:4]) == list(range(100, 200))
    assert data[1].rows == 50
    assert "10 chunks, 500 rows" in repr(data)
    assert "unknown" in repr(data.map(lambda X: X[:1], keeps_rows=False))


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda data: data.split(0), "test_size must be above 0"),
        (lambda data: data.split(1.0), "test_size must be above 0"),
        (lambda data: data.split(by="column"), 'by must be "chunk" or "row"'),
        (lambda data: data.folds(1), "n must be at least 2"),
        (lambda data: data.folds(11), "too few"),
        (lambda data: data[:1].split(), "too few"),
    ],
)
def test_what_makes_no_sense_is_said_at_once(use: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        use(chunks((X, Y), rows=50))


def test_a_small_test_part_has_at_least_one_chunk_and_leaves_at_least_one() -> None:
    data = chunks((X, Y), rows=50)
    assert [len(part) for part in data.split(0.001)] == [9, 1]
    assert [len(part) for part in data.split(0.999)] == [1, 9]
