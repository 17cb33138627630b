"""`Parallel(initializer=…, initargs=…)`: a call that each worker's process makes once, before its first batch.

joblib's own backends give the initializer to their pool. Here workers outlive a `Parallel` call and serve many. So each
batch brings the initializer's name along, and the first one in a process runs it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from minidask.errors import SerializationError
from minidask.task.batch import RunsBatches, run_batch

if TYPE_CHECKING:
    from minidask.client.client import Client
    from minidask.pickling.scattered import Scattered

_made: set[bytes] = set()
_making = threading.RLock()


class Initialized(RunsBatches):
    """Runs a batch as `run_batch` does, after the initializer if that has not run in this process.

    If the initializer raises, the batch raises the same, and the next batch tries again.

    Args:
        key: the content id of initializer and arguments. In a process, the same one runs once.
        initializer: the function and its arguments.
        sent: the handle that stands for both while this is pickled; None in the worker.
    """

    def __init__(
        self, key: bytes, initializer: tuple[Callable[..., Any], tuple[Any, ...]], sent: Scattered | None = None
    ) -> None:
        self._key = key
        self._initializer = initializer
        self._sent = sent

    def __call__(self, items: list[Any], nesting_level: int | None, inner_threads: int | None) -> list[Any]:
        if self._key not in _made:
            with _making:
                if self._key not in _made:
                    function, args = self._initializer
                    run_batch([(function, args, {})], nesting_level, inner_threads)
                    _made.add(self._key)
        return run_batch(items, nesting_level, inner_threads)

    def __reduce__(self) -> Any:
        return Initialized, (self._key, self._sent)


def initialized(client: Client, initializer: Callable[..., Any], initargs: tuple[Any, ...]) -> Initialized:
    """Send the initializer ahead, and return the function that runs batches in the place of `run_batch`.

    Raises:
        TypeError: the initializer is no function, or `initargs` no tuple or list.
        SerializationError: one of them cannot be pickled.
    """
    if not callable(initializer):
        raise TypeError(f"initializer must be a function, got {type(initializer).__name__}")
    if not isinstance(initargs, tuple | list):
        raise TypeError(f"initargs must be a tuple of the initializer's arguments, got {type(initargs).__name__}")
    both = initializer, tuple(initargs)
    try:
        sent = client.scatter_one(both)
    except SerializationError as error:
        raise SerializationError(f"the initializer or its arguments: {error}") from error
    return Initialized(sent.blob, both, sent)
