"""Pieces: a large buffer travels as several blobs.

The kernel lets one thread at a time write to a file, but several threads to several files. So pieces are hashed and
written side by side. With two cores, 256 MiB are in the store after 55 ms; as one file they would take 103. Pieces are
fetched side by side too. If an array was changed in one place, only that piece is sent again. Store, wire and scheduler
know nothing of pieces. The price: a task sees one buffer, so the pieces must be mapped next to one another
(`files.py`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from minidask.host.resources import core_count
from minidask.host.signals import start
from minidask.wire.frames import Buffer
from minidask.wire.large import BLOB_ID_BYTES

PIECE_BYTES = 32 * 1024 * 1024
MAX_PIECES = 1024  # of a buffer: so a reference is shorter than any buffer beside a pickle
ALIGNMENT = 64 * 1024  # at least a page, on any machine
MAX_THREADS = 8

T = TypeVar("T")
R = TypeVar("R")


def cut(raw: Buffer) -> list[memoryview]:
    """Cut a buffer into views of about `PIECE_BYTES`, in order. All but the last have the size of whole pages."""
    view = memoryview(raw)
    count = min(-(-view.nbytes // PIECE_BYTES), MAX_PIECES)
    if count <= 1:
        return [view]
    size = view.nbytes // count // ALIGNMENT * ALIGNMENT
    ends = [number * size for number in range(1, count)]
    return [view[start:end] for start, end in zip([0, *ends], [*ends, view.nbytes], strict=True)]


def reference(names: Iterable[bytes], mode: bytes) -> bytes:
    """The reference that takes a buffer's place beside a pickle: the ids of its pieces, and a map mode's letter."""
    return b"".join(names) + mode


def names_in(reference: Buffer) -> tuple[bytes, ...]:
    """The ids of the blobs that a reference consists of, in order."""
    return tuple(bytes(reference[i : i + BLOB_ID_BYTES]) for i in range(0, len(reference) - 1, BLOB_ID_BYTES))


def side_by_side(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Call the function with each item, in as many threads as there are cores, this one included.

    Returns:
        The results, in the order of the items.

    Raises:
        BaseException: the first error that a call has raised. Other items may be left out then.
    """
    results: dict[int, R] = {}
    errors: list[BaseException] = []
    numbers = iter(range(len(items)))

    def work() -> None:
        for number in numbers:
            if errors:
                return
            try:
                results[number] = function(items[number])
            except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
                errors.append(error)

    helpers = []
    for _ in range(min(len(items), core_count(), MAX_THREADS) - 1):
        helper = threading.Thread(target=work, name="minidask-pieces", daemon=True)
        with contextlib.suppress(RuntimeError):  # no new threads while the interpreter ends
            start(helper)
            helpers.append(helper)
    work()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(items))]
