"""The relay between programs and their scheduler: each message stops here until it is passed on.

    client, worker ─near─► WatchRelay ─far─► scheduler
                              │ ▲
                   next() ────┘ └──── pass_on()

To programs the relay is their scheduler, and to the scheduler it is each of them, with the `info` that they have told.
It holds the access file's secret, and makes TLS and the handshake on both sides itself: proofs are for one connection,
so they cannot be passed on. Messages are. What breaks the protocol is turned away here, as the scheduler would do.

The relay is also a client of its own: so it knows what the scheduler says of itself, and ends with it.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from minidask._version import __version__
from minidask.errors import MinidaskError, SchedulerLost
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials
from minidask.net.sockets import no_scheduler
from minidask.net.strangers import Strangers
from minidask.net.transport import MessageLink, connect
from minidask.wire.codec import encode
from minidask.wire.handshake import NONCE_BYTES, Acceptor, Initiator
from minidask.wire.messages import Message

SCHEDULER = "scheduler"
OWN_NAME = "minidask-watch"
QUEUE = "leases"  # without it in the welcome, clients send each call in a message


@dataclass(eq=False)
class Passage:
    """One program's connection to the relay, and the relay's to the scheduler in its place.

    Attributes:
        name: "client 1", "worker 2".
        info: what the program has told of itself.
        near: the connection of the program.
        far: the connection to the scheduler.
        early: what came before `far` was open; None in it: the program has gone.
        over: whether one end has gone.
    """

    name: str
    info: dict[str, Any]
    near: MessageLink
    far: MessageLink
    early: list[Message | None] | None = field(default_factory=list)
    over: bool = False

    @property
    def role(self) -> str:
        """What the program is: "client" or "worker"."""
        return self.name.partition(" ")[0]


class Sighting(NamedTuple):
    """Something that the relay has seen, `at` so many seconds after it began to listen.

    It is a message of `size` bytes on its way, from the program or else to it. Or it is what has happened to the
    connection, as `text`: it has begun, or it `ends`.
    """

    at: float
    passage: Passage
    from_program: bool
    message: Message | None = None
    size: int = 0
    text: str = ""
    ends: bool = False

    @property
    def sender(self) -> str:
        """Who has sent it."""
        return self.passage.name if self.from_program else SCHEDULER

    @property
    def receiver(self) -> str:
        """Who is to get it."""
        return SCHEDULER if self.from_program else self.passage.name


class WatchRelay:
    """Lets programs connect in place of a scheduler.

    Args:
        scheduler: its address.
        credentials: the cluster's.
    """

    def __init__(self, scheduler: Address, credentials: Credentials) -> None:
        self._scheduler = scheduler
        self._credentials = credentials
        self._arrived: asyncio.Queue[Sighting | SchedulerLost] = asyncio.Queue()
        self._passages: dict[MessageLink, Passage] = {}
        self._counts: Counter[str] = Counter()
        self._strangers: Strangers[MessageLink] = Strangers()
        self._connecting: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._own: MessageLink | None = None
        self._welcome: dict[str, Any] = {}
        self._began = 0.0

    async def start(self, listen: Address) -> Address:
        """Connect to the scheduler, and listen for programs. Returns the address with the real port.

        Raises:
            OSError: the address is in use, or not one of this machine.
            MinidaskError: no scheduler answers, or it refuses.
        """
        await self._introduce()
        accept = functools.partial(self._accept, listen)
        self._server = await asyncio.get_running_loop().create_server(accept, listen.host, listen.port)
        self._began = time.monotonic()
        return Address("tcp", host=listen.host, port=self._server.sockets[0].getsockname()[1])

    async def next(self) -> Sighting:
        """Wait for what happens next. It is to be given to `pass_on`.

        Raises:
            SchedulerLost: the scheduler has ended.
        """
        found = await self._arrived.get()
        if isinstance(found, SchedulerLost):
            raise found
        return found

    def pass_on(self, seen: Sighting) -> None:
        """Send a message to its receiver; have one end of a connection follow the other."""
        passage = seen.passage
        if seen.message is None and not seen.ends:
            return
        if seen.from_program and passage.early is not None:
            passage.early.append(seen.message)
        else:
            _give(passage.far if seen.from_program else passage.near, seen.message)

    async def close(self) -> None:
        """Stop listening, and end all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._connecting:
            task.cancel()
        for link in [*self._passages, *self._strangers.all(), self._own]:
            if link is not None:
                link.abort()
        await asyncio.sleep(0)

    # --- the relay's own connection ---

    async def _introduce(self) -> None:
        known = asyncio.get_running_loop().create_future()

        def opened(link: MessageLink) -> None:
            known.set_result(link.handshake.peer_info if link.handshake is not None else None)

        def closed(_: MessageLink, error: MinidaskError | OSError | None) -> None:
            lost = SchedulerLost(f"the scheduler at {self._scheduler} has ended")
            if known.done():
                self._arrived.put_nowait(lost)
            else:
                known.set_exception(error if isinstance(error, MinidaskError) else lost)

        own = self._own = MessageLink(
            self._initiator("client", {"name": OWN_NAME, "forward_output": False}),
            opened, lambda *_: None, closed, tls=self._credentials.stream(self._scheduler, accepts=False),
        )  # fmt: skip
        try:
            await connect(self._scheduler, own)
        except OSError as error:
            raise no_scheduler(self._scheduler, error) from error
        self._welcome = {key: value for key, value in (await known).items() if key != QUEUE}

    def _initiator(self, role: str, info: dict[str, Any]) -> Initiator:
        nonce = os.urandom(NONCE_BYTES)
        return Initiator(self._credentials.secret, role=role, version=__version__, nonce=nonce, info=info)

    # --- those of the programs ---

    def _accept(self, listen: Address) -> MessageLink:
        handshake = Acceptor(
            self._credentials.secret, version=__version__, nonce=os.urandom(NONCE_BYTES), info=self._welcome
        )
        tls = self._credentials.stream(listen, accepts=True)
        return MessageLink(
            handshake, self._opened, self._received, self._ended, on_lag=self._lags, tls=tls, strangers=self._strangers
        )

    def _opened(self, near: MessageLink) -> None:
        assert isinstance(near.handshake, Acceptor)
        role, info = near.handshake.role, near.handshake.peer_info or {}
        self._counts[role] += 1
        tls = self._credentials.stream(self._scheduler, accepts=False)
        far = MessageLink(
            self._initiator(role, info), self._reached, self._received, self._ended, on_lag=self._lags, tls=tls
        )
        passage = Passage(f"{role} {self._counts[role]}", info, near, far)
        self._passages[near] = self._passages[far] = passage
        self._see(near, text=f"connects: {str(info.get('name', 'without a name'))[:200]!r}")
        task = asyncio.create_task(self._connect(far))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, far: MessageLink) -> None:
        try:
            await connect(self._scheduler, far)
        except OSError as error:
            self._ended(far, error)

    def _reached(self, far: MessageLink) -> None:
        passage = self._passages[far]
        early, passage.early = passage.early or [], None
        for message in early:
            _give(far, message)

    def _received(self, link: MessageLink, messages: list[Message]) -> None:
        for message in messages:
            self._see(link, message)

    def _lags(self, link: MessageLink, lags: bool) -> None:
        passage = self._passages.get(link)
        if passage is not None:
            (passage.far if link is passage.near else passage.near).read(on=not lags)

    def _ended(self, link: MessageLink, error: MinidaskError | OSError | None) -> None:
        passage = self._passages.get(link)
        if passage is not None and not passage.over:
            passage.over = True
            why = f": {error}" if error is not None else ""
            self._see(link, text=f"closes the connection{why}", ends=True)
        self._passages.pop(link, None)

    def _see(self, link: MessageLink, message: Message | None = None, text: str = "", ends: bool = False) -> None:
        passage = self._passages[link]
        size = sum(map(len, encode(message))) if message is not None else 0
        at = time.monotonic() - self._began
        self._arrived.put_nowait(Sighting(at, passage, link is passage.near, message, size, text, ends))


def _give(link: MessageLink, message: Message | None) -> None:
    """Send a message; None: close the connection."""
    if message is None:
        link.close()
    else:
        link.send(message)
        link.flush()
