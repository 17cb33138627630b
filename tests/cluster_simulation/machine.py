"""A simulated machine: the real core of a worker, what its shell and its `Reconnector` decide, and modelled slots."""

from __future__ import annotations

import functools
from typing import Any

from minidask.wire import messages as m
from minidask.worker import events as e
from minidask.worker.core import WorkerCore
from minidask.worker.reconnector import FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS
from minidask.worker.shell import HEARTBEAT_SECONDS, PREFETCH, Report
from minidask.worker.slots import Idle

from .promises import Promises, Task
from .scheduler import Scheduler
from .world import Connection, Name, World


class Slot:
    """A slot's process.

    Attributes:
        run: the attempt that it runs.
        blobs: those that it was sent.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.alive = True
        self.run: m.Run | None = None
        self.blobs: set[bytes] = set()


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
        self.unsent: list[m.Message] = []
        self._promises = promises
        self._cluster = cluster
        self._slots: dict[int, Slot] = {}
        self._fetching: dict[bytes, int] = {}
        self._results = 0
        self._begun: dict[tuple[int, int], Task] = {}
        self._joining: Connection | None = None
        self._was_open = False
        self._pause = FIRST_RETRY_SECONDS
        self._timer: float | None = None
        self._handle(e.Resize(slots))
        self._connect()
        world.later(HEARTBEAT_SECONDS, self._heartbeat)

    # --- the connection, as in `Reconnector` ---

    @property
    def info(self) -> dict[str, Any]:
        holds = {**dict(report[:2] for report in self.unsent), **self.core.holds()}  # type: ignore[misc]
        return {
            "name": self.name, "slots": self.size, "prefetch": PREFETCH * self.size, "serves": self.name,
            "place": f"{self.name}:store", "uid": self.name, "holds": [[*hold] for hold in holds.items()],
        }  # fmt: skip

    def _connect(self) -> None:
        if self.alive:
            self._was_open = False
            self._joining = self._cluster.connect(self, "worker", self.info)

    def opened(self, connection: Connection) -> None:
        if self.alive and connection is self._joining:
            self._was_open = True
            self.link = connection
            unsent, self.unsent = self.unsent, []
            for message in unsent:
                self._send(message)

    def closed(self, connection: Connection) -> None:
        if not self.alive or connection is not self._joining:
            return
        self._joining = None
        self.world.log(self.name, "is cut off" if self._was_open else "finds no scheduler")
        if self._was_open:
            self._pause = FIRST_RETRY_SECONDS
            self.link = None
            for task in self._promises.tasks.values():
                if task.reported is connection and not task.outcome:
                    task.excuses.append("its report was lost on the way")
            self._handle(e.SchedulerGone())
        self.world.later(self._pause, self._connect)
        self._pause = min(2 * self._pause, LAST_RETRY_SECONDS)

    def _send(self, message: Any) -> None:
        if self.link is not None:
            self.link.to_scheduler(message)
            task = self._begun.get(message[:2]) if isinstance(message, Report) else None
            if task is not None:
                task.reported = self.link
        elif isinstance(message, Report):
            self.world.met["unsent report"] += 1
            self.unsent.append(message)

    def _heartbeat(self) -> None:
        if self.alive:
            self.world.later(HEARTBEAT_SECONDS, self._heartbeat)
            self._send(m.Heartbeat(0))

    def received(self, connection: Connection, message: Any) -> None:
        if self.alive and connection is self.link:
            self.world.log(self.name, "hears", message)
            self._handle(e.FromScheduler(message))

    # --- the core ---

    def _handle(self, event: e.Event) -> None:
        for effect in self.core.handle(event, self.world.now):
            self._carry_out(effect)
        deadline = self.core.next_deadline()
        if deadline is not None and deadline != self._timer:
            self._timer = deadline
            self.world.at(deadline, self._tick, deadline)

    def _tick(self, deadline: float) -> None:
        if self.alive and deadline == self._timer:
            self._timer = None
            self._handle(e.WorkerTick())

    def _carry_out(self, effect: e.Effect) -> None:
        match effect:
            case e.ToScheduler(message):
                self._send(message)
            case e.ToSlot(number, message):
                self._to_slot(self._slots[number], message)
            case e.Spawn(number):
                slot = self._slots[number] = Slot(number)
                self._later(self.world.between(0.01, 0.2), slot, self._ready, slot)
            case e.Interrupt(number, task, attempt):
                self._interrupt(self._slots[number], task, attempt)
            case e.Kill(number):
                self._exit(self._slots[number], "SIGKILL")
            case e.Retire(number):
                slot = self._slots[number]
                self._later(0.01, slot, self._exit, slot, "exit code 0")
            case e.Fetch(blob):
                self._fetching[blob] = fetch = self._fetching.get(blob, 0) + 1
                self.world.later(self.world.between(0.0, 0.3), self._fetched, blob, fetch, effect.source)
            case e.Forget(blobs):
                for blob in blobs:
                    self._fetching.pop(blob, None)
            case e.RemoveResult() | e.AwaitTaker():
                pass
            case _:
                raise AssertionError(effect)

    def _fetched(self, blob: bytes, fetch: int, source: str) -> None:
        if self.alive and self._fetching.get(blob) == fetch:
            if source and self.world.chance(0.2):
                self.world.met["data was not to be had there"] += 1
                self._handle(e.BlobFailed(blob, source, "nobody answers"))
            else:
                del self._fetching[blob]
                self._handle(e.BlobHere(blob))

    # --- slots ---

    def _later(self, seconds: float, slot: Slot, what: Any, *args: Any) -> None:
        self.world.later(seconds, self._if_alive, slot, functools.partial(what, *args))

    def _if_alive(self, slot: Slot, what: Any) -> None:
        if self.alive and slot.alive:
            what()

    def _ready(self, slot: Slot) -> None:
        self._handle(e.FromSlot(slot.number, m.SlotReady()))

    def _to_slot(self, slot: Slot, message: Any) -> None:
        match message:
            case m.PutBlob(blob):
                slot.blobs.add(blob)
            case m.ReleaseBlobs(blobs):
                slot.blobs.difference_update(blobs)
            case m.Run():
                self._begin(slot, message)
            case _:
                raise AssertionError(message)

    def _begin(self, slot: Slot, run: m.Run) -> None:
        assert slot.run is None, f"slot {slot.number} of {self.name} runs two calls"
        task = self._promises.tasks[bytes(run.payload[0]).decode()]
        assert slot.blobs.issuperset(run.blobs), f"{task.key} begins without its data"
        slot.run = run
        scheduler = self.link.acceptor if self.link is not None else None
        assert isinstance(scheduler, Scheduler), f"{task.key} begins, and no scheduler has sent it"
        self.world.log(self.name, f"slot {slot.number} begins {task.key}", run[:2])
        self._begun[run.task, run.attempt] = task
        self._promises.begins(task, run, int(scheduler.name.split()[1]))
        if run.timeout is not None:
            self._later(0.001, slot, self._handle, e.FromSlot(slot.number, m.Began(run.task, run.attempt)))
        self._later(task.seconds, slot, self._end, slot, run, task)

    def _end(self, slot: Slot, run: m.Run, task: Task) -> None:
        """The call comes to its own end."""
        if slot.run is not run:
            return
        if task.kind == "kills" or (task.kind == "kills once" and not task.deaths):
            self._exit(slot, "SIGSEGV")
            return
        slot.run = None
        self.world.log(self.name, f"slot {slot.number} ends {task.key}", run[:2])
        result = task.key.encode()
        if task.kind == "raises":
            self._handle(e.FromSlot(slot.number, m.Failed(run.task, run.attempt, task.seconds, "text", [result])))
            return
        done = m.Done(run.task, run.attempt, task.seconds, [result])
        if task.kind == "large":
            large: dict[bytes, int] = {}
            for _ in range(self.world.rng.randrange(1, 3)):
                self._results += 1
                large[Name(f"{self.name}/{self._results}".encode().ljust(16)[-16:])] = 1 << 20
            self._handle(e.ResultLeft(slot.number, done, large))
        else:
            self._handle(e.FromSlot(slot.number, done))

    def _interrupt(self, slot: Slot, task: int, attempt: int) -> None:
        run = slot.run
        if run is not None and run[:2] == (task, attempt):
            known = self._promises.tasks[bytes(run.payload[0]).decode()]
            if not known.deaf:
                self._later(self.world.between(0.0, 0.2), slot, self._interrupted, slot, run)

    def _interrupted(self, slot: Slot, run: m.Run) -> None:
        if slot.run is run:
            slot.run = None
            self._handle(e.FromSlot(slot.number, m.Failed(run.task, run.attempt, 0.1, "interrupted", [])))

    def _exit(self, slot: Slot, how: str) -> None:
        if not slot.alive:
            return
        slot.alive = False
        if slot.run is not None:
            task = self._promises.tasks[bytes(slot.run.payload[0]).decode()]
            task.deaths += 1
            task.excuses.append("its slot died")
            self.world.log(self.name, f"slot {slot.number} dies under {task.key}", how)
        self.world.later(0.0, self._exited, slot, how)

    def _exited(self, slot: Slot, how: str) -> None:
        if self.alive:
            del self._slots[slot.number]
            self._handle(e.SlotExited(slot.number, how, "?"))

    # --- faults ---

    def kill_slot(self) -> bool:
        """Kill one of the slots that work; returns whether there was one."""
        busy = [slot for slot in self._slots.values() if slot.alive and slot.run is not None]
        if busy:
            self._exit(self.world.rng.choice(busy), "SIGKILL")
        return bool(busy)

    def die(self) -> None:
        """The machine is switched off."""
        self.world.log(self.name, "dies")
        self.alive = False
        for slot in self._slots.values():
            if slot.run is not None:
                self._promises.tasks[bytes(slot.run.payload[0]).decode()].losses += 1
        if self._joining is not None:
            sees = self.world.rng.choice([0.0, 0.2, 3.0, None])
            self._joining.break_up(scheduler_sees=sees, peer_sees=None, lost=(self.world.chance(0.5), True))

    def running(self) -> list[Task]:
        """The tasks that are in its slots, and those whose reports wait."""
        runs = [slot.run for slot in self._slots.values() if slot.run is not None]
        return [self._promises.tasks[bytes(run.payload[0]).decode()] for run in runs]

    def check_idle(self) -> None:
        """Check that nothing is left of any task."""
        assert self.core.drained and not self.unsent, f"{self.name} is not idle"
        states = [type(slot.state) for slot in self.core.slots.values()]
        assert states == [Idle] * self.size, f"the slots of {self.name} are {states}"
        assert not self.core.data.blobs and not self.core.data.wanted, f"{self.name} keeps blobs"

    def links(self) -> list[Connection]:
        return [self._joining] if self._joining is not None else []
