"""Connections between workers: each serves its blobs to the others, and fetches theirs."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from minidask._version import __version__
from minidask.errors import MinidaskError
from minidask.net.addresses import Address
from minidask.net.transport import MessageLink, connect
from minidask.wire.handshake import NONCE_BYTES, PEER, Acceptor, Initiator
from minidask.wire.messages import Chunk, FetchChunk, Message, NoBlob

if TYPE_CHECKING:
    from .transfers import Transfers

CONNECT_SECONDS = 5.0

log = logging.getLogger("minidask.worker")


class Peers:
    """This worker's door for the others, and its links to theirs.

    Args:
        secret: what all of a cluster hold.
    """

    def __init__(self, secret: bytes) -> None:
        self.address = ""
        """Where others can fetch; empty while they cannot."""
        self.transfers: Transfers | None = None
        """What serves them, and is told what comes."""
        self._secret = secret
        self._server: asyncio.Server | None = None
        self._guests: set[MessageLink] = set()
        self._links: dict[str, MessageLink] = {}
        self._unsent: dict[str, list[Message]] = {}  # for links that are not open yet
        self._connecting: set[asyncio.Task[None]] = set()

    async def listen(self, scheduler: Address, port: int) -> None:
        """Serve on the network on which the scheduler is; 0 lets the kernel choose the port.

        Without a network, or where that fails, others get their data from the scheduler.
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

    def send(self, address: str, messages: Sequence[Message]) -> None:
        """Send to the worker that serves there; what comes of it, the transfers are told."""
        unsent = self._unsent.get(address)
        if address not in self._links:
            self._connect(address, messages)
        elif unsent is not None:
            unsent += messages
        else:
            _send(self._links[address], messages)

    def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._connecting:
            task.cancel()
        for link in [*self._guests, *self._links.values()]:
            link.abort()

    # --- as the one that fetches ---

    def _connect(self, address: str, messages: Sequence[Message]) -> None:
        nonce, info = os.urandom(NONCE_BYTES), {"host": socket.gethostname(), "pid": os.getpid()}
        handshake = Initiator(self._secret, role=PEER, version=__version__, nonce=nonce, info=info)

        def opened(link: MessageLink) -> None:
            _send(link, self._unsent.pop(address))

        def closed(link: MessageLink, error: MinidaskError | OSError | None) -> None:
            self._lost(address, str(error or "it closed the connection"))

        link = MessageLink(handshake, opened, lambda _, came: self._received(address, came), closed)
        self._links[address], self._unsent[address] = link, list(messages)
        task = asyncio.get_running_loop().create_task(self._open(address, link))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _open(self, address: str, link: MessageLink) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await connect(Address.parse(address), link)
        except TimeoutError:  # a firewall drops what is sent there
            self._lost(address, f"no answer within {CONNECT_SECONDS:g} seconds")
        except (MinidaskError, ValueError) as error:
            self._lost(address, str(error))

    def _lost(self, address: str, why: str) -> None:
        self._links.pop(address, None)
        self._unsent.pop(address, None)
        if self.transfers is not None:
            self.transfers.source_lost(address, why)

    def _received(self, address: str, messages: list[Message]) -> None:
        for message in messages:
            if self.transfers is not None and isinstance(message, Chunk):
                self.transfers.part(message)
            elif self.transfers is not None and isinstance(message, NoBlob):
                self.transfers.refused(address, message)

    # --- as the one that serves ---

    def _accept(self) -> MessageLink:
        nonce = os.urandom(NONCE_BYTES)
        handshake = Acceptor(self._secret, version=__version__, nonce=nonce, info={}, roles=(PEER,))
        link = MessageLink(handshake, lambda link: None, self._serve, lambda link, error: self._guests.discard(link))
        self._guests.add(link)
        return link

    def _serve(self, link: MessageLink, messages: list[Message]) -> None:
        for message in messages:
            if self.transfers is not None and isinstance(message, FetchChunk):
                self.transfers.serve(message, lambda answer: _send(link, [answer]))


def _send(link: MessageLink, messages: Sequence[Message]) -> None:
    for message in messages:
        link.send(message)
    link.flush()


def _own_address(scheduler: Address) -> str:
    """The address of this machine on the network that leads to the scheduler."""
    family, kind, *_, address = socket.getaddrinfo(scheduler.host, scheduler.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as sock:
        sock.connect(address)  # sends nothing
        return str(sock.getsockname()[0])
