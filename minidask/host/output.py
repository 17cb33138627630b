"""What a slot prints, cut into whole lines and kept to a rate that cannot drown the wire. Pure.

A task may print without end: what goes over the rate is dropped, and how much was dropped is said.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator

RATE_BYTES = 256 * 1024
BURST_BYTES = 1024 * 1024
MAX_LINE = 64 * 1024


class TokenBucket:
    """`RATE_BYTES` a second, `BURST_BYTES` at once."""

    def __init__(self, rate: float = RATE_BYTES, burst: float = BURST_BYTES) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at: float | None = None

    def take(self, size: int, now: float) -> bool:
        """Whether so much more may pass."""
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if size > self._tokens:
            return False
        self._tokens -= size
        return True


class RateLimiter:
    """For the text of all slots of a worker; arguments as `TokenBucket`'s."""

    def __init__(self, rate: float = RATE_BYTES, burst: float = BURST_BYTES) -> None:
        self._bucket = TokenBucket(rate, burst)
        self._dropped = 0

    def admit(self, text: str, now: float) -> str:
        """The part of `text` to pass on: all of it or nothing, after a note on what was dropped before it."""
        if not self._bucket.take(len(text), now):
            self._dropped += len(text)
            return ""
        if not self._dropped:
            return text
        note = f"[minidask: {self._dropped} characters of output were dropped here, over the rate limit]\n"
        self._dropped = 0
        return note + text


class LineSplitter:
    """Turns the bytes of one stream into pieces of whole lines."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._partial = ""

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield the lines that are complete by now, as one text."""
        text = self._partial + self._decoder.decode(data)
        end = text.rfind("\n") + 1
        if len(text) - end > MAX_LINE:
            end = len(text)
        self._partial = text[end:]
        if end:
            yield text[:end]

    def flush(self) -> Iterator[str]:
        """Yield what stands in an unfinished line, as it is: the next call may go on with it."""
        if self._partial:
            text, self._partial = self._partial, ""
            yield text
