"""What slots print, on its way to the client: cut into whole lines, at a limited rate. Pure.

A task may print without end, and all of it would go over the wire and into the user's terminal. So text over the rate
is dropped, and a note says how much. Lines are kept whole, as several slots print at once.

    bytes of a stream ─► LineSplitter ─► whole lines ─► RateLimiter ─► text for the client
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator

RATE_BYTES = 256 * 1024
BURST_BYTES = 1024 * 1024
MAX_LINE = 64 * 1024


class TokenBucket:
    """Lets `rate` characters a second pass, and up to `burst` at once after a pause."""

    def __init__(self, rate: float = RATE_BYTES, burst: float = BURST_BYTES) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at: float | None = None

    def take(self, size: int, now: float) -> bool:
        """Take `size` characters at the time `now`, in seconds.

        Returns False, and takes none, if they exceed the rate.
        """
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
        """The text to pass on: "" if it exceeds the rate, else all of it, after a note on text dropped before.

        Args:
            text: what a slot has printed.
            now: the time, in seconds.
        """
        if not self._bucket.take(len(text), now):
            self._dropped += len(text)
            return ""
        if not self._dropped:
            return text
        note = f"[minidask: {self._dropped} characters of output were dropped here, over the rate limit]\n"
        self._dropped = 0
        return note + text


class LineSplitter:
    """Turns the bytes of one stream into whole lines. A line over `MAX_LINE` characters is passed on unfinished."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._partial = ""

    def feed(self, data: bytes) -> Iterator[str]:
        """Take bytes; yield the lines that are complete now, as one text. Bytes that are no UTF-8 are replaced."""
        text = self._partial + self._decoder.decode(data)
        end = text.rfind("\n") + 1
        if len(text) - end > MAX_LINE:
            end = len(text)
        self._partial = text[end:]
        if end:
            yield text[:end]

    def flush(self) -> Iterator[str]:
        """Yield the unfinished line, if there is one. Text that follows continues it."""
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
        """Yield the unfinished lines of a slot, each with its stream; to be called when a call has ended."""
        for stream in ("stdout", "stderr"):
            splitter = self._splitters.get((slot, stream))
            for text in self._admitted(splitter.flush(), now) if splitter else ():
                yield stream, text

    def forget(self, slot: int) -> None:
        """Forget a slot that has ended, with its unfinished lines."""
        for stream in ("stdout", "stderr"):
            self._splitters.pop((slot, stream), None)

    def _admitted(self, texts: Iterator[str], now: float) -> Iterator[str]:
        return (admitted for text in texts if (admitted := self._limiter.admit(text, now)))
