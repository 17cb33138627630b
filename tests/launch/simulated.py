"""A cluster on virtual time that adapts: machines that take a while to come, and bursts of tasks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from minidask.launch.adapt import Adaptive, Backlog, JoinedMachine


@dataclass
class SimulatedMachine:
    """One that was asked for."""

    asked_at: float
    joins_at: float
    ends_at: float
    tasks: list[float] = field(default_factory=list)  # when each ends
    done: int = 0


class SimulatedCluster:
    """Runs tasks on machines, one look a second.

    Args:
        adaptive: decides.
        delay: seconds until a machine has joined.
        slots: of a machine.
        walltime: seconds after which a machine takes nothing new, and ends when its tasks have.
        breaks: whether machines end before they join.
    """

    def __init__(
        self, adaptive: Adaptive, delay: float = 5, slots: int = 4, walltime: float = 1e9, breaks: bool = False
    ) -> None:
        self.adaptive, self.delay, self.slots, self.walltime, self.breaks = adaptive, delay, slots, walltime, breaks
        self.now = 0.0
        self.queue: list[float] = []
        self.clients = 0
        self.stream = 0.0  # seconds: as many tasks as there are slots wait at any time, each so long
        self.finished = self.failures = self.started = 0
        self.machines: dict[str, SimulatedMachine] = {}
        self.stopped: dict[str, SimulatedMachine] = {}
        self.sizes: Counter[int] = Counter()

    def submit(self, count: int, seconds: float) -> None:
        self.queue += [seconds] * count

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self._step()

    def run_until_done(self, limit: float = 3600) -> float:
        began = self.now
        while self.queue or any(machine.tasks for machine in self.machines.values()):
            self._step()
            assert self.now < began + limit, f"not done after {limit} seconds: {len(self.queue)} wait"
        return self.now - began

    @property
    def idle_stops(self) -> list[SimulatedMachine]:
        """Those that were stopped and have done nothing."""
        return [machine for machine in self.stopped.values() if not machine.done]

    def _step(self) -> None:
        for _ in range(10):
            self.now += 0.1
            self._work()
        joined = {
            name: JoinedMachine(0 if self._drains(machine) else self.slots, len(machine.tasks))
            for name, machine in self.machines.items()
            if machine.joins_at <= self.now
        }
        running = sum(len(machine.tasks) for machine in self.machines.values())
        asked = tuple(self.machines)
        seen = Backlog(len(self.queue), running, self.finished, self.clients, joined, asked, self.failures)
        decision = self.adaptive.decide(seen, self.now)
        for name in decision.stop:
            assert not self.machines[name].tasks, "a machine that works was stopped"
            self.stopped[name] = self.machines.pop(name)
        for _ in range(decision.start):
            self.started += 1
            if self.breaks:
                self.failures += 1
                continue
            joins_at = self.now + self.delay
            self.machines[f"m{self.started}"] = SimulatedMachine(self.now, joins_at, joins_at + self.walltime)
        assert len([m for m in self.machines.values() if not self._drains(m)]) <= self.adaptive.maximum
        self.sizes[len(self.machines)] += 1

    def _drains(self, machine: SimulatedMachine) -> bool:
        return machine.ends_at <= self.now

    def _work(self) -> None:
        joined = sum(machine.joins_at <= self.now for machine in self.machines.values())
        if self.stream:
            self.submit(self.slots * joined - len(self.queue), self.stream)
        for name, machine in list(self.machines.items()):
            over = [end for end in machine.tasks if end <= self.now]
            machine.tasks = [end for end in machine.tasks if end > self.now]
            machine.done += len(over)
            self.finished += len(over)
            while machine.joins_at <= self.now < machine.ends_at and len(machine.tasks) < self.slots and self.queue:
                machine.tasks.append(self.now + self.queue.pop())
            if self._drains(machine) and not machine.tasks:
                del self.machines[name]
