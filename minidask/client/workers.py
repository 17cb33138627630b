"""The workers of the cluster, as far as the scheduler has told of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from minidask.client.interrupts import Sleepers
from minidask.host.versions import PYTHON, fits, minor, mismatch


class Worker(NamedTuple):
    """A worker: its name and slots, the versions of its Python and packages, and whether it runs our tasks."""

    name: str
    slots: int
    versions: Mapping[str, str]
    usable: bool


class WorkerTable:
    """Changed by whoever reads the connection; any thread may look, and wait for a change.

    Args:
        python: the version of the client's; workers of another one get none of its tasks.
    """

    def __init__(self, python: str) -> None:
        self._python = python
        self.known = False
        """Whether the scheduler has told of any, or of there being none."""
        self.on_change: set[Callable[[], None]] = set()
        """Called when workers come, go, or change, by the thread that reads: they must not wait."""
        self.entries: dict[str, Worker] = {}
        """By address. Replaced, never changed: others may be going through it."""
        self._changed = Sleepers()

    def nthreads(self) -> dict[str, int]:
        """`{worker address: slots}` of those that run our tasks."""
        return {address: worker.slots for address, worker in self.entries.items() if worker.usable}

    def slots(self) -> int:
        """How many of our tasks the whole cluster runs at once."""
        return sum(worker.slots for worker in self.entries.values() if worker.usable)

    def unusable(self) -> dict[str, Worker]:
        """Those of another Python."""
        return {address: worker for address, worker in self.entries.items() if not worker.usable}

    def refusal(self) -> str:
        """Why none of the workers that are there runs our tasks; empty if one does, or there are none."""
        others = self.unusable()
        if not any(worker.slots for worker in others.values()) or self.slots():
            return ""
        workers = [(f"{worker.name} at {address}", worker.versions[PYTHON]) for address, worker in others.items()]
        return mismatch(self._python, workers)

    def told(self, workers: Iterable[Any]) -> None:
        """These are all, as `(address, name, slots, versions)` each."""
        self._replace({address: self._worker(*of_worker) for address, *of_worker in workers})

    def told_of(self, address: str, name: str, slots: int | None, versions: Mapping[str, str]) -> None:
        """This one now has so many slots; None: it has left."""
        others = {known: entry for known, entry in self.entries.items() if known != address}
        self._replace(others if slots is None else {**others, address: self._worker(name, slots, versions)})

    def _worker(self, name: str, slots: int, versions: Mapping[str, str]) -> Worker:
        return Worker(name, slots, versions, fits(minor(self._python), (minor(versions.get(PYTHON)),)))

    def _replace(self, entries: dict[str, Worker]) -> None:
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
