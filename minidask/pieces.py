"""A large buffer goes as several blobs, its pieces.

They are hashed, written and fetched side by side, and data that was changed in one place costs the pieces that
changed. Tasks see them mapped next to one another, as one buffer.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from minidask.resources import cpu_count
from minidask.wire.frames import Buffer

BLOB_ID_BYTES = 16
PIECE_BYTES = 32 * 1024 * 1024
MAX_PIECES = 1024  # of a buffer: their names are shorter than any buffer beside a pickle
ALIGNMENT = 64 * 1024  # at least a page, on any machine
MAX_THREADS = 8

T = TypeVar("T")
R = TypeVar("R")


def cut(raw: Buffer) -> list[memoryview]:
    """The pieces of a buffer, in order, of much the same size; all but the last are whole pages."""
    view = memoryview(raw)
    count = min(-(-view.nbytes // PIECE_BYTES), MAX_PIECES)
    if count <= 1:
        return [view]
    size = -(-view.nbytes // count // ALIGNMENT) * ALIGNMENT
    return [view[start : start + size] for start in range(0, view.nbytes, size)]


def reference(names: Iterable[bytes], mode: bytes) -> bytes:
    """What stands for a buffer beside a pickle: the names of its pieces, and a letter for how to take them."""
    return b"".join(names) + mode


def names_in(reference: Buffer) -> tuple[bytes, ...]:
    """The names of the blobs in a reference."""
    return tuple(bytes(reference[i : i + BLOB_ID_BYTES]) for i in range(0, len(reference) - 1, BLOB_ID_BYTES))


def side_by_side(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """What the function makes of each item, in as many threads as there are cores for it."""
    threads = min(len(items), cpu_count(), MAX_THREADS)
    if threads <= 1:
        return [function(item) for item in items]
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))
