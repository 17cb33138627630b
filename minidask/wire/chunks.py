"""The answer to a request for a chunk of a large blob."""

from __future__ import annotations

from collections.abc import Callable

from minidask.wire.frames import Buffer
from minidask.wire.large import CHUNK_BYTES
from minidask.wire.messages import Chunk, FetchChunk, NoBlob


def is_chunk(request: FetchChunk) -> bool:
    """Whether a request asks for a range that a chunk may have, in a blob that is long enough."""
    return request.offset >= 0 and 0 < request.size <= CHUNK_BYTES


def answer(request: FetchChunk, read: Callable[[int, int], Buffer | None], missing: str) -> Chunk | NoBlob:
    """Make the answer to a request for a chunk: the chunk, or a refusal.

    Args:
        read: called with offset and size; returns None if those bytes are not here.
        missing: the text of the refusal in that case.
    """
    if not is_chunk(request):
        return NoBlob(request.blob, request.peer, f"a chunk has 1 to {CHUNK_BYTES} bytes")
    data = read(request.offset, request.size)
    if data is None:
        return NoBlob(request.blob, request.peer, missing)
    return Chunk(request.blob, request.offset, request.peer, [data])
