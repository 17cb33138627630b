"""How many calls a `Parallel` run will make: the length of a list, and scikit-learn's generators read ahead."""

from __future__ import annotations

from typing import Any

import pytest
from joblib import Parallel

from minidask.backend.inside_joblib import InsideParallel
from minidask.backend.total import READ_AHEAD, total_calls


class Running(Parallel):  # type: ignore[misc]
    """A `Parallel` in the middle of a call."""

    def __init__(self, iterable: Any, dispatched: int = 0) -> None:
        super().__init__(n_jobs=2, backend="loky")
        self.n_tasks = len(iterable) if hasattr(iterable, "__len__") else None
        self._original_iterator = iter(iterable)
        self.n_dispatched_tasks = dispatched


class ScikitLearns(Running):
    __module__ = "sklearn.utils.parallel"


def test_a_list_tells_how_many_and_a_generator_of_a_users_is_left_alone() -> None:
    assert total_calls(InsideParallel(Running([1, 2, 3]))) == 3
    asked = []
    assert total_calls(InsideParallel(Running(asked.append(i) for i in range(3)))) is None
    assert asked == []


@pytest.mark.parametrize(
    ("count", "expected"), [(0, 4), (50, 54), (READ_AHEAD - 1, READ_AHEAD + 3), (READ_AHEAD, None)]
)
def test_scikit_learns_generators_are_read_ahead_and_nothing_of_them_is_lost(count: int, expected: int | None) -> None:
    parallel = ScikitLearns((i for i in range(count)), dispatched=4)
    assert total_calls(InsideParallel(parallel)) == expected
    assert list(parallel._original_iterator) == list(range(count))


def test_reading_ahead_leaves_an_error_to_those_who_get_there() -> None:
    parallel = ScikitLearns(10 // (3 - i) for i in range(5))
    assert total_calls(InsideParallel(parallel)) is None
    found = []
    with pytest.raises(ZeroDivisionError):
        found.extend(iter(lambda: next(parallel._original_iterator), None))
    assert next(parallel._original_iterator, "over") == "over"
