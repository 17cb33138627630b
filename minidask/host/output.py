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
        """Take `size` characters at the time `now`, in seconds. Returns whether they may pass."""
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if size > self._tokens:
            return False
        self._tokens -= size
        return True


class RateLimiter:
    """Limits the text of all slots of a worker to `rate` characters a second, and `burst` at once."""

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
        """Yield the unfinished line as it is; the next call may continue it."""
        if self._partial:
            text, self._partial = self._partial, ""
            yield text


class SlotOutput:
    """What the slots of one worker print: whole lines of each stream, at a rate that all slots share."""

    def __init__(self) -> None:
        self._splitters: dict[tuple[int, str], LineSplitter] = {}
        self._limiter = RateLimiter()

    def feed(self, slot: int, stream: str, data: bytes, now: float) -> Iterator[str]:
        """Take bytes that a slot has printed; yield the lines to pass on. `now` is in seconds."""
        splitter = self._splitters.setdefault((slot, stream), LineSplitter())
        return self._admitted(splitter.feed(data), now)

    def flush(self, slot: int, now: float) -> Iterator[tuple[str, str]]:
        """Yield unfinished lines of a slot, each with its stream: a call has ended."""
        for stream in ("stdout", "stderr"):
            splitter = self._splitters.get((slot, stream))
            for text in self._admitted(splitter.flush(), now) if splitter else ():
                yield stream, text

    def forget(self, slot: int) -> None:
        """Drop what is kept for a slot that has ended."""
        for stream in ("stdout", "stderr"):
            self._splitters.pop((slot, stream), None)

    def _admitted(self, texts: Iterator[str], now: float) -> Iterator[str]:
        return (admitted for text in texts if (admitted := self._limiter.admit(text, now)))
