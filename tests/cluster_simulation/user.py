"""A simulated client: the real core, what its shell decides, and a user who submits, cancels, and may leave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minidask.client.connection import MAX_KEYS
from minidask.client.core import ClientCore, Effect, Settle
from minidask.client.outcomes import Lost, Raised
from minidask.client.returning import WORKERS_SECONDS, Retry
from minidask.wire import messages as m

from .promises import Promises, Task
from .world import Connection, Name, World


class Client:
    """A client that connects again when its connection is lost.

    Args:
        world, promises: of this simulation.
        cluster: knows who listens at the scheduler's address now.
        number: how many there were before it.
    """

    def __init__(self, world: World, promises: Promises, cluster: Any, number: int) -> None:
        self.world = world
        self.number = number
        self.name = f"client {number}"
        self.core: ClientCore[Task] = ClientCore("tcp://simulated:1", keeps=True)
        self.tasks: list[Task] = []
        self.left = False
        self.nests = 0.0
        """The share of tasks that submit some of their own."""
        self.groups: dict[int, int] = {}  # open ones, with their limits
        self.blobs: list[bytes] = []
        self._promises = promises
        self._cluster = cluster
        self._away = True
        self._keys: list[int] = []
        self._link: Connection | None = None
        self._trying: Connection | None = None
        self._first = True
        self._early: list[Any] = []
        self._awaited: set[str] = set()
        self._workers: dict[str, str] = {}  # names by address
        self._retry = Retry(math.inf, 0.0)
        self._lost_reason = ""
        self._session: list[bytes] = []
        self._connect()

    # --- the connection, as in `Returning` ---

    @property
    def connected(self) -> bool:
        return not self._away

    @property
    def ready(self) -> bool:
        """Whether its user has it: it was connected once, and has not left."""
        return not self._first and not self.left

    def _connect(self) -> None:
        if self.left:
            return
        self._early = []
        self._awaited = {*self._workers.values()}
        keys = [self._cluster.fresh_key(), *self._keys][:MAX_KEYS]
        self._trying = self._cluster.connect(
            self, "client", {"name": self.name, "keys": keys, "reconnect_timeout": 60.0}
        )

    def opened(self, connection: Connection) -> None:
        if connection is not self._trying or self.left:
            return
        if not self._awaited or self._first:
            self._go_on(connection)
        else:
            self.world.later(WORKERS_SECONDS, self._go_on, connection)

    def _go_on(self, connection: Connection) -> None:
        """The workers that it knew are there, or were waited for: `resume`."""
        if connection is not self._trying or self.left:
            return
        self._trying, self._link = None, connection
        self._keys = connection.info["keys"]
        self._away = False
        early, self._early = self._early, []
        if self._first:
            self._first = False
            if self.world.chance(0.5):
                self._session = [self._announce(large=False)]
        else:
            self.world.log(self.name, "resumes", connection.info["keys"])
            self._lost_reason = ""
            effects = self.core.resume()
            self.world.met["submitted again"] += sum(type(effect) is m.Submit for effect in effects)
            self.world.met["resumed"] += 1
            self._carry_out(effects)
        self._retry = Retry(math.inf, 0.0)
        for message in early:
            self._hear(message)

    def closed(self, connection: Connection) -> None:
        if self.left:
            return
        if connection is self._trying:
            self._trying = None
            self.world.later(self._retry.pause(0.0) or 0.0, self._connect)
        elif connection is self._link:
            self.world.log(self.name, "is cut off")
            self._link = None
            self._away = True
            self.world.later(0.0, self._connect)

    def received(self, connection: Connection, message: Any) -> None:
        if self.left:
            return
        if connection is self._trying:
            self._early.append(message)
            match message:
                case m.Workers(workers):
                    self._awaited.difference_update(name for _, name, slots, _ in workers if slots)
                case m.WorkerChanged(_, name, slots) if slots:
                    self._awaited.discard(name)
            if not self._awaited:
                self._go_on(connection)
        elif connection is self._link:
            self.world.log(self.name, "hears", message)
            self._hear(message)

    def _post(self, messages: Sequence[Any]) -> None:
        if not self._away and self._link is not None:
            for message in messages:
                self._link.to_scheduler(message)

    def _hear(self, message: Any) -> None:
        match message:
            case m.Workers(workers):
                self._workers = {address: name for address, name, slots, _ in workers if slots}
            case m.WorkerChanged(address, name, slots):
                self._workers.pop(address, None)
                if slots:
                    self._workers[address] = name
            case m.ResultOffered(_, blob, _, peer):
                self.world.met["large result"] += 1
                self.world.later(self.world.between(0.0, 0.4), self._taken, self._link, m.ResultTaken(blob, peer))
            case _:
                self._lost_reason = message.reason if type(message) is m.TaskLost else ""
                self._carry_out(self.core.receive(message))

    def _taken(self, link: Connection, message: m.ResultTaken) -> None:
        if link is self._link:
            self._post([message])

    def _carry_out(self, effects: Sequence[Effect[Task]]) -> None:
        self._post([effect for effect in effects if not isinstance(effect, Settle)])
        for effect in effects:
            if isinstance(effect, Settle) and effect.handle is not None:
                outcome = effect.outcome
                if isinstance(outcome, Lost):
                    told = f"{self._lost_reason}: {outcome.error}"
                else:
                    kind = "raised" if isinstance(outcome, Raised) else "returned"
                    told = f"{kind}: {bytes(outcome.payload[0]).decode()}"
                self.world.log(self.name, f"task {effect.handle.key} ends", told)
                self._promises.ends(effect.handle, told)

    # --- the user ---

    def _announce(self, large: bool) -> bytes:
        blob = Name(f"{self.number}/{len(self.blobs)}".encode().ljust(16))
        offers = {blob: m.OfferBlob(blob, 1 << 20, "elsewhere:store")} if large else {}
        messages = self.core.announce({blob: [b"data"]}, offers)
        self._post(messages)
        self.core.hold([blob])
        self.blobs.append(blob)
        return blob

    def share(self) -> None:
        """Send data ahead."""
        self._announce(large=self.world.chance(0.5))

    def open_group(self) -> None:
        limit = self.world.rng.choice([0, 1, 2, 3])
        number, messages = self.core.open_group(limit, [])
        self.groups[number] = limit
        self._post(messages)

    def close_group(self) -> None:
        if self.groups:
            number = self.world.rng.choice([*self.groups])
            del self.groups[number]
            self._post([*self.core.close_group(number)])  # type: ignore[list-item]

    def submit(self, count: int, seconds: float, kinds: Sequence[str]) -> None:
        rng = self.world.rng
        group = rng.choice([0, *self.groups, *self.groups])
        for _ in range(count):
            number = self.core.next_task()
            length = seconds * rng.choice([0.5, 1.0, 1.0, 2.0])
            timeout = rng.choice([0.5, 2.0]) if "timeouts" in kinds and rng.random() < 0.15 else None
            task = Task(
                f"{self.number}.{number}", number, length, rng.choice([kind for kind in kinds if kind != "timeouts"]),
                timeout, group != 0, rng.random() < 0.2, rng.randrange(1, 4) if rng.random() < self.nests else 0,
            )  # fmt: skip
            task.needs = number % 3 == 0
            self.tasks.append(task)
            self._promises.tasks[task.key] = task
            blobs = rng.sample(self.blobs, rng.randrange(0, min(2, len(self.blobs)) + 1))
            blobs = [blob for blob in blobs if blob not in self._session]
            priority, resources = rng.randrange(2), {"gpu": 1} if task.needs else {}
            payload: m.Payload = [task.key.encode()]
            submit = m.Submit(number, "f", priority, timeout, group, None, blobs, [], False, resources, payload)
            self._post([*self.core.submit(submit, self._session, task)])  # type: ignore[list-item]

    def cancel(self) -> None:
        pending = [task for task in self.tasks if not task.outcome and not task.cancelled]
        if pending:
            some = self.world.rng.sample(pending, self.world.rng.randrange(1, len(pending) + 1))[:4]
            for task in some:
                task.cancelled = True
            force = self.world.chance(0.5)
            self.world.log(self.name, "cancels", [task.key for task in some])
            self._post(self.core.cancel([task.number for task in some], force))  # type: ignore[arg-type]

    def cancel_all(self) -> None:
        """Give up on everything: each task ends by the scheduler's word, or by the loss of the scheduler."""
        self.world.log(self.name, "cancels all")
        for task in self.tasks:
            task.given_up = task.given_up or not task.outcome
        self._lost_reason = ""
        self._carry_out(self.core.cancel_all(self.world.chance(0.5)))

    def tidy(self) -> None:
        """Release all that is held, as a user does who needs nothing more."""
        while self.groups:
            self.close_group()
        self._post(self.core.release(self.blobs))
        self.blobs, self._session = [], []

    def leave(self) -> None:
        """End for good, with whatever is not done."""
        self.world.log(self.name, "leaves")
        self.left = True
        for link in (self._link, self._trying):
            if link is not None:
                link.shut(1)

    def links(self) -> list[Connection]:
        return [link for link in (self._link, self._trying) if link is not None]

    @property
    def waits(self) -> bool:
        """Whether some task of its has no outcome yet."""
        return not self.left and len(self.core) > 0
