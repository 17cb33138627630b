"""Gathers the results of futures in lists and dicts, at any depth, for `Client.gather`.

Tracebacks keep frames, and frames keep objects. So no frame here holds a user's future once it has raised.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from minidask.host.signals import raised_by_handler


def gathered(items: Iterable[Any], errors: str) -> Iterator[Any]:
    """Yield the result of each item.

    Args:
        items: futures, and iterables and dicts of such items.
        errors: "raise" the exception of a failed task, "return" it in its place, or "skip" it.

    Raises:
        TypeError: an item is neither a future nor an iterable or dict.
        Exception: with `errors="raise"`, what a task raised.
    """
    __tracebackhide__ = True  # notebooks leave this frame out
    item = None
    try:
        for item in items:
            yield from _results(item, errors)
    finally:
        items = item = None  # type: ignore[assignment] # a traceback keeps this frame: nobody holds them there


def _results(item: Any, errors: str) -> Iterator[Any]:
    __tracebackhide__ = True
    try:
        if isinstance(item, concurrent.futures.Future):
            try:
                yield item.result()
            except (Exception, concurrent.futures.CancelledError) as error:
                if errors == "raise" or raised_by_handler(error):
                    raise
                if errors == "return":
                    yield error
        elif isinstance(item, Mapping):
            found = {}
            for key, value in item.items():  # no comprehension: it would have a frame of its own in tracebacks
                for result in gathered([value], errors):
                    found[key] = result
            yield found
        elif isinstance(item, Iterable) and not isinstance(item, str | bytes | bytearray):
            yield list(gathered(item, errors))
        else:
            raise TypeError(
                f"gather() takes futures, in iterables and dicts at any depth, and has found {type(item).__name__}"
            )
    finally:
        item = value = None
