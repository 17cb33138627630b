"""The workers of the cluster, as far as the scheduler has told of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from minidask.client.interrupts import Sleepers


class WorkerTable:
    """Changed by whoever reads the connection; any thread may look, and wait for a change."""

    def __init__(self) -> None:
        self.known = False
        """Whether the scheduler has told of any, or of there being none."""
        self.on_change: set[Callable[[], None]] = set()
        """Called when workers come, go, or change, by the thread that reads: they must not wait."""
        self.entries: dict[str, tuple[str, int]] = {}
        """By address: name and slots. Replaced, never changed: others may be going through it."""
        self._changed = Sleepers()

    def nthreads(self) -> dict[str, int]:
        """`{worker address: slots}`."""
        return {address: slots for address, (_, slots) in self.entries.items()}

    def slots(self) -> int:
        """How many tasks the whole cluster runs at once."""
        return sum(slots for _, slots in self.entries.values())

    def told(self, workers: Iterable[Any]) -> None:
        """These are all, as `(address, name, slots)` each."""
        self._replace({address: (name, slots) for address, name, slots in workers})

    def told_of(self, address: str, name: str, slots: int | None) -> None:
        """This one now has so many slots; None: it has left."""
        others = {known: entry for known, entry in self.entries.items() if known != address}
        self._replace(others if slots is None else {**others, address: (name, slots)})

    def _replace(self, entries: dict[str, tuple[str, int]]) -> None:
        self.entries = entries
        self.known = True
        self.wake()
        for tell in list(self.on_change):
            tell()

    def wait(self, condition: Callable[[], object], seconds: float) -> None:
        """Wait until a condition is true, which is looked at when something has changed, or for so many seconds."""
        self._changed.sleep_until(condition, seconds)

    def wake(self) -> None:
        """Have those who wait look again."""
        self._changed.wake()
