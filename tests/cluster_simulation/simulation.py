"""One seed: a cluster, its users, its faults, and the end, when all must be over and idle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from .machine import Machine
from .promises import Promises
from .scheduler import Scheduler
from .user import Client
from .world import Connection, World

PATIENCE = 200.0
"""So long after the last fault everything is over, beside the work: a silent worker is lost after 30 s, and a hold is
stopped after 60."""
KINDS = ["returns", "returns", "returns", "raises", "large", "kills once", "kills", "timeouts"]


class Simulation:
    """Plays one seed.

    Every third one is gentle: messages are quick, and only the scheduler is lost, or a machine's link that is back
    before the scheduler notices. Then nothing begins twice without a reason. Every third one is a storm: tasks are
    long, and much is lost.

    Attributes:
        world: with the trace.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.gentle, self.storm = seed % 3 == 0, seed % 3 == 1
        self.world = world = World(seed, self.gentle)
        self.promises = Promises(world)
        self.machines: list[Machine] = []
        self.clients: list[Client] = []
        self.scheduler: Scheduler | None = Scheduler(world, self.promises, 1)
        self._keys = 0
        self._schedulers = 1
        for _ in range(world.rng.randrange(1, 4)):
            self._add_machine()
        self.clients = [Client(world, self.promises, self, number) for number in range(1, world.rng.randrange(2, 4))]
        for client in self.clients:
            client.nests = world.rng.choice([0.0, 0.0, 0.3])
        self._end_of_work = world.between(1.0, 8.0)
        self._seconds = world.rng.choice([2.0, 6.0] if self.storm else [0.02, 0.2, 0.2, 1.0, 4.0])
        self._last_fault = 0.0
        for client in self.clients:
            for _ in range(world.rng.randrange(2, 10)):
                world.at(world.between(0.3, self._end_of_work), self._use, client)
        for _ in range(world.rng.randrange(5, 16) if self.storm else world.rng.randrange(7)):
            when = world.between(0.3, self._end_of_work + 2.0)
            self._last_fault = max(when, self._last_fault)
            world.at(when, self._fault)

    # --- what the others ask for ---

    def connect(self, initiator: Any, role: str, info: dict[str, Any]) -> Connection:
        """Connect to whoever listens at the scheduler's address."""
        return Connection(self.world, self.scheduler, initiator, role, info)

    def fresh_key(self) -> int:
        self._keys += 1
        return self._keys

    # --- users and faults ---

    def _add_machine(self) -> None:
        name = f"m{len(self.machines) + 1}"
        self.machines.append(Machine(self.world, self.promises, self, name, self.world.rng.randrange(1, 4)))

    def _use(self, client: Client) -> None:
        if not client.ready:
            return
        rng = self.world.rng
        what = rng.random()
        if what < 0.12:
            client.open_group()
        elif what < 0.2:
            client.share()
        elif what < 0.25:
            client.close_group()
        elif what < 0.36:
            client.cancel()
        elif what < 0.37:
            client.cancel_all()
        elif what < 0.385 and not self.gentle:
            client.leave()
        else:
            client.submit(rng.randrange(1, 6), self._seconds, ["returns"] if rng.random() < 0.6 else KINDS)

    def _fault(self) -> None:
        world, rng = self.world, self.world.rng
        what = rng.choice(
            ["scheduler", "scheduler", "machine's link"] if self.gentle else
            ["scheduler", "scheduler", "machine's link", "machine's link", "client's link", "slot", "machine", "both",
             "slot's link"]
        )  # fmt: skip
        world.met[f"fault: {what}"] += 1
        self.promises.faults += 1 + (what == "both")
        if what in ("scheduler", "both") and self.scheduler is not None:
            for machine in self.machines:
                for task in machine.running():
                    task.losses += 1
            self.scheduler.kill()
            self.scheduler = None
            away = rng.choice(
                [0.05, 0.3, 1.0, 3.0]
                if self.gentle
                else [0.0, 0.05, 0.3, 1.0, 5.0]
                if self.storm
                else [0.0, 0.3, 5.0, 20.0, 70.0]
            )
            self._last_fault = max(self._last_fault, world.now + away)
            world.later(away, self._start_scheduler)
        if what in ("machine's link", "both"):
            self._cut(rng.choice(self.machines))
        elif what == "client's link":
            self._cut(rng.choice(self.clients))
        elif what == "slot's link":
            for link in rng.choice(self.machines).inner_links():
                link.break_up(scheduler_sees=world.between(0.0, 1.0), peer_sees=0.1, lost=(True, world.chance(0.5)))
        elif what == "slot":
            rng.choice(self.machines).kill_slot()
        elif what == "machine":
            self._switch_off(rng.choice(self.machines))

    def _start_scheduler(self) -> None:
        self._schedulers += 1
        self.scheduler = Scheduler(self.world, self.promises, self._schedulers)

    def _switch_off(self, machine: Machine) -> None:
        if machine.alive:
            machine.die()
            self.world.later(self.world.between(0.1, 3.0), self._add_machine)

    def _cut(self, end: Machine | Client) -> None:
        """Cut a link: either end notices at once, later, or only by the other's silence."""
        world, rng = self.world, self.world.rng
        for link in [link for link in end.links() if not link.cut]:
            sees = [rng.choice([0.0, 0.05, 0.05, 0.5, 2.0, 30.0]) for _ in range(2)]
            silent = isinstance(end, Machine) and (self.gentle or rng.random() < 0.3)
            if self.gentle:
                sees[1] = 0.05
            world.log(end.name, "its link is cut", sees)
            link.break_up(
                scheduler_sees=None if silent else sees[0],
                peer_sees=sees[1],
                lost=(world.chance(0.5), world.chance(0.5)),
            )

    # --- from the first task to the end ---

    def play(self) -> Counter[str]:
        """Let all happen; returns what was met.

        Raises:
            AssertionError: a promise was broken.
        """
        world = self.world
        while world.now < max(self._end_of_work, self._last_fault) or self._wait():
            world.step()
            end = max(self._end_of_work, self._last_fault) + PATIENCE + self.promises.work()
            assert world.now < end, f"it takes too long: {self._late()}"
        for client in self.clients:
            if not client.left:
                client.tidy()
        end = world.now + PATIENCE  # what nobody waits for ends too
        while world.now < end and not self._idle():
            world.step()
        self._check()
        world.met["tasks"] = len(self.promises.tasks)
        world.met["starts"] = sum(len(task.starts) for task in self.promises.tasks.values())
        return world.met

    def _wait(self) -> bool:
        return any(client.waits or (not client.left and not client.connected) for client in self.clients)

    def _late(self) -> list[str]:
        return [task.key for client in self.clients if client.waits for task in client.core.handles()]

    def _idle(self) -> bool:
        try:
            self._check()
        except AssertionError:
            return False
        return True

    def _check(self) -> None:
        for client in self.clients:
            if not client.left:
                self.promises.check_all_over(client.tasks)
                assert not client.core._blobs and not client.core._groups and not client.core._announced
        assert self.scheduler is not None
        alive = [machine for machine in self.machines if machine.alive]
        for machine in alive:
            machine.check_idle()
        self.scheduler.check_idle()
        joined = sorted(worker.name for worker in self.scheduler.core.workers.values())
        assert joined == sorted(machine.name for machine in alive), f"{joined} are in the cluster"

    def lines(self) -> Iterator[str]:
        """The trace, line by line."""
        for when, who, what, more in self.world.trace:
            yield f"{when:9.4f}  {who:12}  {what}{'' if more is None else f'  {_short(more)}'}"


def failure_of(seed: int) -> tuple[str, Counter[str]]:
    """Play a seed; returns how to see what went wrong, empty if nothing did, and what was met."""
    simulation = Simulation(seed)
    try:
        return "", simulation.play()
    except Exception as error:
        what = f"{type(error).__name__}: {error}"[:300]
        return f"python -m tests.cluster_simulation --seed {seed}  # {what}", simulation.world.met


def _short(more: Any) -> str:
    """A message, with the numbers of tasks as KEY·NUMBER and without payloads."""
    if isinstance(more, int):
        return f"{more >> 40}·{more & (1 << 40) - 1}" if more >> 40 else str(more)
    if hasattr(more, "_fields"):
        fields = zip(more._fields, more, strict=True)
        shown = [f"{name}={_short(value)}" for name, value in fields if name != "payload" and value not in ([], "")]
        return f"{type(more).__name__}({', '.join(shown)})"
    if isinstance(more, list | tuple):
        return f"[{', '.join(map(_short, more))}]"
    return str(more)
