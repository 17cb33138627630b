"""How many calls a run of a `joblib.Parallel` object will make, as far as that can be known."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from minidask.host.signals import pass_on

READ_AHEAD = 10_000


def calls_in_all(parallel: Any) -> int | None:
    """The number, for a running `Parallel`; None where the iterable does not tell.

    scikit-learn passes generators, which yield little more than references: the next `READ_AHEAD` items of those are
    taken now. Those of others may read files or make arrays, and are left to be asked when it is their turn.
    """
    if parallel.n_tasks is not None:
        return int(parallel.n_tasks)
    with parallel._lock:
        if parallel._original_iterator is None:
            rest: list[Any] = []
        elif type(parallel).__module__.startswith("sklearn."):
            whole = _take(parallel)
            if whole is None:
                return None
            rest = whole
        else:
            return None
        waiting = sum(len(batch) for batch in list(parallel._ready_batches.queue))
        return int(parallel.n_dispatched_tasks) + waiting + len(rest)


def _take(parallel: Any) -> list[Any] | None:
    """Read what is left to dispatch, and put it back; None if that was not all."""
    iterator = parallel._original_iterator
    items: list[Any] = []
    try:
        items.extend(itertools.islice(iterator, READ_AHEAD))
    except Exception as error:  # noqa: BLE001 - joblib raises it when it comes to it
        pass_on(error)
        parallel._original_iterator = _then_raise(items, error)
        return None
    parallel._original_iterator = itertools.chain(items, iterator)
    return items if len(items) < READ_AHEAD else None


def _then_raise(items: Iterable[Any], error: Exception) -> Iterator[Any]:
    yield from items
    raise error
