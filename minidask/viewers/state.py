"""What a cluster looks like now, made of its events. Pure: viewers ask it, and tests feed it.

    Client.events() ─ ClusterEvent ─► ClusterState.take ─► machines, clients, tasks, failures ─► a table, a page

A snapshot begins all anew, so whatever was missed is mended by the next one.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from minidask.client.events import ClusterEvent

MOST_FAILURES = 100
SMOOTHING = 0.3
FAILURES = {"raised", "stopped", "died", "lost", "fail"}
"""How a task ends that has failed."""


@dataclass(eq=False, slots=True)
class MachineState:
    """A machine: its workers, as the last "running" of each, and its last "usage".

    Attributes:
        rate: calls that have ended in a second, lately; None: unknown yet.
    """

    address: str
    name: str
    size: int
    info: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=dict)
    workers: dict[int, ClusterEvent] = field(default_factory=dict)
    rate: float | None = None
    _told: float = 0.0  # when the last of its messages was made, which has all of its workers
    _listed: set[int] = field(default_factory=set)  # the workers that it had
    _before: tuple[int, float] | None = None  # the calls that had ended by the one before, and when that was made

    @property
    def busy(self) -> int:
        """How many of its workers run a call."""
        return sum(not worker.info["idle"] for worker in self.workers.values())

    @property
    def over(self) -> int:
        """How many calls its workers have ended, each since it began."""
        return sum(worker.info["over"] for worker in self.workers.values())

    @property
    def failed(self) -> int:
        """How many of those have raised."""
        return sum(worker.info["failed"] for worker in self.workers.values())

    def used(self, event: ClusterEvent) -> None:
        """Take a "usage", the first event of a message. So what the one before has told is whole."""
        if self.usage:
            self.workers = {number: self.workers[number] for number in sorted(self._listed)}
            if self._before is not None and self._told > self._before[1]:
                latest = max(0, self.over - self._before[0]) / (self._told - self._before[1])
                self.rate = latest if self.rate is None else SMOOTHING * latest + (1 - SMOOTHING) * self.rate
            self._before = self.over, self._told
        self.usage, self._told, self._listed = event.info, event.time, set()

    def runs(self, event: ClusterEvent) -> None:
        """Take a "running"."""
        self.workers[event.worker] = event
        self._listed.add(event.worker)


class ClusterState:
    """All that was told of a cluster.

    Attributes:
        info: the scheduler's own description.
        machines: by address.
        clients: the description of each, by its number.
        tasks: counts of tasks of the whole cluster.
        running: the attempts that were sent to machines, by task.
        failures: the last tasks that have failed, attempts that have died, and machines that were lost.
        missed: how many events were left out.
    """

    def __init__(self) -> None:
        self.info: Mapping[str, Any] = {}
        self.machines: dict[str, MachineState] = {}
        self.clients: dict[int, Mapping[str, Any]] = {}
        self.tasks: Mapping[str, Any] = {}
        self.running: dict[int, ClusterEvent] = {}
        self.failures: collections.deque[ClusterEvent] = collections.deque(maxlen=MOST_FAILURES)
        self.missed = 0

    def take(self, event: ClusterEvent) -> None:
        """Take the next event."""
        match event.kind:
            case "snapshot":
                self._begin(event.info)
            case "machine":
                self._machine(event.machine, event.name, event.size, event.info)
            case "machine-left":
                self.machines.pop(event.machine, None)
                self.running = {n: task for n, task in self.running.items() if task.machine != event.machine}
                if event.size:
                    self.failures.append(event)
            case "client":
                self.clients.setdefault(event.client, {"id": event.client, "name": event.name})
            case "client-left":
                self.clients.pop(event.client, None)
            case "counts":
                self._counts(event.info.get("clients"), event.info.get("tasks"))
            case "started":
                self.running[event.task] = event
            case "ended" | "again":
                self.running.pop(event.task, None)
                if event.how in FAILURES and (event.kind == "ended" or event.how == "died"):
                    self.failures.append(event)  # of a machine that was lost there is an event of its own
            case "usage" if event.machine in self.machines:
                self.machines[event.machine].used(event)
            case "running" if event.machine in self.machines:
                self.machines[event.machine].runs(event)
            case "missed":
                self.missed += event.size

    def _begin(self, info: Mapping[str, Any]) -> None:
        before, self.machines, self.running = self.machines, {}, {}
        self.info = {key: value for key, value in info.items() if key not in ("machines", "clients", "tasks")}
        for machine in _dicts(info.get("machines")):
            address, size = str(machine.get("address", "")), machine.get("workers")
            more = {key: machine.get(key, "") for key in ("host", "python")}
            self._machine(address, str(machine.get("name", "")), size if type(size) is int else 0, more)
            if address in before:
                self.machines[address] = before[address]
        self._counts(info.get("clients"), info.get("tasks"))

    def _machine(self, address: str, name: str, size: int, info: Mapping[str, Any]) -> None:
        machine = self.machines.setdefault(address, MachineState(address, name, size))
        machine.name, machine.size, machine.info = name, size, info

    def _counts(self, clients: Any, tasks: Any) -> None:
        self.clients = {client["id"]: client for client in _dicts(clients) if type(client.get("id")) is int}
        self.tasks = tasks if isinstance(tasks, dict) else {}

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return {
            "scheduler": self.info,
            "tasks": self.tasks,
            "machines": [_machine_as_dict(machine) for machine in self.machines.values()],
            "clients": [*self.clients.values()],
            "failures": [event.as_dict() for event in self.failures],
            "missed": self.missed,
        }


def _machine_as_dict(machine: MachineState) -> dict[str, Any]:
    workers = [
        {
            "worker": worker.worker,
            "name": worker.name,
            "seconds": worker.seconds,
            "memory": worker.memory,
            **{key: worker.info[key] for key in ("idle", "over", "failed", "busy_seconds")},
        }
        for worker in machine.workers.values()
    ]
    of_machine = {"address": machine.address, "name": machine.name, "size": machine.size, **machine.info}
    return {**of_machine, "usage": machine.usage, "calls_per_second": machine.rate, "workers": workers}


def _dicts(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
