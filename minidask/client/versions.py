"""Warns of workers whose Python or packages differ from the client's.

A machine of another Python gets no tasks of this client, which users should know. With other packages tasks run, but
may fail or give other results.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Mapping

from minidask.client.workers import Worker, WorkerTable
from minidask.errors import VersionMismatch, VersionWarning
from minidask.host.packages import python_version
from minidask.host.versions import PYTHON, described, differences, table

MAX_COLUMNS = 8


class VersionWatch:
    """Warns once of each worker of another Python, and once of other packages, also of workers that join later.

    Args:
        own: the client's versions, by package.
        workers: the workers to watch.
    """

    def __init__(self, own: Mapping[str, str], workers: WorkerTable) -> None:
        self._own = own
        self._workers = workers
        self._looked_at: set[str] = set()
        self._named: set[tuple[str, str]] = set()
        self._compared = False
        workers.on_change.add(self._changed)

    def _changed(self) -> None:
        """Warn from a thread: users may turn warnings into code of their own, which the reading thread must not run."""
        if not self._looked_at.issuperset(self._workers.entries):
            with contextlib.suppress(RuntimeError):  # there are no more threads to be had: the next change tries again
                threading.Thread(target=self.warn, name="minidask-versions", daemon=True).start()

    def warn(self) -> None:
        """Warn of the workers that have joined since the last call."""
        new = {address: w for address, w in self._workers.entries.items() if address not in self._looked_at}
        self._looked_at.update(new)
        for address, worker in new.items():
            python = worker.versions.get(PYTHON, "")
            if not worker.usable and (worker.name, python) not in self._named:
                self._named.add((worker.name, python))
                self._say(
                    f"machine {worker.name} at {address} runs Python {python} and this client {self._own[PYTHON]}: it"
                    " gets no tasks, for the two cannot run each other's functions"
                )
        others = {w.name: w.versions for w in new.values() if w.usable and differences(self._own, w.versions)}
        if others and not self._compared:
            self._compared = True
            self._say(
                "packages of machines differ from this client's, so that tasks may fail there, or give other results:\n"
                + comparison(self._own, others)
            )

    def _say(self, text: str) -> None:
        warnings.warn(text, VersionWarning, stacklevel=4)


def warn_of_left_out(workers: Mapping[str, Worker]) -> None:
    """Warn, where `Client.run` was called, that it leaves out these machines: they have another Python.

    Args:
        workers: by address; without any there is no warning.
    """
    if workers:
        left_out = ", ".join(
            f"{worker.name} at {address} ({worker.versions[PYTHON]})" for address, worker in workers.items()
        )
        text = f"run() leaves out the machines whose Python is not this one's, {python_version()}: {left_out}"
        warnings.warn(text, VersionWarning, stacklevel=3)


def comparison(own: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> str:
    """Return a table of those packages whose versions differ. Machines that agree with each other share a column.

    Args:
        own: the client's versions, by package.
        others: the versions of each machine, by the machine's name.
    """
    names = [name for name in own if any(theirs.get(name) != own[name] for theirs in others.values())]
    alike: dict[tuple[str, ...], list[str]] = {}
    for title, theirs in others.items():
        alike.setdefault(tuple(theirs.get(name, "-") for name in names), []).append(title)
    columns = {
        f"{titles[0]} and {len(titles) - 1} more" if len(titles) > 1 else titles[0]: dict(
            zip(names, found, strict=True)
        )
        for found, titles in list(alike.items())[:MAX_COLUMNS]
    }
    return table({"client": own, **columns}, names)


def all_versions(own: dict[str, str], info: Mapping[str, object], *, check: bool) -> dict[str, dict[str, object]]:
    """Return the versions of client, scheduler and machines, for `Client.get_versions`.

    Args:
        own: the client's versions, by package.
        info: the scheduler's description of the cluster, as `Client.scheduler_info` returns it.
        check: whether differences are an error.

    Raises:
        VersionMismatch: with `check`, there are differences.
    """
    workers = info.get("machines")
    theirs = {str(w["address"]): described(w) for w in workers} if isinstance(workers, list) else {}
    scheduler = described(info)
    if check:
        others = {name: found for name, found in theirs.items() if differences(own, found, missing=True)}
        if scheduler.get("minidask", own["minidask"]) != own["minidask"]:
            others["scheduler"] = scheduler
        if others:
            raise VersionMismatch(f"the machines of the cluster differ:\n{comparison(own, others)}")
    return {"client": {**own}, "scheduler": {**scheduler}, "machines": {**theirs}}
