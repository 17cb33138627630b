"""What a progress bar shows, from what was counted: without a clock, threads or a screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class Cluster(NamedTuple):
    """What the scheduler says of one client's tasks: how many run now, and how many its tasks have submitted."""

    running: int
    nested: int
    nested_over: int


class Line(NamedTuple):
    """What a bar shows: how many calls are over, of how many if that is known, and a note on the others."""

    over: int
    total: int | None
    note: str


@dataclass(eq=False)
class Part:
    """Calls that are counted together; `total` is how many there will be, None while nobody knows."""

    total: int | None = None
    submitted: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0


class Tally:
    """Adds up the parts of a bar."""

    def __init__(self) -> None:
        self._open: list[Part] = []
        self._closed = Part(total=0)

    def __bool__(self) -> bool:
        """Whether there is something to show."""
        return any(part.submitted for part in [*self._open, self._closed])

    def open(self, total: int | None = None) -> Part:
        """A new part, whose counts are from then on the caller's to change."""
        part = Part(total)
        self._open.append(part)
        return part

    def close(self, part: Part, ended_well: bool) -> None:
        """No more calls will come; if the part ended well, then those that came are all there are."""
        self._open.remove(part)
        total = part.submitted if ended_well else part.total
        closed = self._closed
        self._closed = Part(
            None if closed.total is None or total is None else closed.total + total,
            closed.submitted + part.submitted,
            closed.done + part.done,
            closed.failed + part.failed,
            closed.cancelled + part.cancelled,
        )

    def line(self, cluster: Cluster | None = None) -> Line:
        """The bar as it is now; None for the cluster where its scheduler has not yet told."""
        parts = [*self._open, self._closed]
        failed, cancelled = sum(part.failed for part in parts), sum(part.cancelled for part in parts)
        totals = [part.total for part in parts]
        total = None if None in totals else sum(filter(None, totals))
        note = []
        if self._open and cluster is not None:
            note.append(f"{cluster.running} running")
        if failed:
            note.append(f"{failed} failed")
        if cancelled:
            note.append(f"{cancelled} cancelled")
        if cluster is not None and cluster.nested:
            note.append(f"nested {cluster.nested_over}/{cluster.nested}")
        return Line(sum(part.done for part in parts) + failed, total, ", ".join(note))


def cluster_of(info: dict[str, Any]) -> Cluster | None:
    """What the scheduler's description of itself says of the client that asked for it."""
    for client in info["clients"]:
        if client["id"] == info["you"]:
            return Cluster(client["running"], client["nested"]["submitted"], client["nested"]["finished"])
    return None


def since(cluster: Cluster, before: Cluster) -> Cluster:
    """The same, without those nested tasks that there were before."""
    return Cluster(cluster.running, cluster.nested - before.nested, cluster.nested_over - before.nested_over)
