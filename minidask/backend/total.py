"""Finds how many calls a run of a `joblib.Parallel` object will make, for the total of its progress bar.

A list tells its length. A generator does not. scikit-learn's generators yield little more than references, so up to
`READ_AHEAD` items of those are taken at once and put back. Other generators may read files or make arrays. They are
left alone, and the bar has no total.

The items are taken after joblib's first dispatch, when the workers are busy. A generator of scikit-learn's yields
170,000 items a second.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from minidask.backend.inside_joblib import InsideParallel
from minidask.host.signals import pass_on

READ_AHEAD = 10_000


def total_calls(inside: InsideParallel) -> int | None:
    """Return the number of calls of a running `Parallel`; None if its iterable does not tell."""
    if inside.parallel.n_tasks is not None:
        return int(inside.parallel.n_tasks)
    with inside.dispatching():
        if inside.iterator is None:
            return inside.calls_taken()
        if not type(inside.parallel).__module__.startswith("sklearn."):
            return None
        rest = _look_ahead(inside, inside.iterator)
        return None if rest is None else inside.calls_taken() + rest


def _look_ahead(inside: InsideParallel, iterator: Iterator[Any]) -> int | None:
    """Return how many items an iterator has left, and put them back; None: `READ_AHEAD` or more."""
    items: list[Any] = []
    try:
        items.extend(itertools.islice(iterator, READ_AHEAD))
    except Exception as error:  # noqa: BLE001 - joblib raises it when it comes to it
        pass_on(error)
        inside.iterator = _then_raise(items, error)
        return None
    inside.iterator = itertools.chain(items, iterator)
    return len(items) if len(items) < READ_AHEAD else None


def _then_raise(items: Iterable[Any], error: Exception) -> Iterator[Any]:
    yield from items
    raise error
