"""The scheduler's shell: accepts connections, feeds the core, writes what the core answers. It decides nothing.

    socket ─► MessageLink ─► inbox ─► core.handle ─► core.assign ─► MessageLink ─► socket

The inbox
---------

Events wait in an inbox until the event before is dealt with. The worker that shares this process sends by a call of
`post`, and does so while its own message is being sent: without the inbox the core would be entered from within. All
links that were written to are flushed once, when the inbox is empty: one write for many messages.

Peers that do not read
----------------------

For each peer a link queues what it has not read. From 64 MiB on the peer *lags*. The core then begins none of a
client's tasks, and gives a worker none. Questions and requests for chunks wait here until the peer has caught up: so
nobody has more made ready than it reads. Where more than `MOST_WAITING` bytes or `MOST_ASKED` questions pile up all the
same, the connection ends. All else that a peer sends is for the core at once, which has bounds for that: `quota.py`.

Errors
------

A peer that breaks the protocol is told so and disconnected. So is a peer whose message has led to an error of our own:
the core can deal with the loss of a peer, and its tasks are tried again. Tasks that the error has left in no queue and
on no worker are lost. An error in assigning tasks, or in forgetting a peer, would come again. After such an error all
peers are told, and the scheduler ends, so that no client waits for ever.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import logging
import os
import time
from typing import Any

from minidask._version import __version__
from minidask.errors import MinidaskError, ProtocolError
from minidask.host.sizes import count
from minidask.host.texts import printable
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials
from minidask.net.sockets import dead_seconds, listen_unix
from minidask.net.strangers import Strangers
from minidask.net.transport import Link, MessageLink
from minidask.wire.handshake import NONCE_BYTES, Acceptor
from minidask.wire.messages import BEATS, Ask, FetchChunk, Goodbye, Heartbeat, Message, Notice
from minidask.wire.observing import Explain, Subscribe

from .core import Outbox, SchedulerCore
from .events import Event, Joined, Lagging, Left, Received, Tick, Unsent
from .stream import STORY

TICK_SECONDS = 1.0
MAX_REASON = 10_000
MAX_ADDRESS = 200
MOST_WAITING = 1 << 30
MOST_ASKED = 100_000

log = logging.getLogger("minidask.scheduler")


class SchedulerServer:
    """Serves one `SchedulerCore` on any number of addresses.

    Args:
        core: the decisions.
        credentials: the cluster's; every peer must prove that it has the same secret.
        info: entries that every peer is told in the handshake, besides version and id.
    """

    def __init__(self, core: SchedulerCore, credentials: Credentials, info: dict[str, Any] | None = None) -> None:
        self.core = core
        self.stopped = asyncio.Event()
        """Set when a client shuts the cluster down, when `close` is called, and when an error ends the scheduler."""
        self.address = ""
        self._credentials = credentials
        self._info = {"version": __version__, "id": os.urandom(8).hex(), **(info or {})}
        self._info["heartbeat_timeout"] = core.heartbeat_timeout
        self._info["shutdown"] = core.allow_shutdown
        self._beat_at = 0.0
        self._acknowledged: dict[int, int] = {}  # how many messages each peer was told have come
        self._reads: dict[int, int] = {}  # how often bytes had come from each peer by the last tick
        self._links: dict[int, Link] = {}
        self._peers: dict[int, int] = {}  # id of a socket's link -> peer
        self._names: dict[int, str] = {}  # of peers, for the log
        self._strangers: Strangers[MessageLink] = Strangers()
        self._enduring: set[MessageLink] = set()  # clients that may read nothing for as long as they like
        self._servers: list[asyncio.Server] = []
        self._inbox: collections.deque[Event] = collections.deque()
        self._busy = False
        self._goodbyes: dict[int, str] = {}  # why peers were told goodbye, for the log
        self._dismissed: set[int] = set()  # peers that were told goodbye, and are still connected
        self._lagging: dict[int, list[Event]] = {}  # by peer: what it has asked for meanwhile
        self._next_peer = 0
        self._ticker: asyncio.TimerHandle | None = None
        self._tells_all = log.isEnabledFor(logging.DEBUG)

    # --- life ---

    async def listen(self, address: Address) -> Address:
        """Accept peers at an address. Returns the address with the real port.

        Only this user can connect to a Unix socket.

        Raises:
            OSError: the address is in use, or not one of this machine.
            AuthenticationError: a certificate of the user's cannot be used.
        """
        self._credentials.stream(address, accepts=True)  # what is wrong with certificates is told now
        accept = functools.partial(self._accept, address)
        loop = asyncio.get_running_loop()
        if address.scheme == "unix":
            server = await loop.create_unix_server(accept, sock=listen_unix(address.path))
        else:
            server = await loop.create_server(accept, address.host, address.port)
            address = Address("tcp", host=address.host, port=server.sockets[0].getsockname()[1])
        self._servers.append(server)
        self.address = self.address or str(address)
        self.core.info.setdefault("address", str(address))
        if self._ticker is None:
            self._tick()
        return address

    async def close(self, reason: str) -> None:
        """Stop listening, and close all connections.

        Args:
            reason: what the peers are told with Goodbye: for clients that is the end. If it is empty they are told
                nothing, and look for another scheduler at this address.
        """
        self.stopped.set()
        if self._ticker is not None:
            self._ticker.cancel()
        for server in self._servers:
            server.close()
        for link in list(self._links.values()):
            if reason:
                link.send(Goodbye(reason))
            link.close()
        for stranger in self._strangers.all():
            stranger.abort()
        await asyncio.sleep(0)

    # --- events ---

    def attach(self, link: Link, role: str, address: str, info: dict[str, Any]) -> int:
        """Take in a peer that has completed the handshake. Returns its number, which its later events carry.

        Args:
            link: the connection to the peer.
            role: "client" or "worker".
            address: where the peer is.
            info: the peer's description of itself.
        """
        self._next_peer += 1
        peer = self._next_peer
        self._links[peer] = link
        self.post(Joined(peer, role, address, info))
        return peer

    def post(self, *events: Event) -> None:
        """Put events into the inbox, and have the core handle all events there.

        A call from within, while events are being handled, only puts its events into the inbox.
        """
        self._inbox.extend(events)
        if self._busy:
            return
        self._busy = True
        touched: set[int] = set()
        try:
            while self._inbox:
                while self._inbox:
                    self._handle(self._inbox.popleft(), touched)
                self._assign(touched)
                if not self._inbox:
                    self._flush(touched)
        finally:
            self._busy = False
        if self.core.stopping:
            self.stopped.set()

    def _handle(self, event: Event, touched: set[int]) -> None:
        if type(event) is Received and event.peer in self._dismissed:
            return
        if self._lagging and type(event) is Received and self._has_to_wait(event):
            return
        try:
            self._write(self.core.handle(event, time.monotonic()), touched)
        except ProtocolError as error:
            peer = event.peer if not isinstance(event, Tick) else 0
            log.warning("closing the connection to %s, which broke the protocol: %s", self._name(peer), error)
            self._dismiss(peer, f"protocol error: {error}", touched)
        except Exception as error:
            log.exception("an error in dealing with %s; please report it", type(event).__name__)
            if isinstance(event, Received | Joined):
                self._dismiss(
                    event.peer, f"an error inside the scheduler, {type(error).__name__}: see its log", touched
                )
                self._mend(touched)
            else:
                self._end_all(touched)

    def _has_to_wait(self, event: Received) -> bool:
        """Whether a peer has to read first what waits for it, as it asks for more."""
        asked = self._lagging.get(event.peer)
        if asked is None or type(event.message) not in (Ask, Explain, FetchChunk, Subscribe):
            return False
        asked.append(event)
        link = self._links.get(event.peer)
        if len(asked) > MOST_ASKED and isinstance(link, MessageLink):
            link.abort(OSError(f"it does not read, and has asked {len(asked)} times for more"))
        return True

    def _assign(self, touched: set[int]) -> None:
        try:
            self._write(self.core.assign(time.monotonic()), touched)
        except Exception:
            log.exception("an error in assigning tasks; please report it")
            if not self._mend(touched):
                self._end_all(touched)  # with no task to blame, it would happen again

    def _mend(self, touched: set[int]) -> int:
        """Lose the tasks that an error has left in no queue and on no worker; returns how many there were."""
        try:
            count = self.core.attempts.settle_adrift()
            self._write(self.core.take(), touched)
        except Exception:
            log.exception("an error in mending another one; please report it")
            return 0
        return count

    def _dismiss(self, peer: int, reason: str, touched: set[int]) -> None:
        """End the connection to a peer. Messages of it that wait in the inbox are dropped."""
        self._dismissed.add(peer)
        link = self._links.get(peer)
        self._write([(peer, Goodbye(reason))], touched)
        if link is not None and not isinstance(link, MessageLink):
            self._end_all(touched)  # the worker inside this process cannot join again

    def _end_all(self, touched: set[int]) -> None:
        """Tell every peer that nothing more comes, and end: the state cannot be relied on."""
        reason = "an error inside the scheduler, which its log has, has ended it"
        self._inbox.clear()
        self._dismissed.update(self._links)
        self._write([(peer, Goodbye(reason)) for peer in self._links], touched)
        self.stopped.set()

    def _write(self, outbox: Outbox, touched: set[int]) -> None:
        for peer, message in outbox:
            if type(message) is Notice:
                log.log(logging.INFO if peer == STORY else logging.WARNING, "%s", message.text)
            link = self._links.get(peer)
            if link is None:
                continue
            if self._tells_all:
                log.debug("%s is sent %s", self._name(peer), type(message).__name__)
            try:
                link.send(message)
            except Exception as error:  # noqa: BLE001 - the message is over the limits, or cannot be encoded
                log.warning("%s cannot be sent a %s: %s", self._name(peer), type(message).__name__, error)
                self._inbox.append(Unsent(peer, message, f"{error}"[:MAX_REASON]))
                continue
            if type(message) is Goodbye:
                self._goodbyes[peer] = f"it was told goodbye, as {message.reason}"
                link.close()
            touched.add(peer)
            if peer in self._lagging and isinstance(link, MessageLink) and link.waiting > MOST_WAITING:
                link.abort(OSError(f"it does not read: {link.waiting} bytes wait for it"))

    def _flush(self, touched: set[int]) -> None:
        for peer in touched:
            link = self._links.get(peer)
            if link is not None:
                link.flush()
        touched.clear()

    def _tick(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        limit = self.core.heartbeat_timeout
        for link in [link for link in self._enduring if link.is_dead(limit)]:
            link.abort(OSError(f"its machine has not answered for {count(limit, 'second')}"))
        if self._credentials.renew():
            log.warning("the access file has a new secret: all connections end, and who has it may come back")
            for link in [
                *self._strangers.all(),
                *(link for link in self._links.values() if isinstance(link, MessageLink)),
            ]:
                link.abort()
        self._refuse_what_is_too_much()
        self.post(Tick(self._heard()))
        self._beat()

    def _refuse_what_is_too_much(self) -> None:
        """End the connections of clients whose messages under way have no room beside what is kept, the largest first.

        A message is for the core only when it is complete: until then it is in no account there.
        """
        coming = {
            peer: link.receiving
            for peer, link in self._links.items()
            if peer in self.core.clients and isinstance(link, MessageLink) and link.receiving
        }
        for peer, reason in self.core.quota.crowded_out(coming).items():
            log.warning("closing the connection to %s: %s", self._name(peer), reason)
            self._dismiss(peer, reason, set())

    def _heard(self) -> set[int]:
        """The peers from which bytes have come since the last call, be it a part of a message."""
        before = self._reads
        self._reads = {peer: link.reads for peer, link in self._links.items() if isinstance(link, MessageLink)}
        return {peer for peer, reads in self._reads.items() if reads != before.get(peer)}

    def _beat(self) -> None:
        """Tell every peer now and then that this process is alive, and no machine on the way is gone.

        Workers that have sent something are told at once that it has come: until then they keep outcomes.
        """
        now = time.monotonic()
        due = now - self._beat_at >= self.core.heartbeat_timeout / BEATS
        self._beat_at = now if due else self._beat_at
        for peer, link in list(self._links.items()):
            received = link.received if isinstance(link, MessageLink) else 0
            if due or (peer in self.core.workers and received != self._acknowledged.get(peer, 0)):
                self._acknowledged[peer] = received
                link.send(Heartbeat(0, received))
                link.flush()

    # --- sockets ---

    def _accept(self, address: Address) -> MessageLink:
        secret, nonce = self._credentials.secret, os.urandom(NONCE_BYTES)
        handshake = Acceptor(secret, version=__version__, nonce=nonce, info=self._info)
        tls = self._credentials.stream(address, accepts=True)
        limit = dead_seconds(self.core.heartbeat_timeout)
        callbacks = self._opened, self._received, self._closed
        return MessageLink(handshake, *callbacks, limit, self._lags, tls, self._strangers)

    def _opened(self, link: MessageLink) -> None:
        handshake = link.handshake
        assert isinstance(handshake, Acceptor) and handshake.peer_info is not None
        if self.stopped.is_set():
            link.close()  # the handshake ended while `close` went through the others
            return
        info = handshake.peer_info
        address = link.peer or printable(f"unix://{info.get('host', '?')}/{info.get('pid', '?')}"[:MAX_ADDRESS])
        peer = self.attach(link, handshake.role, address, info)
        if handshake.role == "client" and link.endure():  # a worker is silent when it stands still, and lost then
            self._enduring.add(link)
        self._peers[id(link)] = peer
        self._names[peer] = f"{handshake.role} {info.get('name', '')}"
        log.info("%s joined from %s", self._names[peer], address)

    def _received(self, link: MessageLink, messages: list[Message]) -> None:
        peer = self._peers.get(id(link))
        if peer is None:
            return
        if self._tells_all:
            log.debug("%s has sent %s", self._name(peer), ", ".join(type(message).__name__ for message in messages))
        self.post(*(Received(peer, message) for message in messages))

    def _lags(self, link: MessageLink, lags: bool) -> None:
        peer = self._peers.get(id(link))
        if peer is None:
            return
        if lags:
            self._lagging.setdefault(peer, [])
            self.post(Lagging(peer, True))
        else:
            self.post(Lagging(peer, False), *self._lagging.pop(peer, ()))

    def _closed(self, link: MessageLink, error: MinidaskError | OSError | None) -> None:
        self._enduring.discard(link)
        peer = self._peers.pop(id(link), None)
        if peer is None:
            if error is not None and not isinstance(error, ConnectionError):  # it may only have asked who is there
                log.warning("turned away a connection from %s: %s", link.peer or "a local process", error)
            return
        del self._links[peer]
        self._acknowledged.pop(peer, None)
        self._dismissed.discard(peer)
        self._lagging.pop(peer, None)
        reason = self._goodbyes.pop(peer, "") or (str(error) if error else "it closed the connection")
        log.info("the connection to %s is gone: %s", self._names.pop(peer), reason)
        # A machine that has reset the connection knows that the program is gone; one that answers nothing does not.
        self.post(Left(peer, reason, isinstance(error, OSError) and not isinstance(error, ConnectionError)))

    def _name(self, peer: int) -> str:
        return self._names.get(peer, f"peer {peer}")
