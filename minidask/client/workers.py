"""The client's table of workers, kept up to date by the scheduler's messages.

It answers how many tasks run at once without a question to the scheduler, and threads can wait for a change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from minidask.client.interrupts import Sleepers
from minidask.host.texts import printable
from minidask.host.versions import PYTHON, fits, minor, mismatch


class Worker(NamedTuple):
    """A worker: its name and slots, its versions of Python and packages, and whether it runs this client's tasks."""

    name: str
    slots: int
    versions: Mapping[str, str]
    usable: bool


class WorkerTable:
    """The workers of the cluster. The thread that reads changes it; any thread may look, and wait for a change.

    Args:
        python: the client's version of Python. Workers of another one get none of its tasks.
    """

    def __init__(self, python: str) -> None:
        self._python = python
        self.known = False
        """Whether the scheduler has sent the first list of workers, which may be empty."""
        self.on_change: set[Callable[[], None]] = set()
        """Called by the thread that reads when workers join, leave, or change; these functions must not wait."""
        self.entries: dict[str, Worker] = {}
        """By address. The dict is replaced, never changed: another thread may be iterating over it."""
        self._slots = 0
        self._changed = Sleepers()

    def nthreads(self) -> dict[str, int]:
        """Return `{worker's address: slots}` of the workers that run this client's tasks."""
        return {address: worker.slots for address, worker in self.entries.items() if worker.usable}

    def slots(self) -> int:
        """Return how many of this client's tasks the whole cluster runs at once."""
        return self._slots

    def names(self) -> set[str]:
        """The names of the workers that have slots."""
        return {worker.name for worker in self.entries.values() if worker.slots}

    def any_name(self) -> str:
        """The name of one worker; empty if there is none."""
        return next((worker.name for worker in self.entries.values()), "")

    def unusable(self) -> dict[str, Worker]:
        """Return the workers of another Python, by address."""
        return {address: worker for address, worker in self.entries.items() if not worker.usable}

    def refusal(self) -> str:
        """Return why no worker runs this client's tasks; an empty text if one does, or if there is no worker."""
        others = self.unusable()
        if not any(worker.slots for worker in others.values()) or self.slots():
            return ""
        workers = [(f"{worker.name} at {address}", worker.versions[PYTHON]) for address, worker in others.items()]
        return mismatch(self._python, workers)

    def set_all(self, workers: Iterable[Any]) -> None:
        """Replace the table; each worker is `(address, name, slots, versions)`."""
        self._replace({printable(address): self._worker(*of_worker) for address, *of_worker in workers})

    def update_one(self, address: str, name: str, slots: int | None, versions: Mapping[str, str]) -> None:
        """Note how many slots a worker has now; None: it has left."""
        address = printable(address)
        others = {known: entry for known, entry in self.entries.items() if known != address}
        self._replace(others if slots is None else {**others, address: self._worker(name, slots, versions)})

    def _worker(self, name: str, slots: int, versions: Mapping[str, str]) -> Worker:
        versions = {printable(package): printable(version) for package, version in versions.items()}
        return Worker(printable(name), slots, versions, fits(minor(self._python), (minor(versions.get(PYTHON)),)))

    def _replace(self, entries: dict[str, Worker]) -> None:
        self.entries = entries
        self._slots = sum(worker.slots for worker in entries.values() if worker.usable)
        self.known = True
        self.wake()
        for tell in list(self.on_change):
            tell()

    def wait(self, condition: Callable[[], object], seconds: float) -> None:
        """Wait until a condition is true, at most `seconds`. The condition is checked after each change."""
        self._changed.sleep_until(condition, seconds)

    def wake(self) -> None:
        """Have all threads in `wait` check their conditions again."""
        self._changed.wake()
