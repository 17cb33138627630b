"""What has happened in a block, gathered of its events. Pure.

Client.events() ─► History.take ─► calls, machines, waits, failures ─► figures.py
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from minidask.client.events import ClusterEvent
from minidask.client.state import FAILURES

MOST_CALLS = 1_000_000
MOST_FAILURES = 100


class Call(NamedTuple):
    """A call that is over.

    Attributes:
        lane: machine's address and number of the worker.
        began, ended: as of `time.time()`.
        cpu: processor seconds; below 0: unknown.
    """

    lane: tuple[str, int]
    name: str
    began: float
    ended: float
    cpu: float
    failed: bool

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


class Failure(NamedTuple):
    """Something that went wrong."""

    time: float
    name: str
    machine: str
    how: str
    text: str


class Machine:
    """A machine, as it was told of.

    Attributes:
        sizes: how many workers it had, from each time on; 0: it has left.
        cpu: percents of its processors, each half second.
        memory: the most bytes in use there.
        fetched: bytes of large data that it has got, in so many `fetches`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.sizes: list[tuple[float, int]] = []
        self.cpu: list[float] = []
        self.memory = self.fetched = self.fetches = 0


class History:
    """All that counts for a report.

    Attributes:
        calls: in the order of their ends, of each worker.
        machines: by address.
        queued: seconds from the submission of each task until it was sent to a machine.
        on_the_way: seconds from there until its call began: with its data, and what was before it in its worker.
        failures: the first ones. `failed` counts all, by how they ended.
        missed: how many events were left out.
        whole: whether all machines have told what they did until the end.
        nested: how many tasks were submitted by tasks.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.machines: dict[str, Machine] = {}
        self.queued: list[float] = []
        self.on_the_way: list[float] = []
        self.failures: list[Failure] = []
        self.failed: Counter[str] = Counter()
        self.missed = self.nested = 0
        self.whole = True
        self._submitted: dict[int, float] = {}
        self._started: dict[int, float] = {}
        self._names: dict[str, str] = {}

    def take(self, event: ClusterEvent) -> None:
        """Take the next event."""
        match event.kind:
            case "snapshot":
                for machine in event.info.get("machines") or ():
                    if isinstance(machine, dict):
                        self._machine(event.time, machine.get("address"), machine.get("name"), machine.get("workers"))
            case "machine":
                self._machine(event.time, event.machine, event.name, event.size)
            case "machine-left":
                self._machine(event.time, event.machine, event.name, 0)
                if event.size:
                    self._fail(event, "machine lost")
            case "submitted":
                self._submitted[event.task] = event.time
                self.nested += bool(event.info.get("parent"))
            case "started" if event.task in self._submitted:
                self.queued.append(max(0.0, event.time - self._submitted.pop(event.task)))
                self._started[event.task] = event.time
            case "ended" | "again":
                self._submitted.pop(event.task, None)  # its call may be told of later: that is still in `_started`
                if event.kind == "again" and event.how == "died":
                    self._fail(event, "died")
                elif event.kind == "ended" and event.how in FAILURES:
                    self._fail(event, "given up" if event.how == "died" else event.how)
            case "call":
                self._call(event)
            case "usage" if event.machine in self.machines:
                self._usage(self.machines[event.machine], event.info)
            case "fetched" if event.machine in self.machines:
                self.machines[event.machine].fetched += max(0, event.size)
                self.machines[event.machine].fetches += 1
            case "missed":
                self.missed += max(1, event.size)

    def _machine(self, when: float, address: Any, name: Any, size: Any) -> None:
        machine = self.machines.setdefault(str(address), Machine(str(name)))
        machine.sizes.append((when, size if type(size) is int and size > 0 else 0))

    def _fail(self, event: ClusterEvent, how: str) -> None:
        self.failed[how] += 1
        if len(self.failures) < MOST_FAILURES:
            self.failures.append(Failure(event.time, event.name, event.machine, how, event.text))

    def _call(self, event: ClusterEvent) -> None:
        began = self._started.pop(event.task, None)
        if began is not None:
            self.on_the_way.append(max(0.0, event.time - began))
        if event.call and event.how == "raised":  # no task of it is told of
            self._fail(event, "raised")
        if len(self.calls) >= MOST_CALLS:
            self.missed += 1
            return
        name = self._names.setdefault(event.name, event.name)  # one text for all of its calls
        ended = event.time + max(0.0, event.seconds)
        lane = event.machine, event.worker
        self.calls.append(Call(lane, name, event.time, ended, event.cpu, event.how == "raised"))

    @staticmethod
    def _usage(machine: Machine, info: Any) -> None:
        cpu, memory = info.get("cpu"), info.get("memory")
        if isinstance(cpu, int | float):
            machine.cpu.append(float(cpu))
        if isinstance(memory, int | float):
            machine.memory = max(machine.memory, int(memory))
