"""A future's outcome: unpickled by the thread that asks, and one object for all that ask."""

from __future__ import annotations

import threading

from minidask.client.future import Future
from minidask.client.outcomes import Returned
from minidask.pickling.sharing import dumps

BOTH = threading.Barrier(2)


def unpickle() -> list[int]:
    """Return a new list, once two threads have come here: so no lock keeps one of them out."""
    BOTH.wait(30)
    return [1]


class Outcome:
    def __reduce__(self) -> object:
        return unpickle, ()


def test_two_threads_may_unpickle_an_outcome_at_once_and_get_the_same_object() -> None:
    future = Future(1, "task")
    future.settle(Returned(dumps(Outcome(), "the outcome"), 0.1, "worker"))
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(future.result(0))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    first, second = results
    assert first == [1]
    assert first is second
    assert future.result(0) is first
