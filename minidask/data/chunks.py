"""A blob on its way, part by part: what to ask for next. The receiver sets the pace; pure.

So many chunks are asked for in advance that the line is never empty, and so few that nobody on the way has to keep
much: `ROOM` is for all blobs from one source together. Chunks come in order, and one that does not is of an earlier
request, and ignored: after a change of source, `again` starts from where the last one ended.
"""

from __future__ import annotations

CHUNK_BYTES = 1024 * 1024
PARTS_UNDER_WAY = 8
ROOM = PARTS_UNDER_WAY * CHUNK_BYTES


class ChunkProgress:
    """How far a blob of `size` bytes has come."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.have = 0
        self._asked = 0

    @property
    def complete(self) -> bool:
        return self.have == self.size

    @property
    def under_way(self) -> int:
        """The bytes that were asked for and have not come."""
        return self._asked - self.have

    def wanted(self, room: int) -> list[tuple[int, int]]:
        """The parts to ask for now, as `(offset, bytes)`, at most `room` bytes of them; they count as asked for."""
        parts = []
        while self._asked < self.size:
            count = min(CHUNK_BYTES, self.size - self._asked)
            if count > room:
                break
            parts.append((self._asked, count))
            self._asked += count
            room -= count
        return parts

    def came(self, offset: int, count: int) -> bool:
        """Take note of a part; whether it is the next one, so that its bytes are to be kept."""
        if offset != self.have or count != min(CHUNK_BYTES, self.size - self.have):
            return False
        self.have += count
        self._asked = max(self._asked, self.have)
        return True

    def again(self) -> None:
        """What was asked for and has not come has to be asked for again."""
        self._asked = self.have
