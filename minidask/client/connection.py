"""The client's socket: any thread writes its messages, and one thread at a time reads.

    received bytes ─► decoder's memory ─► messages               a Unix socket
    received bytes ─► TLS ─► decoder's memory ─► messages        TCP

The socket is a blocking one. A thread that submits writes itself, without a switch to another thread. `outbox.py` says
how a write survives Ctrl-C, and `reading.py` which thread reads.

A connection that is lost may be replaced (`again`, `replace_by`). In between it is `away`, and messages are dropped:
`ClientCore.resume` tells the next scheduler all that is still wanted.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from minidask._version import __version__
from minidask.client.outbox import Outbox
from minidask.errors import AuthenticationError, ProtocolError, SchedulerLost
from minidask.host.signals import pass_on, suppress
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials
from minidask.net.sockets import check_user, dead_seconds, keep_alive, no_scheduler
from minidask.net.tls_options import TLSChoice
from minidask.wire.codec import decode, encode
from minidask.wire.fields import MAX_KEY, MAX_KEYS
from minidask.wire.frames import AUTHENTICATED, FrameDecoder, NotAFrame
from minidask.wire.handshake import NONCE_BYTES, Initiator
from minidask.wire.messages import Message, WorkerChanged, Workers


class Loss(NamedTuple):
    """Why a connection has ended; `final` if another one would end in the same way."""

    why: str
    final: bool = False


class Connection:
    """An authenticated connection to a scheduler.

    Args:
        address: of the scheduler.
        access_file: the file with the shared secret; None for the usual places.
        tls: how a TCP connection is encrypted; None: as the access file says.
        info: describes this client to the scheduler.
        timeout: seconds to connect and shake hands in.

    Raises:
        SchedulerLost: nobody answers at the address.
        AuthenticationError, VersionMismatch, ProtocolError: somebody answers, but not as it should.
    """

    def __init__(
        self,
        address: Address,
        access_file: str | Path | None,
        tls: TLSChoice,
        info: dict[str, Any],
        timeout: float,
    ) -> None:
        self.address = address
        self.away = False
        """Whether it is lost, and another one is being made; for holders of the client's lock."""
        self._access_file = access_file
        self._choice = tls
        self._info = info
        if not info.get("nested"):
            keys = [_fresh_key(), *info.get("keys", [])][:MAX_KEYS]
            self._info = {**info, "keys": keys, "uid": info.get("uid") or os.urandom(16).hex()}
        self._decoder = FrameDecoder()
        self.peer_info: dict[str, Any] | None = None
        """The scheduler's description of itself, from the handshake."""
        self.early: list[Message] = []  # what came in one piece with the end of the handshake
        self._error = ""  # why it has ended, if this side knows
        self._sock = _connect(address, timeout)
        try:
            check_user(self._sock)
            credentials = Credentials.of(address, access_file, tls)  # only now: where nobody listens, no secret helps
            self.is_plain = credentials.are_plain(address)
            self._tls = credentials.stream(address, accepts=False)
            self._outbox = Outbox(self._sock.send, self._tls)
            self._encrypt()
            self._shake_hands(credentials.secret, self._info)
        except TimeoutError as error:
            self._sock.close()
            pass_on(error)
            raise _too_late(address, timeout) from error
        except OSError as error:
            self._sock.close()
            pass_on(error)
            raise no_scheduler(address, error) from error
        except BaseException:
            self._sock.close()
            raise
        self._sock.settimeout(None)
        self._fd = self._sock.fileno()
        if self.heartbeat_timeout is not None:
            keep_alive(self._sock, dead_seconds(self.heartbeat_timeout))

    def again(self, timeout: float) -> Connection:
        """Return a new connection to the same address, by the same means. Raises what a new one does."""
        return Connection(self.address, self._access_file, self._choice, self._info, timeout)

    def ask(self, timeout: float) -> None:
        """Ask on another connection whether the scheduler answers. The handshake is begun for that, not completed.

        The kernel connects to a process that hangs, too.

        Raises:
            SchedulerLost: it does not.
        """
        with _connect(self.address, timeout) as sock:
            hello = Credentials.of(self.address, self._access_file, self._choice).hello(self.address, "client")
            try:
                sock.sendall(hello)
                if not sock.recv(1):
                    raise SchedulerLost(f"what listens at {self.address} closed the connection")
            except TimeoutError as error:
                pass_on(error)
                raise _too_late(self.address, timeout) from error
            except OSError as error:
                pass_on(error)
                raise no_scheduler(self.address, error) from error

    @property
    def heartbeat_timeout(self) -> float | None:
        """After how many seconds of silence the scheduler is looked for; None if it does not say."""
        seconds = (self.peer_info or {}).get("heartbeat_timeout")
        return float(seconds) if isinstance(seconds, int | float) and seconds > 0 else None

    def wait_for(self, names: set[str], seconds: float) -> None:
        """Wait until workers of these names have joined, so many seconds at most. All messages are kept as early ones.

        Raises:
            SchedulerLost: the connection has ended.
        """
        end, names = time.monotonic() + seconds, set(names)
        while True:
            for message in self.early:
                if isinstance(message, Workers):
                    names.difference_update(str(name) for _, name, slots, _ in message.workers if slots)
                elif isinstance(message, WorkerChanged) and message.slots:
                    names.discard(message.name)
            left = end - time.monotonic()
            if not names or left <= 0 or not self._readable_within(left):
                return
            loss = self.receive(self.early.append)
            if loss is not None:
                raise SchedulerLost(loss.why)

    def _readable_within(self, seconds: float) -> bool:
        try:
            self._sock.settimeout(seconds)
            self._sock.recv(1, socket.MSG_PEEK)
        except TimeoutError as error:
            pass_on(error)
            return False
        except OSError as error:
            pass_on(error)  # `receive` tells what it is
        finally:
            self._sock.settimeout(None)
        return True

    def replace_by(self, other: Connection) -> None:
        """Become another connection, as this one is lost; its early messages too. For holders of the client's lock."""
        self.close()
        self.peer_info, self.early, self._decoder = other.peer_info, other.early, other._decoder
        self._sock, self._outbox, self._fd, self._tls = other._sock, other._outbox, other._fd, other._tls
        self._info, self._error = other._info, ""
        self.away = False

    def _encrypt(self) -> None:
        """Shake the hands of TLS, if there is one."""
        if self._tls is None:
            return
        self._sock.sendall(self._tls.start())
        while not self._tls.ready:
            try:
                for _ in self._arrivals():
                    raise ProtocolError(f"what listens at {self.address} is no minidask scheduler: it speaks first")
            finally:
                self._sock.sendall(self._tls.take())  # also why this side refuses the other one

    def _shake_hands(self, secret: bytes, info: dict[str, Any]) -> None:
        handshake = Initiator(secret, role="client", version=__version__, nonce=os.urandom(NONCE_BYTES), info=info)
        handshake.binding = self._tls.binding if self._tls is not None else b""
        self._outbox.send(handshake.start())
        while not handshake.done:
            try:
                for count in self._arrivals():
                    for frame in self._decoder.received(count):
                        if handshake.done:
                            self.early.append(decode(frame))
                            continue
                        self._outbox.send(handshake.receive(frame))
                        if handshake.done:
                            self._decoder.limits = AUTHENTICATED
            except NotAFrame as error:
                raise ProtocolError(f"what listens at {self.address} is no minidask scheduler: {error}") from error
        self.peer_info = handshake.peer_info

    def _arrivals(self) -> Iterator[int]:
        """Wait for bytes. Yields how many are in the decoder's memory, until it has had all that have come.

        Raises:
            SchedulerLost: the connection has ended.
            OSError: it was cut off.
        """
        tls = self._tls
        count = self._sock.recv_into(self._decoder.get_buffer() if tls is None else tls.memory)
        if not count:
            when = "or died" if self.peer_info is not None else "during the handshake"
            raise SchedulerLost(self._error or f"what listens there closed the connection, {when}")
        if tls is None:
            yield count
        else:
            yield from tls.open_into(count, self._decoder.get_buffer)

    @property
    def scheduler_id(self) -> str:
        """An id that no other scheduler has; one scheduler may have several addresses."""
        return str((self.peer_info or {}).get("id", ""))

    def send(self, messages: Iterable[Message]) -> None:
        """Write messages, in one piece.

        Raises:
            ProtocolError: a message is over the wire's limits; nothing was sent.
        """
        self.post(messages)
        self.flush()

    def post(self, messages: Iterable[Message]) -> None:
        """Queue messages for the next `flush` by any thread, in the order of the calls. It does not wait.

        While the connection is `away` they are dropped.

        Raises:
            ProtocolError: a message is over the wire's limits; none of these is posted.
        """
        pieces = [piece for message in messages for piece in encode(message)]
        if not self.away:
            self._outbox.put(pieces)

    def flush(self) -> None:
        """Write all messages that were posted and that no other thread has written.

        If the connection is gone, the thread that reads notices, and tells whoever waits for anything.
        """
        outbox, sock = self._outbox, self._sock
        try:
            outbox.flush()
        except OSError as error:
            pass_on(error)
            self._error = str(error)
            _shut(sock)

    def receive(self, on_message: Callable[[Message], None]) -> Loss | None:
        """Wait for bytes, and call `on_message` with each message in them.

        Returns:
            None; or, if the connection has ended, why.
        """
        try:
            for count in self._arrivals():
                for frame in self._decoder.received(count):
                    on_message(decode(frame))
            self._outbox.flush_what_was_left()
        except (ProtocolError, AuthenticationError) as error:
            return Loss(str(error), final=True)
        except OSError as error:
            return Loss(str(error) or type(error).__name__)
        return None

    def fileno(self) -> int:
        """The socket's file descriptor."""
        return self._fd

    def stop_reading(self, why: str) -> None:
        """Have the thread that reads take this connection for lost, for this reason. The scheduler does not notice."""
        self._error = why
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def shut(self) -> None:
        """End the connection; the thread that reads it notices."""
        _shut(self._sock)

    def close(self) -> None:
        """End the connection and close the socket; for the thread that has read the connection's end."""
        self.shut()
        self._sock.close()
        self._fd = -1

    def abandon(self) -> None:
        """In a forked child: close the descriptor, and leave the parent's connection as it is."""
        self._sock.close()


def _too_late(address: Address, timeout: float) -> SchedulerLost:
    return SchedulerLost(f"what listens at {address} did not answer within {timeout:g} seconds")


def _fresh_key() -> int:
    """A number that no other client has, most likely; its tasks are named by it: see `scheduler/holds.py`."""
    return int.from_bytes(os.urandom(3)) % MAX_KEY + 1


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _connect(address: Address, timeout: float) -> socket.socket:
    sock = None
    try:
        if address.scheme == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(timeout)
            sock.connect(address.path)
        else:
            sock = socket.create_connection((address.host, address.port), timeout)
        keep_alive(sock)
    except BaseException as error:
        if sock is not None:
            sock.close()
        if not isinstance(error, OSError):
            raise
        pass_on(error)
        raise no_scheduler(address, error) from error
    return sock
