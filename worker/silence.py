"""Notices that the scheduler is silent. Pure, and without a clock.

A process may stand still, and when it goes on, what has come meanwhile is not read yet: the silence would be its own.
So looks are counted, which are made now and then, and not seconds.
"""

from __future__ import annotations

LOOKS = 10
"""So many looks that find nothing new are silence."""


class Silence:
    """Whether anything comes over a connection."""

    def __init__(self) -> None:
        self._reads = -1
        self._looks = 0

    def look(self, reads: int) -> bool:
        """Look once more. Returns whether the other end is silent.

        Args:
            reads: how often anything has come so far.
        """
        self._looks = self._looks + 1 if reads == self._reads else 0
        self._reads = reads
        return self._looks >= LOOKS
