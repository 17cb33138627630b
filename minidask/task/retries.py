"""Calls that are tried again when they raise: `retries=` and `retry_on=`.

A call is tried again in its slot, at once, by whoever runs it: `Slot.outcome`, or `NestedRun` for a batch that stays in
its task. Each try of a slot unpickles the call anew. So it finds its arguments, functions and classes as they were
sent, whatever the try before has changed. For the scheduler all tries are one attempt. A time limit is for all of them
together, and to stop the call ends the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Retried:
    """A function whose call is tried again when it raises. Called as such, it calls the function once.

    Args:
        function: the function.
        retries: how many times a call is tried again, at most.
        retry_on: an exception of these classes is worth another try.
    """

    __slots__ = ("function", "retries", "retry_on")

    def __init__(
        self, function: Callable[..., Any], retries: int, retry_on: tuple[type[Exception], ...] = (Exception,)
    ) -> None:
        self.function = function
        self.retries = retries
        self.retry_on = retry_on

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def tries_again(function: Any, error: BaseException, tries: int) -> bool:
    """Whether a call of a function that has raised is to be tried again.

    Args:
        function: that was called; only one that is `Retried` is called again.
        error: what it has raised.
        tries: how many there were.
    """
    return isinstance(function, Retried) and tries <= function.retries and isinstance(error, function.retry_on)
