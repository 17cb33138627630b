"""How much the scheduler keeps for each client, and when that is too much. Pure. Part of `SchedulerCore`.

Whatever a client sends is kept until it has no more use: the payloads of tasks, and small blobs. Without a bound, a
client that only sends would fill the memory of the machine, and end everybody's work. So all clients together may have
`limit` bytes kept. How much one of them may have depends on what is left, so that newcomers always find something:

    a task        is taken in while its client has no more than 3 times as much as would be left;
                  else that task is lost, with an error that says what to do
    a blob        while it has no more than 6 times as much; else the client is told why, and disconnected

So a client that is alone gets 3 quarters of the limit for its tasks, two get 3 sevenths each, and so on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from minidask.host.sizes import format_bytes
from minidask.wire import messages as m

RECORD_BYTES = 1024
"""A task or a blob with its entries in all tables: 300 to 900 bytes were measured."""
ID_BYTES = 64
CHARACTER_BYTES = 4
TASKS, ALL = 3, 6


class Quota:
    """What is kept, by client.

    Args:
        limit: bytes for all clients.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self.total = 0
        self.kept: Counter[int] = Counter()

    def why_not(self, client: int, size: int, share: int) -> str:
        """Why so many bytes more cannot be kept for a client; an empty text if they can.

        Args:
            share: how many times as much as is left it may have: `TASKS` or `ALL`.
        """
        if self.kept[client] + size <= share * (self.limit - self.total - size):
            return ""
        own, all_ = format_bytes(self.kept[client]), format_bytes(self.total)
        return (
            f"the scheduler keeps {own} for this client, {all_} for all, and has no room for more. Wait for results"
            " before you submit more, or start minidask-scheduler with a larger --memory-limit"
        )

    def crowded_out(self, coming: Mapping[int, int]) -> dict[int, str]:
        """The clients whose messages under way have no room beside what is kept, the largest first, and what to do.

        Args:
            coming: how many bytes have come of the message of each.
        """
        room, found = self.limit - self.total - sum(coming.values()), dict[int, str]()
        for client in sorted(coming, key=coming.__getitem__, reverse=True):
            if room < 0:
                room += coming[client]
                what = f"a message of {format_bytes(coming[client])} and more has no room here"
                found[client] = f"{what}: send less at once, or start minidask-scheduler with a larger --memory-limit"
        return found

    def keep(self, client: int, size: int) -> int:
        """Note that so many bytes are kept for a client. Returns `size`."""
        self.kept[client] += size
        self.total += size
        return size

    def drop(self, client: int, size: int) -> None:
        """Note that so many bytes are kept for it no longer."""
        self.total -= size
        self.kept[client] -= size
        if not self.kept[client]:
            del self.kept[client]


def size_of(message: m.Submit | m.PutBlob | m.OfferBlob) -> int:
    """How many bytes it takes to keep what a message brings."""
    if isinstance(message, m.OfferBlob):
        return RECORD_BYTES + CHARACTER_BYTES * len(message.place)
    size = RECORD_BYTES + sum(map(len, message.payload))
    if isinstance(message, m.Submit):
        size += ID_BYTES * len(message.blobs) + CHARACTER_BYTES * (len(message.name) + len(message.pin or ""))
    return size
