"""A cluster on a clock of its own: the real cores of scheduler and workers, and messages that take simulated time.

Nothing waits and nothing is random, so what comes out is exact: when each task began, where, and when all were done.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from minidask.backend.backend import MinidaskBackend
from minidask.scheduler import invariants
from minidask.scheduler.core import Outbox, SchedulerCore
from minidask.scheduler.events import Event, Joined, Left, Received
from minidask.wire import messages as m
from minidask.worker import core as w
from minidask.worker import events as e
from minidask.worker.shell import PREFETCH
from tests.rig import said_by_slots


@dataclass(eq=False)
class Task:
    """What became of a task; times in simulated seconds."""

    seconds: float
    submitted: float
    on_done: Callable[[Task], None]
    machine: str = ""
    started: list[float] = field(default_factory=list)
    done: float | None = None

    @property
    def waited(self) -> float:
        """From its submission until it began."""
        return self.started[0] - self.submitted


class Machine:
    """A worker core, its slots and its clock."""

    def __init__(self, cluster: Cluster, peer: int, slots: int, prefetch: int) -> None:
        self.name = f"w{peer}"
        self._cluster = cluster
        self._peer = peer
        self._core = w.WorkerCore()
        self.slots = slots
        self._timer: float | None = None
        info = {"name": self.name, "slots": slots, "prefetch": prefetch * slots}
        cluster.later(cluster.latency, lambda: cluster.tell_scheduler(Joined(peer, "worker", self.name, info)))
        self.handle(e.Resize(slots))

    @property
    def drained(self) -> bool:
        return self._core.drained

    def drain(self) -> None:
        """As a worker does that is told to end: see `WorkerShell.drain`."""
        self._say(m.Resized(0))
        self.handle(e.Resize(0))

    def leave(self) -> None:
        self._cluster.later(self._cluster.latency, lambda: self._cluster.tell_scheduler(Left(self._peer, "it left")))

    def handle(self, event: e.Event) -> None:
        cluster = self._cluster
        effects = self._core.handle(event, cluster.now)
        for effect in effects:
            match effect:
                case e.ToScheduler(message):
                    self._say(message)
                case e.ToSlot(slot, m.Run() as run):
                    self._run(slot, run)
        for said in said_by_slots(effects):
            cluster.later(0, functools.partial(self.handle, said))
        deadline = self._core.next_deadline()
        if deadline is not None and deadline != self._timer:
            self._timer = deadline
            cluster.later(max(0.0, deadline - cluster.now), lambda: self.handle(e.WorkerTick()))

    def _say(self, message: m.Message) -> None:
        cluster = self._cluster
        cluster.later(cluster.latency, lambda: cluster.tell_scheduler(Received(self._peer, message)))

    def _run(self, slot: int, run: m.Run) -> None:
        (number,) = struct.unpack("q", run.payload[0])
        task = self._cluster.tasks[number]
        task.machine = self.name
        task.started.append(self._cluster.now)
        done = m.Done(run.task, run.attempt, task.seconds, [b"result"])
        self._cluster.later(task.seconds, lambda: self.handle(e.FromSlot(slot, done)))


class Cluster:
    """Scheduler, machines and clients.

    Args:
        machines: how many slots each has.
        latency: seconds that every message between two of them takes.
        prefetch: how many tasks a slot may hold in advance, at most.
    """

    def __init__(self, machines: Iterable[int], latency: float = 0.0005, prefetch: int = PREFETCH) -> None:
        self.now = 0.0
        self.latency = latency
        self.tasks: list[Task] = []
        self._prefetch = prefetch
        self._core = SchedulerCore()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._peers = 0
        self._machines: dict[int, Machine] = {}
        self._clients: set[int] = set()
        self.machines: list[Machine] = []
        for slots in machines:
            self.join(slots)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Do this in so many seconds."""
        self._count += 1
        heapq.heappush(self._agenda, (self.now + seconds, self._count, what))

    def run(self, until: float = float("inf")) -> float:
        """Let time pass, until there is nothing more to do; returns the time then."""
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, what = heapq.heappop(self._agenda)
            what()
        return self.now

    def join(self, slots: int) -> Machine:
        """One more machine."""
        self._peers += 1
        machine = self._machines[self._peers] = Machine(self, self._peers, slots, self._prefetch)
        self.machines.append(machine)
        return machine

    def client(self) -> int:
        """One more client."""
        self._peers += 1
        self._clients.add(self._peers)
        self.tell_scheduler(Joined(self._peers, "client", f"c{self._peers}", {}))
        return self._peers

    def say(self, client: int, message: m.Message) -> None:
        """Have a client send a message."""
        self.later(self.latency, lambda: self.tell_scheduler(Received(client, message)))

    def submit(
        self, client: int, seconds: float, group: int = 0, on_done: Callable[[Task], None] = lambda task: None
    ) -> Task:
        """Have a client submit a task of so many seconds."""
        number = len(self.tasks)
        task = Task(seconds, self.now, on_done)
        self.tasks.append(task)
        self.say(client, m.Submit(number, "f", 0, None, group, None, [], [], False, {}, [struct.pack("q", number)]))
        return task

    def tell_scheduler(self, event: Event) -> None:
        self._deliver(self._core.handle(event, self.now))
        self._deliver(self._core.assign(self.now))
        if len(self._core.attempts.tasks) < 50:
            invariants.check(self._core)

    def _deliver(self, outbox: Outbox) -> None:
        for peer, message in outbox:
            if peer in self._machines:
                machine = self._machines[peer]
                self.later(self.latency, lambda m=message, to=machine: to.handle(e.FromScheduler(m)))
            elif isinstance(message, m.TaskDone):
                self.later(self.latency, lambda number=message.task: self._done(number))
            else:
                assert not isinstance(message, m.TaskLost), message.text

    def _done(self, number: int) -> None:
        task = self.tasks[number]
        assert task.done is None, "an outcome was told twice"
        task.done = self.now
        task.on_done(task)


class SimulatedBackend(MinidaskBackend):
    """joblib's own dispatching, and minidask's batch sizes, on a simulated cluster: arguments are tasks' seconds."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.cluster = cluster
        self._simulated_slots = sum(machine.slots for machine in cluster.machines)
        self._simulated_client = cluster.client()
        cluster.say(self._simulated_client, m.OpenGroup(1, 0, []))

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        return self._simulated_slots

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        self.parallel = parallel
        return self._simulated_slots

    def start_call(self) -> None:
        pass

    def submit(self, func: Any, callback: Any = None) -> Any:
        lengths = [args[0] for _, args, _ in func.items]

        def on_done(task: Task) -> None:
            callback(SimpleNamespace(duration=task.seconds, result=lambda: lengths))

        return self.cluster.submit(self._simulated_client, sum(lengths), 1, on_done)

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        self.cluster.run()
        yield
