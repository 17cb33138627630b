"""When which worker ran what: the task stream. Pure.

    "call" events ─► Spans: calls that follow one another at once become one span ─► Ring

A worker may end thousands of short calls a second. As a picture they are one block, so those of one name that follow
each other with no gap to speak of are put together, up to `MOST_SECONDS`. Gaps and failures stay to be seen.
"""

from __future__ import annotations

from minidask.client.events import ClusterEvent

from .table import Changes, Ring

MOST_SPANS = 60_000
MOST_AT_ONCE = 6_000
"""In one update of a viewer."""
GAP_SECONDS = 0.002
"""What is shorter is no gap."""
OVERLAP_SECONDS = 0.05
"""So inexact are times of other machines."""
MOST_SECONDS = 0.1


class Span:
    """Calls of one name in one worker, one after another."""

    __slots__ = ("began", "calls", "ended", "how", "key", "name")

    def __init__(self, event: ClusterEvent, key: str) -> None:
        self.name, self.how, self.key = event.name, event.how, key
        self.began, self.ended, self.calls = event.time, event.time + event.seconds, 1

    def joined(self, event: ClusterEvent) -> bool:
        """Add a call, if it belongs to this span."""
        ended = event.time + event.seconds
        if (
            event.name != self.name
            or (event.how, self.how) != ("done", "done")
            or not -OVERLAP_SECONDS <= event.time - self.ended <= GAP_SECONDS
            or ended - self.began > MOST_SECONDS
        ):
            return False
        self.ended, self.key = max(self.ended, ended), ""
        self.calls += 1
        return True

    def row(self) -> list[object]:
        """As a viewer gets it: name, when it began, seconds, calls, whether it failed, the story's key."""
        seconds = round(self.ended - self.began, 5)
        return [self.name, round(self.began, 4), seconds, self.calls, int(self.how != "done"), self.key]


class Spans:
    """The last spans of all workers.

    Args:
        changes: as for a table.
    """

    def __init__(self, changes: Changes) -> None:
        self._ring = Ring(changes, MOST_SPANS)
        self._open: dict[str, Span] = {}

    def __len__(self) -> int:
        return len(self._ring)

    def take(self, lane: str, event: ClusterEvent, key: str) -> None:
        """Take a "call".

        Args:
            lane: which worker ran it.
            key: of its story.
        """
        span = self._open.get(lane)
        if span is not None:
            if span.joined(event):
                return
            self._ring.add((lane, span.row()))
        self._open[lane] = Span(event, key)

    def close(self) -> None:
        """Show all that was taken: what comes later belongs to other spans."""
        for lane, span in self._open.items():
            self._ring.add((lane, span.row()))
        self._open.clear()

    def since(self, number: int) -> dict[str, list[object]]:
        """Return the spans after a change, by lane."""
        found: dict[str, list[object]] = {}
        for lane, row in self._ring.since(number, MOST_AT_ONCE if number else MOST_SPANS // 2):
            found.setdefault(lane, []).append(row)
        return found
