"""The check of outcomes before they go to a client.

A client takes a short buffer beside a pickle for the id of data that is elsewhere, and maps or fetches that data. So a
faulty worker could make a client wait for data that does not exist. Such an outcome is refused: a worker that
has sent it is disconnected, a slot is killed.
"""

from __future__ import annotations

from minidask.errors import ProtocolError
from minidask.wire.large import BLOB_ID_BYTES, OUT_OF_BAND_BYTES
from minidask.wire.messages import CallDone, CallFailed, Done, Failed

RESULT_LETTER = ord("w")


def check_outcome(message: Done | Failed | CallDone | CallFailed) -> None:
    """Check that each buffer beside the pickle is data, or in a result the id of one large buffer; see protocol.md.

    Raises:
        ProtocolError: a buffer is neither, or the pickle of a result is missing.
    """
    returned = isinstance(message, Done | CallDone)
    if returned and not message.payload:
        raise ProtocolError("a result has one buffer at least, its pickle")
    for buffer in message.payload[1:]:
        named = returned and len(buffer) == BLOB_ID_BYTES + 1 and buffer[-1] == RESULT_LETTER
        if len(buffer) < OUT_OF_BAND_BYTES and not named:
            raise ProtocolError(f"a buffer of {len(buffer)} bytes beside a pickle is neither data nor the name of any")
