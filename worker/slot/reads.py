"""How a slot sees that the daemon has read output of its call; `lease.py` tells what for."""

from __future__ import annotations

import mmap
import struct

_COUNT = struct.Struct("<Q")


class OutputCount:
    """How often the daemon has begun to read a slot's output; both have it in memory that they share.

    Args:
        file: descriptor of a file of at least 8 bytes.
    """

    def __init__(self, file: int) -> None:
        self._memory = mmap.mmap(file, _COUNT.size)

    def count(self) -> None:
        """Count a reading that is about to begin; for the daemon."""
        _COUNT.pack_into(self._memory, 0, self.value + 1)

    @property
    def value(self) -> int:
        """The count."""
        return int(_COUNT.unpack_from(self._memory)[0])

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()
