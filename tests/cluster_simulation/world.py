"""The clock, the seed, the connections and the trace of a simulated cluster."""

from __future__ import annotations

import heapq
import random
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol


class Name(bytes):
    """A blob's id whose hash is the same in each process, so that sets of them have the same order each time."""

    def __hash__(self) -> int:
        return zlib.crc32(self)


class World:
    """Simulated time, and chance that a seed decides.

    Args:
        seed: two worlds of one seed are the same.
        gentle: whether messages are quick, so that what waits for somebody for a while does not wait in vain.

    Attributes:
        trace: what has happened: the time, who, and what.
        met: how often each kind of event was met.
    """

    def __init__(self, seed: int, gentle: bool) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.gentle = gentle
        self.trace: list[tuple[float, str, str, Any]] = []
        self.met: Counter[str] = Counter()
        self._agenda: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, what: Callable[..., object], *args: Any) -> None:
        """Do this then."""
        self._count += 1
        heapq.heappush(self._agenda, (max(when, self.now), self._count, what, args))

    def later(self, seconds: float, what: Callable[..., object], *args: Any) -> None:
        """Do this in so many seconds."""
        self.at(self.now + seconds, what, *args)

    def step(self) -> None:
        """Let time pass up to the next thing to do, and do it."""
        self.now, _, what, args = heapq.heappop(self._agenda)
        what(*args)

    def log(self, who: str, what: str, more: Any = None) -> None:
        self.trace.append((self.now, who, what, more))

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def between(self, least: float, most: float) -> float:
        return least + (most - least) * self.rng.random()

    def delay(self) -> float:
        """How long a message takes."""
        slow = not self.gentle and self.rng.random() < 0.02
        return self.between(0.2, 3.0) if slow else 0.03 * self.rng.random() ** 2


class Acceptor(Protocol):
    """A scheduler, as a connection sees it."""

    def accept(self, connection: Connection) -> None: ...
    def received(self, connection: Connection, message: Any) -> None: ...
    def closed(self, connection: Connection) -> None: ...


class Initiator(Protocol):
    """A client or a machine, as a connection sees it."""

    name: str

    def opened(self, connection: Connection) -> None: ...
    def received(self, connection: Connection, message: Any) -> None: ...
    def closed(self, connection: Connection) -> None: ...


class Connection:
    """A link between a scheduler and one of its peers. In each direction messages arrive in order, and take time.

    Args:
        world: where it is.
        acceptor: the scheduler that listens; None if none does.
        initiator: who connects.
        role, info: as in the handshake.
    """

    def __init__(
        self, world: World, acceptor: Acceptor | None, initiator: Initiator, role: str, info: dict[str, Any]
    ) -> None:
        self.world = world
        self.acceptor = acceptor
        self.initiator = initiator
        self.role = role
        self.info = info
        self.peer = 0
        self.received = 0
        """How many messages the scheduler has had."""
        self.cut = False
        self._lost = [False, False]  # what is under way: to the scheduler, to the peer
        self._last = [world.now, world.now]
        self._noticed = [False, False]
        if acceptor is None:
            self.cut = True
            world.later(world.delay(), self._notice, 1)
        else:
            self._send(0, acceptor.accept)

    def to_scheduler(self, message: Any) -> None:
        if self.acceptor is not None:
            self._send(0, self.acceptor.received, message)

    def welcome(self) -> None:
        self._send(1, self.initiator.opened)

    def to_peer(self, message: Any) -> None:
        self._send(1, self.initiator.received, message)

    def _send(self, way: int, deliver: Callable[..., None], *message: Any) -> None:
        if self.cut:
            self.world.met["sent in vain"] += bool(message)
            return
        self._last[way] = max(self._last[way], self.world.now + self.world.delay())
        self.world.at(self._last[way], self._arrive, way, deliver, message)

    def _arrive(self, way: int, deliver: Callable[..., None], message: tuple[Any, ...]) -> None:
        if self._lost[way] or self._noticed[way]:
            self.world.met["lost on the way"] += bool(message)
        else:
            deliver(self, *message)

    def break_up(self, *, scheduler_sees: float | None, peer_sees: float | None, lost: tuple[bool, bool]) -> None:
        """Cut the connection.

        Args:
            scheduler_sees, peer_sees: in how many seconds each end notices; None: not by itself.
            lost: whether what is under way is lost: to the scheduler, to the peer. Else it still arrives before the
                end notices.
        """
        if self.cut:
            return
        self.cut = True
        self._lost = [*lost]
        for way, sees in ((0, scheduler_sees), (1, peer_sees)):
            if sees is not None:
                self.world.at(max(self.world.now + sees, 0.0 if lost[way] else self._last[way]), self._notice, way)

    def shut(self, way: int) -> None:
        """Have one end close the connection: 0 for the scheduler, 1 for the peer. That end hears no more."""
        self._noticed[way] = True
        if not self.cut:
            self.cut = True
            other = 1 - way
            self.world.at(max(self._last[other], self.world.now + self.world.delay()), self._notice, other)

    def _notice(self, way: int) -> None:
        if self._noticed[way]:
            return
        self._noticed[way] = True
        if way == 1:
            self.initiator.closed(self)
        elif self.acceptor is not None:
            self.acceptor.closed(self)
