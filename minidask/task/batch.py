"""What a slot does around a task's own code, a batch of a `joblib.Parallel` call above all.

joblib must know that a batch runs inside another call of `Parallel`, so that calls in it are nested. But joblib loads
numpy, and a slot starts in a quarter of the time without them. So nothing of joblib is imported here. When a task
imports joblib itself, its calls are nested from then on: `joblib_is_loaded`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from minidask.host.resources import SHARE_VARIABLES
from minidask.task.retries import Retried

T = TypeVar("T")
Nested = Callable[[int | None], AbstractContextManager[Any]]


class RunsBatches:
    """Base of callables that stand in the place of `run_batch`, and call it."""


class _ThisThread(threading.local):
    """Per thread: what to call if joblib is loaded during a batch that began without it."""

    on_joblib: Callable[[Nested], None] | None = None


_this_thread = _ThisThread()
_nested: Nested | None = None


def joblib_is_loaded(nested: Nested) -> None:
    """Enter `nested(nesting_level)` around each batch from now on, also around the rest of this thread's batch."""
    global _nested
    _nested = nested
    if _this_thread.on_joblib is not None:
        _this_thread.on_joblib(nested)


def run_task(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a task's function. If joblib is loaded, or the function loads it, calls of `Parallel` inside are nested."""
    if isinstance(function, Retried):
        function = function.function
    if function is run_batch or isinstance(function, RunsBatches):
        return function(*args, **kwargs)
    return _run_nested(None, lambda: function(*args, **kwargs))


def run_batch(items: list[Any], nesting_level: int | None, inner_threads: int | None) -> list[Any]:
    """Run the calls of one batch in order, as joblib's `BatchedCalls` does.

    Args:
        items: function, arguments and keyword arguments of each call.
        nesting_level: of the batch's `Parallel` call in others; None if joblib does not say.
        inner_threads: limit for the thread pools of libraries; None: no limit.
    """
    return _run_nested(nesting_level, lambda: _run(items, inner_threads))


def _run_nested(level: int | None, run: Callable[[], T]) -> T:
    """Call `run`, with joblib's calls inside nested as soon as joblib is loaded."""
    if _nested is not None:
        with _nested(level):
            return run()
    entered: list[AbstractContextManager[Any]] = []

    def on_joblib(nested: Nested) -> None:
        context = nested(level)
        context.__enter__()
        entered.append(context)

    outer, _this_thread.on_joblib = _this_thread.on_joblib, on_joblib
    try:
        return run()
    finally:
        _this_thread.on_joblib = outer
        for context in entered:
            context.__exit__(None, None, None)


def _run(items: list[Any], inner_threads: int | None) -> list[Any]:
    if inner_threads is not None:
        with _threads_limited(inner_threads):
            return _run(items, None)
    results = []
    for function, args, kwargs in items:  # no comprehension: the note on an error reads this frame's variables
        results.append(function(*args, **kwargs))
    return results


_controllers: dict[int, Any] = {}


@contextlib.contextmanager
def _threads_limited(threads: int) -> Iterator[None]:
    """Limit the thread pools of libraries in the block: of loaded ones, and of those that the task will load."""
    from threadpoolctl import ThreadpoolController  # noqa: PLC0415 - only whoever asks for a limit needs it

    loaded = len(sys.modules)
    if loaded not in _controllers:
        _controllers.clear()  # looking for libraries takes a millisecond: again only when there may be new ones
        _controllers[loaded] = ThreadpoolController()
    before = {name: os.environ.get(name) for name in SHARE_VARIABLES}
    os.environ.update(dict.fromkeys(SHARE_VARIABLES, str(threads)))
    try:
        with _controllers[loaded].limit(limits=threads):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
