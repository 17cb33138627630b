"""Connections between workers: each serves its blobs to the others, and fetches theirs.

A worker opens one connection to each worker that it fetches from, when it has the first request for it, and calls that
worker by the address where it serves. A connection that another worker opens to fetch from here gets a number.
Requests go one way over a connection, chunks and refusals the other.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
from typing import Protocol, TypeAlias

from minidask._version import __version__
from minidask.errors import MinidaskError
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials
from minidask.net.strangers import Strangers
from minidask.net.transport import MessageLink, connect
from minidask.wire.handshake import NONCE_BYTES, PEER, Acceptor, Initiator
from minidask.wire.messages import Chunk, FetchChunk, Message, NoBlob

DEAD_SECONDS = 6
"""A source from which nothing can come any more is noticed so soon: others have the data too."""

MOST_ASKED = 10_000
"""How many requests of a worker that does not read wait here: one of ours has some dozens at most."""

ANYWHERE = Address("tcp")
"""Workers meet over TCP only."""

Peer: TypeAlias = str | int
"""Another worker: the address where it serves, or the number of the connection over which it asks."""

log = logging.getLogger("minidask.worker")


class Receiver(Protocol):
    """What `Peers` passes messages of other workers to; `Transfers` is the one such class."""

    def received(self, peer: Peer, message: Chunk | NoBlob | FetchChunk) -> None:
        """Handle a message of another worker."""

    def source_lost(self, source: str, why: str) -> None:
        """Note that no more chunks come from the worker at this address, for the reason `why`."""


class Peers:
    """This worker's door for the others, and its links to them.

    Args:
        credentials: the cluster's.
        receiver: gets the messages of other workers, and is told of those that are lost.
    """

    def __init__(self, credentials: Credentials, receiver: Receiver) -> None:
        self.address = ""
        """The address where other workers can fetch; "" while they cannot."""
        self._credentials = credentials
        self._strangers: Strangers[MessageLink] = Strangers()
        self._receiver = receiver
        self._server: asyncio.Server | None = None
        self._links: dict[Peer, MessageLink] = {}
        self._numbers = itertools.count(1)
        self._unsent: dict[Peer, list[Message]] = {}  # for links that are not open yet
        self._asked: dict[int, list[Message]] = {}  # by reader that lags: what it has asked for meanwhile
        self._connecting: set[asyncio.Task[None]] = set()

    async def listen(self, scheduler: Address, port: int) -> None:
        """Accept connections of other workers, on the scheduler's network. With port 0 the kernel chooses the port.

        If the scheduler is on a Unix socket, or the port is taken, nobody can fetch here. Other workers then
        get their blobs from the client, through the scheduler.
        """
        if scheduler.scheme == "unix":
            return
        try:
            host = _own_address(scheduler)
            self._server = await asyncio.get_running_loop().create_server(self._accept, host, port)
        except OSError as error:
            log.warning("other workers cannot fetch data here, on port %d: %s", port, error)
            return
        self.address = str(Address("tcp", host=host, port=self._server.sockets[0].getsockname()[1]))

    def send(self, peer: Peer, message: Message) -> None:
        """Send a message to another worker, and connect to it if need be.

        If the message answers a worker whose connection has ended, it is dropped.
        """
        if peer in self._unsent:
            self._unsent[peer].append(message)
        elif peer in self._links:
            self._links[peer].send(message)
            self._links[peer].flush()
        elif isinstance(peer, str):
            self._connect(peer, message)

    def close(self) -> None:
        """Stop listening, and end all connections at once."""
        if self._server is not None:
            self._server.close()
        for task in self._connecting:
            task.cancel()
        for link in list(self._links.values()):
            link.abort()

    # --- as the one that fetches ---

    def _connect(self, address: str, message: Message) -> None:
        nonce, info = os.urandom(NONCE_BYTES), {"host": socket.gethostname(), "pid": os.getpid()}
        handshake = Initiator(self._credentials.secret, role=PEER, version=__version__, nonce=nonce, info=info)

        def opened(link: MessageLink) -> None:
            for message in self._unsent.pop(address, ()):
                link.send(message)
            link.flush()

        def closed(link: MessageLink, error: MinidaskError | OSError | None) -> None:
            self._lost(address, str(error or "it closed the connection"))

        def received(_: MessageLink, messages: list[Message]) -> None:
            self._received(address, messages)

        tls = self._credentials.stream(ANYWHERE, accepts=False)
        link = MessageLink(handshake, opened, received, closed, DEAD_SECONDS, tls=tls)
        self._links[address], self._unsent[address] = link, [message]
        task = asyncio.get_running_loop().create_task(self._open(address, link))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _open(self, address: str, link: MessageLink) -> None:
        try:
            await connect(Address.parse(address), link)
        except (OSError, ValueError) as error:  # nobody is there, or a firewall drops the packets
            self._lost(address, str(error))

    def _lost(self, address: str, why: str) -> None:
        self._links.pop(address, None)
        self._unsent.pop(address, None)
        self._receiver.source_lost(address, why)

    # --- as the one that serves ---

    def _accept(self) -> MessageLink:
        number = next(self._numbers)
        nonce, roles = os.urandom(NONCE_BYTES), (PEER,)
        handshake = Acceptor(self._credentials.secret, version=__version__, nonce=nonce, info={}, roles=roles)

        def closed(link: MessageLink, error: MinidaskError | OSError | None) -> None:
            del self._links[number]
            self._asked.pop(number, None)

        def lags(link: MessageLink, lags: bool) -> None:
            if lags:
                self._asked.setdefault(number, [])
            else:
                self._received(number, self._asked.pop(number, []))

        def received(_: MessageLink, messages: list[Message]) -> None:
            self._received(number, messages)

        tls = self._credentials.stream(ANYWHERE, accepts=True)
        link = MessageLink(handshake, lambda _: None, received, closed, on_lag=lags, tls=tls, strangers=self._strangers)
        self._links[number] = link
        return link

    def _received(self, peer: Peer, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(peer, int) and peer in self._asked:
                self._asked[peer].append(message)  # it has to read first what it has asked for
                if len(self._asked[peer]) > MOST_ASKED:
                    self._links[peer].abort(OSError(f"it does not read, and has asked {MOST_ASKED} times for more"))
                    return
            elif isinstance(message, FetchChunk if isinstance(peer, int) else (Chunk, NoBlob)):
                self._receiver.received(peer, message)


def _own_address(scheduler: Address) -> str:
    """The address of this machine on the network that leads to the scheduler."""
    family, kind, *_, address = socket.getaddrinfo(scheduler.host, scheduler.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as sock:
        sock.connect(address)  # sends nothing
        return str(sock.getsockname()[0])
