"""What counts as large, each limit once.

    32 KiB   OUT_OF_BAND_BYTES   a buffer of at least this size travels beside its pickle, uncopied
    64 KiB   REPEATED_BYTES      a buffer of at least this size becomes a blob when a second task takes it
     1 MiB   LARGE_BYTES         a buffer of at least this size becomes a blob: one copy for each machine
     1 MiB   CHUNK_BYTES         a blob travels between machines in chunks of this size

What a frame may hold at most is in `frames.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from minidask.wire.frames import Buffer

BLOB_ID_BYTES = 16
"""The length of a blob's id: a hash of its sizes and its content."""

OUT_OF_BAND_BYTES = 32 * 1024
"""A shorter buffer beside a pickle is a reference to blobs; so no reference may be longer."""

REPEATED_BYTES = 64 * 1024
"""To send a smaller buffer again is cheaper than to look whether it comes again."""

LARGE_BYTES = 1024 * 1024
"""The default of joblib's `max_nbytes`."""

CHUNK_BYTES = 1024 * 1024
"""Every chunk of a blob but the last has this size."""


def blob_id(payload: Sequence[Buffer]) -> bytes:
    """The id of a blob: 16 bytes of a hash over the sizes and the content of its buffers."""
    digest = xxhash.xxh3_128()
    for buffer in payload:
        digest.update(len(buffer).to_bytes(8, "little"))
        digest.update(buffer)
    return digest.digest()
