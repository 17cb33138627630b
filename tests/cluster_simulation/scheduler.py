"""A simulated scheduler: the real core, and what `scheduler/server.py` decides."""

from __future__ import annotations

from typing import Any

from minidask.errors import ProtocolError
from minidask.scheduler import invariants
from minidask.scheduler.amounts import free_of
from minidask.scheduler.core import Outbox, SchedulerCore
from minidask.scheduler.events import Event, Joined, Left, Received, Tick
from minidask.scheduler.server import TICK_SECONDS
from minidask.scheduler.tasks import Cancelled, Delivering, Running, current_attempt
from minidask.wire import messages as m

from .promises import Promises
from .world import Connection, World

REPORTS = (m.Done, m.Failed, m.Died, m.Stopped, m.OfferResult)


class Scheduler:
    """One process of a scheduler, from its start until it is killed.

    Args:
        world, promises: of this simulation.
        number: how many there were before it.
    """

    def __init__(self, world: World, promises: Promises, number: int) -> None:
        self.world = world
        self._promises = promises
        self.name = f"scheduler {number}"
        self.core = SchedulerCore()
        self.alive = True
        self.links: dict[int, Connection] = {}
        self._dismissed: set[int] = set()
        self._taken_over: set[int] = set()
        self._peers = 0
        self._assigning = False
        world.later(TICK_SECONDS, self._tick)

    def kill(self) -> None:
        self.alive = False
        world = self.world
        world.log(self.name, "is killed")
        for link in list(self.links.values()):
            sees = world.between(0.0, 0.1) if world.gentle or world.chance(0.7) else world.between(0.0, 4.0)
            link.break_up(scheduler_sees=None, peer_sees=sees, lost=(True, world.chance(0.5)))

    def _tick(self) -> None:
        if self.alive:
            self.world.later(TICK_SECONDS, self._tick)
            self._post(Tick())
            for link in self.links.values():
                if link.role == "worker" and link.received:
                    link.to_peer(m.Heartbeat(0, link.received))

    # --- connections ---

    def accept(self, connection: Connection) -> None:
        if not self.alive:
            connection.break_up(scheduler_sees=None, peer_sees=0.01, lost=(True, True))
            return
        self._peers += 1
        connection.peer = self._peers
        self.links[self._peers] = connection
        info = connection.info
        self.world.log(self.name, f"{info['name']} joins as {self._peers}", info.get("holds") or info.get("keys"))
        address = f"{info['name']}:{self._peers}"
        self._note_holds(info)
        before = set(self.core.workers)
        connection.welcome()
        self._post(Joined(self._peers, connection.role, address, info))
        gone = before - set(self.core.workers)
        self._taken_over |= gone
        if gone:
            self.world.met["moved over"] += len(self.core.workers[self._peers].tasks)
            self.world.met["taken over"] += 1

    def _note_holds(self, info: dict[str, Any]) -> None:
        met, core = self.world.met, self.core
        for task, _ in info.get("holds", ()):
            met["held"] += 1
            met["held twice"] += task in core.holds._holds
            met["held while it is known"] += task in core.attempts.tasks
            known = core.attempts.tasks.get(task)
            if known is not None and known.nest is not None and known.nest.guest is not None and known.payload:
                self._promises.tasks[bytes(known.payload[0]).decode()].excuses.append("it has a guest")

    def received(self, connection: Connection, message: Any) -> None:
        if self.alive and self.links.get(connection.peer) is connection and connection.peer not in self._dismissed:
            connection.received += 1
            self.world.log(self.name, f"<- {connection.info['name']}", message)
            self._note(connection, message)
            self._post(Received(connection.peer, message))

    def _note(self, connection: Connection, message: Any) -> None:
        met, worker = self.world.met, self.core.workers.get(connection.peer)
        if worker is not None and isinstance(message, REPORTS):
            hold = self.core.holds._holds.get(message.task)
            task = current_attempt(worker.tasks, message.task, message.attempt)
            if hold is not None and hold.worker is worker and hold.attempt == message.attempt:
                met["early report"] += 1
            elif task is None:
                met["stale report"] += 1
            elif type(task.state) is Cancelled:
                met["report of a cancelled task"] += 1

    def closed(self, connection: Connection) -> None:
        if self.alive and self.links.get(connection.peer) is connection:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        del self.links[connection.peer]
        self._dismissed.discard(connection.peer)
        self.world.log(self.name, f"{connection.info['name']} has left as {connection.peer}")
        # The machine of a client that is still there may have fallen silent, or its connection was reset.
        cut = getattr(connection.initiator, "left", True) is False and self.world.chance(0.7)
        held = len(self.core.holds._holds)
        self._post(Left(connection.peer, "it closed the connection", cut))
        self.world.met["held for a client that was cut off"] += len(self.core.holds._holds) > held

    # --- events ---

    def _post(self, event: Event) -> None:
        try:
            self._write(self.core.handle(event, self.world.now))
        except ProtocolError as error:
            if not isinstance(event, Received) or event.peer not in self._taken_over:
                raise
            self.world.met["word of a connection that was taken over"] += 1
            self._dismissed.add(event.peer)
            self._write([(event.peer, m.Goodbye(str(error)))])
        # The shell lets the core assign once for all that it has read in one go.
        if self.world.chance(0.7):
            self._assign()
        elif not self._assigning:
            self._assigning = True
            self.world.later(0.0, self._assign)
        invariants.check(self.core)

    def _assign(self) -> None:
        self._assigning = False
        if self.alive:
            out = self.core.assign(self.world.now)
            for _, message in out:
                if type(message) is m.Run:
                    group = self.core.attempts.tasks[message.task].group
                    full = group is not None and 0 < group.limit < group.running
                    assert not full, f"{message} begins although its group is full"
            self._write(out)
            invariants.check(self.core)

    def _write(self, outbox: Outbox) -> None:
        for peer, message in outbox:
            link = self.links.get(peer)
            if link is None:
                continue
            self.world.log(self.name, f"-> {link.info['name']}", message)
            self._count(message)
            link.to_peer(message)
            if type(message) is m.Goodbye:
                self.world.met["silent worker"] += "silent" in message.reason
                link.shut(0)
                self.world.later(0.0, self._say_it_left, link)

    def _say_it_left(self, link: Connection) -> None:
        if self.alive and self.links.get(link.peer) is link:
            self._forget(link)

    def _count(self, message: Any) -> None:
        met = self.world.met
        match message:
            case m.Adopted():
                met["adopted"] += 1
                task = self.core.attempts.tasks.get(message.task)  # None: its early report has ended it
                group = task.group if task is not None else None
                met["adopted beyond a group's limit"] += group is not None and 0 < group.limit < group.running
            case m.Stop():
                met["hold stopped" if message.task not in self.core.attempts.tasks else "stopped"] += 1
            case m.Run(_, attempt):
                met["tried again"] += attempt > 1
            case m.TaskLost(_, reason):
                met[f"lost: {reason}"] += 1

    # --- what is left in the end ---

    def check_idle(self) -> None:
        """Check that nothing is left of any task."""
        core = self.core
        assert not core.attempts.tasks, f"{self.name} still knows {[*core.attempts.tasks.values()]}"
        assert not core.holds._holds, f"{self.name} still has holds"
        assert not core.blobs.records, f"{self.name} still has blobs"
        for worker in core.workers.values():
            assert not worker.held and not worker.tasks and worker.free == worker.slots, f"{worker} is not idle"
            assert not worker.ending and free_of(worker) == worker.resources, f"{worker} keeps resources"
        for client in core.clients.values():
            assert not client.groups and not client.tasks and not client.blobs, f"{client.name} is not over"

    def runs(self, task: int, attempt: int) -> bool:
        """Whether it knows an attempt as one that runs."""
        record = current_attempt(self.core.attempts.tasks, task, attempt)
        return record is not None and isinstance(record.state, Running | Delivering)
