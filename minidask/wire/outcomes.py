"""What an outcome may look like: its client takes a short buffer beside a pickle for the name of data elsewhere."""

from __future__ import annotations

from minidask.errors import ProtocolError
from minidask.wire.large import BLOB_ID_BYTES, OUT_OF_BAND_BYTES
from minidask.wire.messages import Done, Failed

RESULT_LETTER = ord("w")


def check_outcome(message: Done | Failed) -> None:
    """See that what is beside the pickle of a result is data, or names one part of it, as protocol.md has it.

    Raises:
        ProtocolError: it is neither.
    """
    if type(message) is Done and not message.payload:
        raise ProtocolError("a result has one buffer at least, its pickle")
    for buffer in message.payload[1:]:
        named = type(message) is Done and len(buffer) == BLOB_ID_BYTES + 1 and buffer[-1] == RESULT_LETTER
        if len(buffer) < OUT_OF_BAND_BYTES and not named:
            raise ProtocolError(f"a buffer of {len(buffer)} bytes beside a pickle is neither data nor the name of any")
