"""Where large bytes in messages meet the worker's store: those of blobs, and those of results.

The core deals in blob ids only, so both are done before it sees the message.
"""

from __future__ import annotations

import logging

from minidask.data.store import BlobStore
from minidask.pickling.payload import left_in
from minidask.wire.large import LARGE_BYTES, blob_id
from minidask.wire.messages import CallDone, Done, PutBlob

log = logging.getLogger("minidask.worker")


def stored(message: PutBlob, store: BlobStore) -> PutBlob | None:
    """Put a large blob into the store; slots then need only its id.

    Returns:
        The message for the core: with an empty payload if the bytes are in the store, unchanged if the blob is small or
        the store has no room. None if the bytes are not what their id says: tasks that need the blob then report it.
    """
    if blob_id(message.payload) != message.blob:
        log.error("refused blob %s: its bytes are not what its name says", message.blob.hex())
        return None
    payload = message.payload
    if len(payload) == 1 and len(payload[0]) >= LARGE_BYTES and store.put(message.blob, payload[0]):
        return PutBlob(message.blob, [])
    return message


def accepted(done: Done | CallDone, store: BlobStore) -> dict[bytes, int]:
    """Take over the large buffers of a result that a slot left in the store. Returns their sizes by id.

    Raises:
        OSError: one of them is not there.
    """
    return {blob: store.accept(blob) for blob in left_in(done.payload)} if len(done.payload) > 1 else {}
