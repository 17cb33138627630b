"""What lies in the pipes and in the memory of a call queue; `minidask/data/callqueue.py` tells how it is used."""

from __future__ import annotations

import select
import struct
from typing import NamedTuple

from minidask.wire.frames import Buffer
from minidask.wire.packing import pack

LINES = 512
CALL_BYTES = RESULT_BYTES = 64 * 1024
LEASES = 1024
CLAIM = struct.Struct("<Q")
TAKING = (1 << 64) - 1
"""A claim: the slot may have read a ticket, and has not said which."""
LEAVE = TAKING - 1
"""A ticket: the slot that reads it gives its lease back."""
HEADER = struct.Struct("<QI")
"""Of a line: the ticket, and the size of the call; with `ELSEWHERE` if the call is too large for the line."""
TICKET = CLAIM
RESULT = struct.Struct("<QQdI")
"""Of a result: the call's number, its ticket, the duration in seconds, and the size of the pickle; see `ELSEWHERE`."""
PIPE_BUF = select.PIPE_BUF
"""The most bytes that the kernel writes into a pipe at once, whole or not at all."""
ELSEWHERE = 1 << 31
"""In a size. Of a call: it is in a file beside the arena. Of a result: the pickle is in the line, not in the pipe."""


class QueueFiles(NamedTuple):
    """Where a queue is, as a lease's payload says it."""

    arena: str
    calls: str
    results: str

    def beside(self, ticket: int) -> str:
        """The file of a call that is too large for its line."""
        return f"{self.calls}.{ticket % LINES}"

    def pack(self, lease: int) -> bytes:
        """The payload of a lease, which has this number in the arena."""
        return pack([*self, lease])


class QueuedCall(NamedTuple):
    """A call as it lies in a line: the client's number for it, and of a `Run` what differs from call to call."""

    number: int
    name: str
    blobs: list[bytes]
    payload: list[Buffer]
