"""A simulated machine: the real core of a worker, what its shell and its `Reconnector` decide, and modelled slots."""

from __future__ import annotations

from typing import Any

from minidask.wire import messages as m
from minidask.worker import events as e
from minidask.worker.core import WorkerCore
from minidask.worker.reconnector import FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS
from minidask.worker.reports import Reports
from minidask.worker.shell import HEARTBEAT_SECONDS, PREFETCH
from minidask.worker.slots import Idle

from .promises import Promises, Task
from .scheduler import Scheduler
from .slot import Slot, name_of_result
from .world import Connection, World


class Machine:
    """A worker daemon.

    Args:
        world, promises: of this simulation.
        cluster: knows who listens at the scheduler's address now.
        name: what people call it.
        slots: how many it has.
    """

    def __init__(self, world: World, promises: Promises, cluster: Any, name: str, slots: int) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.size = slots
        self.core = WorkerCore()
        self.link: Connection | None = None
        self.reports = Reports()
        self.unsent_size: list[m.Message] = []
        self.promises = promises
        self.cluster = cluster
        self._slots: dict[int, Slot] = {}
        self._fetching: dict[bytes, int] = {}
        self._results = 0
        self._begun: dict[tuple[int, int], Task] = {}
        self._joining: Connection | None = None
        self._was_open = False
        self._pause = FIRST_RETRY_SECONDS
        self._timer: float | None = None
        self.handle(e.Resize(slots))
        self._connect()
        world.later(HEARTBEAT_SECONDS, self._heartbeat)

    # --- the connection, as in `Reconnector` ---

    @property
    def info(self) -> dict[str, Any]:
        holds = {**self.reports.attempts(), **self.core.holds()}
        return {
            "name": self.name, "slots": self.size - self.core.table.missing, "prefetch": PREFETCH * self.size,
            "serves": self.name, "place": f"{self.name}:store", "uid": self.name,
            "holds": [[*hold] for hold in holds.items()],
            "ended": [[*hold] for hold in self.reports.ended().items()], "resources": {"gpu": 1},
        }  # fmt: skip

    def _connect(self) -> None:
        if self.alive:
            self._was_open = False
            self._joining = self.cluster.connect(self, "worker", self.info)

    def opened(self, connection: Connection) -> None:
        if self.alive and connection is self._joining:
            self._was_open = True
            self.link = connection
            again = self.core.waiting()
            self.world.met["waits still"] += len(again)
            size, self.unsent_size = self.unsent_size, []
            for message in [*size, *self.reports.joined(), *again]:
                self._pass_on(connection, message)

    def closed(self, connection: Connection) -> None:
        if not self.alive or connection is not self._joining:
            return
        self._joining = None
        self.world.log(self.name, "is cut off" if self._was_open else "finds no scheduler")
        if self._was_open:
            self._pause = FIRST_RETRY_SECONDS
            self.link = None
            for slot in self._slots.values():
                for frame in slot.frames[:-1]:
                    frame.task.excuses.append("it had a guest when the connection was lost")
            for task in self.promises.tasks.values():
                if task.reported is connection and not task.outcome:
                    task.excuses.append("its report was lost on the way")
            self.handle(e.SchedulerGone())
        self.world.later(self._pause, self._connect)
        self._pause = min(2 * self._pause, LAST_RETRY_SECONDS)

    def _send(self, message: Any) -> None:
        if self.link is not None:
            self._pass_on(self.link, message)
        elif isinstance(message, m.Report):
            self.world.met["unsent report"] += 1
            self.reports.unsent(message)
        elif isinstance(message, m.Resized):
            self.unsent_size = [message]

    def _pass_on(self, link: Connection, message: Any) -> None:
        link.to_scheduler(message)
        self.reports.sent(message)
        task = self._begun.get(message[:2]) if isinstance(message, m.Report) else None
        if task is not None:
            task.reported = link

    def _heartbeat(self) -> None:
        if self.alive:
            self.world.later(HEARTBEAT_SECONDS, self._heartbeat)
            self._send(m.Heartbeat(0))

    def received(self, connection: Connection, message: Any) -> None:
        if self.alive and connection is self.link:
            self.world.log(self.name, "hears", message)
            if type(message) is m.Heartbeat:
                self.reports.have_come(message.received)
            else:
                self.handle(e.FromScheduler(message))

    # --- the core ---

    def handle(self, event: e.Event) -> None:
        for effect in self.core.handle(event, self.world.now):
            self._carry_out(effect)
        deadline = self.core.next_deadline()
        if deadline is not None and deadline != self._timer:
            self._timer = deadline
            self.world.at(deadline, self._tick, deadline)

    def _tick(self, deadline: float) -> None:
        if self.alive and deadline == self._timer:
            self._timer = None
            self.handle(e.WorkerTick())

    def _carry_out(self, effect: e.Effect) -> None:
        match effect:
            case e.ToScheduler(message):
                self._send(message)
            case e.ToSlot(number, message):
                self._slots[number].receive(message)
            case e.Spawn(number):
                if self.world.chance(0.03):
                    self.world.met["slot could not be started"] += 1
                    self.world.later(0.0, self._not_started, number)
                else:
                    self._slots[number] = Slot(self, number)
            case e.Interrupt(number, task, attempt):
                self._slots[number].interrupt(task, attempt)
            case e.Kill(number):
                self._slots[number].exit("SIGKILL")
            case e.Retire(number):
                slot = self._slots[number]
                slot.later(0.01, slot.exit, "exit code 0")
            case e.Fetch(blob):
                self._fetching[blob] = fetch = self._fetching.get(blob, 0) + 1
                self.world.later(self.world.between(0.0, 0.3), self._fetched, blob, fetch, effect.source)
            case e.Forget(blobs):
                for blob in blobs:
                    self._fetching.pop(blob, None)
            case e.RemoveResult() | e.AwaitTaker() | e.Warn():
                pass
            case _:
                raise AssertionError(effect)

    def _not_started(self, number: int) -> None:
        if self.alive:
            self.handle(e.NotStarted(number, "no processes"))

    def _fetched(self, blob: bytes, fetch: int, source: str) -> None:
        if self.alive and self._fetching.get(blob) == fetch:
            if source and self.world.chance(0.2):
                self.world.met["data was not to be had there"] += 1
                self.handle(e.BlobFailed(blob, source, "nobody answers"))
            else:
                del self._fetching[blob]
                self.handle(e.BlobHere(blob))

    # --- slots ---

    def begins(self, slot: Slot, run: m.Run) -> Task:
        """A slot begins an attempt; returns its task."""
        task = self.promises.tasks[bytes(run.payload[0]).decode()]
        scheduler = self.link.acceptor if self.link is not None else None
        assert isinstance(scheduler, Scheduler), f"{task.key} begins, and no scheduler has sent it"
        self.world.log(self.name, f"slot {slot.number} begins {task.key}", run[:2])
        holders = [frame.task.key for slot in self._slots.values() if slot.alive for frame in slot.frames
                   if frame.task.needs]  # fmt: skip
        assert not (task.needs and holders), f"{task.key} begins, and {holders} has the GPU"
        self.world.met["has the GPU"] += task.needs
        self._begun[run.task, run.attempt] = task
        self.promises.begins(task, run, int(scheduler.name.split()[1]))
        return task

    def large_result(self) -> dict[bytes, int]:
        """The parts of a result that are to be fetched, with their sizes."""
        first, self._results = self._results, self._results + self.world.rng.randrange(1, 3)
        return {name_of_result(self.name, number): 1 << 20 for number in range(first, self._results)}

    def exited(self, slot: Slot, how: str) -> None:
        if self.alive:
            del self._slots[slot.number]
            self.handle(e.SlotExited(slot.number, how, "?"))

    # --- faults ---

    def kill_slot(self) -> None:
        """Kill one of the slots that work."""
        busy = [slot for slot in self._slots.values() if slot.alive and slot.frames]
        if busy:
            self.world.rng.choice(busy).exit("SIGKILL")

    def die(self) -> None:
        """The machine is switched off."""
        self.world.log(self.name, "dies")
        self.alive = False
        for task in self.running():
            task.losses += 1
        sees = self.world.rng.choice([0.0, 0.2, 3.0, None])
        for link in self.links():
            link.break_up(scheduler_sees=sees, peer_sees=None, lost=(self.world.chance(0.5), True))
        for slot in self._slots.values():
            if slot.inner is not None:
                slot.inner.link.break_up(scheduler_sees=sees or 30.0, peer_sees=None, lost=(True, True))

    def running(self) -> list[Task]:
        """The tasks that are in its slots."""
        return [frame.task for slot in self._slots.values() for frame in slot.frames]

    def inner_links(self) -> list[Connection]:
        return [slot.inner.link for slot in self._slots.values() if slot.alive and slot.inner is not None]

    def check_idle(self) -> None:
        """Check that nothing is left of any task."""
        assert self.core.drained and not self.reports._unsent, f"{self.name} is not idle"
        states = [type(slot.state) for slot in self.core.slots.values()]
        assert states == [Idle] * self.size, f"the slots of {self.name} are {states}"
        assert not self.core.data.blobs and not self.core.data.wanted, f"{self.name} keeps blobs"

    def links(self) -> list[Connection]:
        return [self._joining] if self._joining is not None else []
