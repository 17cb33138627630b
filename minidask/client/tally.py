"""Decides what a progress bar shows, from counts alone. Pure: no clock, threads or screen, so tests need none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class SchedulerCounts(NamedTuple):
    """The scheduler's counts for one client: tasks that run now, nested ones, and nested ones that are over."""

    running: int
    nested: int
    nested_over: int


class BarText(NamedTuple):
    """What a bar shows: how many calls are over, how many there are (None: unknown), and a note on the others."""

    over: int
    total: int | None
    note: str


@dataclass(eq=False, slots=True)
class CallCounts:
    """Counts of calls that belong together.

    One thread at a time may change them: those who count have a lock for that. A bar reads them without it, so what it
    shows may be a moment old.

    Attributes:
        total: how many calls there will be; None while that is unknown.
        submitted: how many calls there are by now.
        done: how many have returned.
        failed: how many have raised, or got lost.
        cancelled: how many were cancelled.
    """

    total: int | None = None
    submitted: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0

    def add(self, calls: int, *, failed: bool = False, cancelled: bool = False) -> None:
        """Count a task of `calls` calls that is over. A failed task counts as one call: its others did not run."""
        if cancelled:
            self.cancelled += calls
        elif failed:
            self.failed += 1
        else:
            self.done += calls


class Tally:
    """Adds up the counts that one bar shows.

    One thread may call `open` and `close` while another one reads, as each replaces the counts in one assignment.
    """

    def __init__(self) -> None:
        self._counts: tuple[CallCounts, ...] = (CallCounts(total=0),)  # the first one: of all that were closed

    def __bool__(self) -> bool:
        """Whether any call was submitted."""
        return any(counts.submitted for counts in self._counts)

    def open(self, counts: CallCounts) -> None:
        """Show these counts too. They go on changing until `close`."""
        self._counts = (*self._counts, counts)

    def close(self, counts: CallCounts, ended_well: bool) -> None:
        """Note that these counts change no more. If the calls ended well, no more than the submitted ones will come."""
        closed, *others = self._counts
        total = counts.submitted if ended_well else counts.total
        self._counts = (
            CallCounts(
                None if closed.total is None or total is None else closed.total + total,
                closed.submitted + counts.submitted,
                closed.done + counts.done,
                closed.failed + counts.failed,
                closed.cancelled + counts.cancelled,
            ),
            *(other for other in others if other is not counts),
        )

    def text(self, scheduler: SchedulerCounts | None = None) -> BarText:
        """Return what the bar shows now.

        Args:
            scheduler: the scheduler's counts; None: it has not answered yet.
        """
        all_counts = self._counts
        failed = sum(counts.failed for counts in all_counts)
        cancelled = sum(counts.cancelled for counts in all_counts)
        totals = [counts.total for counts in all_counts]
        total = None if None in totals else sum(filter(None, totals))
        note = []
        if len(all_counts) > 1 and scheduler is not None:
            note.append(f"{scheduler.running} running")
        if failed:
            note.append(f"{failed} failed")
        if cancelled:
            note.append(f"{cancelled} cancelled")
        if scheduler is not None and scheduler.nested:
            note.append(f"nested {scheduler.nested_over}/{scheduler.nested}")
        return BarText(sum(counts.done for counts in all_counts) + failed, total, ", ".join(note))


def counts_of_asker(info: dict[str, Any]) -> SchedulerCounts | None:
    """Return the counts of the client that asked, from the scheduler's answer; None if it has no such client."""
    for client in info["clients"]:
        if client["id"] == info["you"]:
            return SchedulerCounts(client["running"], client["nested"]["submitted"], client["nested"]["finished"])
    return None


def since(now: SchedulerCounts, before: SchedulerCounts) -> SchedulerCounts:
    """Return the counts of now without the nested tasks of `before`: a bar shows only those that came later."""
    return SchedulerCounts(now.running, now.nested - before.nested, now.nested_over - before.nested_over)
