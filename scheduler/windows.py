"""How much was asked for, and has not come: a bound for whoever asks for more than it reads. Pure.

A request for a chunk has a few bytes, and its answer a million. Each receiver of ours asks for 8 MiB in advance from
one source (`minidask/data/downloads.py`). Whoever asks for much more is refused: so no queue on the
way grows without a bound, whether the answers are read or not.
"""

from __future__ import annotations

from minidask.wire.large import CHUNK_BYTES

MOST_ASKED = 32 * CHUNK_BYTES
LEAST = 1024  # an answer without a byte has a header too


class Windows:
    """The bytes under way, by the peer that asks and the one that answers."""

    def __init__(self) -> None:
        self._asked: dict[tuple[int, int], tuple[int, int]] = {}  # bytes, and requests

    def ask(self, peer: int, source: int, size: int) -> bool:
        """Note a request. Returns whether it may be passed on: there is not too much under way."""
        asked, requests = self._asked.get((peer, source), (0, 0))
        asked += max(size, LEAST)
        if asked > MOST_ASKED:
            return False
        self._asked[peer, source] = asked, requests + 1
        return True

    def came(self, peer: int, source: int, size: int = CHUNK_BYTES) -> bool:
        """Note an answer of this size; a refusal does not say how much was asked for. Returns whether any was due."""
        asked, requests = self._asked.pop((peer, source), (0, 0))
        if requests > 1:
            self._asked[peer, source] = max(0, asked - max(size, LEAST)), requests - 1
        return requests > 0

    def begin(self, peer: int, source: int) -> None:
        """A peer begins anew to ask this source: what it has asked for before will not come."""
        self._asked.pop((peer, source), None)

    def lose(self, peer: int) -> None:
        """Forget a peer that has left."""
        self._asked = {pair: asked for pair, asked in self._asked.items() if peer not in pair}
