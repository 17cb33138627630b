"""One blocking connection to a program, as the side that connects or the side that listens. Every wait has an end."""

from __future__ import annotations

import collections
import os
import socket
import time
from collections.abc import Iterator
from typing import Any, TypeVar

from minidask._version import __version__
from minidask.errors import MinidaskError
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials
from minidask.net.tls import TLSStream
from minidask.wire.codec import decode, encode
from minidask.wire.frames import AUTHENTICATED, Frame, FrameDecoder
from minidask.wire.handshake import NONCE_BYTES, Acceptor, Initiator
from minidask.wire.messages import Message

JOIN_SECONDS = 20.0

Kind = TypeVar("Kind")


class Silent(Exception):
    """Nothing has come in the time allowed."""


class Peer:
    """A connection whose handshake is to be made by `shake`.

    Attributes:
        sock: the socket.
        peer_info: what the other side says of itself.
        handshake: this side's, once it has begun.
    """

    def __init__(self, sock: socket.socket, tls: TLSStream | None) -> None:
        self.sock = sock
        self.peer_info: dict[str, Any] = {}
        self.handshake: Initiator | Acceptor | None = None
        self._tls = tls
        self._decoder = FrameDecoder()
        self._frames: collections.deque[Frame] = collections.deque()

    @classmethod
    def connect(cls, at: Address, credentials: Credentials, seconds: float = JOIN_SECONDS) -> Peer:
        """Connect to a program that listens, and complete TLS.

        Raises:
            OSError, MinidaskError: nobody listens there, or an end does not accept the other's certificate.
        """
        if at.scheme == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(at.path)
        else:
            sock = socket.create_connection((at.host, at.port), seconds)
        return cls._begun(sock, credentials.stream(at, accepts=False), seconds, connects=True)

    @classmethod
    def accept(cls, listener: socket.socket, credentials: Credentials, seconds: float = JOIN_SECONDS) -> Peer:
        """Wait for a program that connects over TCP, and complete TLS.

        Raises:
            TimeoutError: nobody has come.
            OSError, MinidaskError: an end does not accept the other's certificate.
        """
        listener.settimeout(seconds)
        sock, _ = listener.accept()
        at = Address("tcp", *listener.getsockname()[:2])
        return cls._begun(sock, credentials.stream(at, accepts=True), seconds, connects=False)

    @classmethod
    def _begun(cls, sock: socket.socket, tls: TLSStream | None, seconds: float, *, connects: bool) -> Peer:
        peer = cls(sock, tls)
        try:
            sock.settimeout(seconds)
            if tls is not None and connects:
                sock.sendall(tls.start())
            while tls is not None and not tls.ready:
                try:
                    peer._read(seconds)
                finally:
                    sock.sendall(tls.take())
        except BaseException:
            sock.close()
            raise
        return peer

    # --- the handshake ---

    def shake(self, handshake: Initiator | Acceptor, seconds: float = JOIN_SECONDS) -> None:
        """Make the whole handshake.

        Raises:
            Silent, OSError, MinidaskError: it has failed.
        """
        self.handshake = handshake
        if self._tls is not None:
            handshake.binding = self._tls.binding
        if isinstance(handshake, Initiator):
            self.say_bytes(b"".join(handshake.start()))
        end = time.monotonic() + seconds
        early, self._frames = self._frames, collections.deque()  # it came with the last of TLS
        for frame in early:
            self._take(frame)
        while not handshake.done:
            self._read(end - time.monotonic())
        self.peer_info = handshake.peer_info or {}

    # --- what goes out ---

    def say(self, *messages: Message) -> None:
        """Send messages."""
        self.say_bytes(b"".join(bytes(piece) for message in messages for piece in encode(message)))

    def say_bytes(self, data: bytes) -> None:
        """Send any bytes."""
        if self._tls is None:
            self.sock.sendall(data)
            return
        self._tls.put([data])
        while self._tls.has_clear:
            self.sock.sendall(self._tls.seal())

    # --- what comes in ---

    def _read(self, seconds: float) -> None:
        self.sock.settimeout(max(seconds, 0.001))
        tls = self._tls
        try:
            count = self.sock.recv_into(self._decoder.get_buffer() if tls is None else tls.memory)
        except TimeoutError:
            raise Silent(f"nothing came in {seconds:.1f} seconds") from None
        finally:
            self.sock.settimeout(JOIN_SECONDS)
        if not count:
            raise ConnectionError("the other side closed the connection")
        for clear in (count,) if tls is None else tls.open_into(count, self._decoder.get_buffer):
            for frame in self._decoder.received(clear):
                self._take(frame)

    def _take(self, frame: Frame) -> None:
        """Answer a frame of the handshake at once: what follows it in the same bytes has other limits."""
        handshake = self.handshake
        if handshake is None or handshake.done:
            self._frames.append(frame)
            return
        self.say_bytes(b"".join(handshake.receive(frame)))
        if handshake.done:
            self._decoder.limits = AUTHENTICATED

    def next_frame(self, seconds: float = JOIN_SECONDS) -> Frame:
        """Wait for a frame.

        Raises:
            Silent: none has come.
            ConnectionError: the other side closed the connection.
            MinidaskError: what came is no frame.
        """
        end = time.monotonic() + seconds
        while not self._frames:
            self._read(end - time.monotonic())
            if not self._frames and time.monotonic() > end:
                raise Silent(f"no whole frame came in {seconds:.1f} seconds")
        return self._frames.popleft()

    def received(self, seconds: float = 1.0) -> list[Frame]:
        """Read once. Returns the frames that are complete by then: as `next_frame`."""
        self._read(seconds)
        frames = list(self._frames)
        self._frames.clear()
        return frames

    def next(self, seconds: float = JOIN_SECONDS) -> Message:
        """Wait for a message: as `next_frame`."""
        return decode(self.next_frame(seconds))

    def messages(self) -> Iterator[Message]:
        """What comes, one after the other, until the other side closes the connection."""
        while True:
            try:
                yield self.next()
            except ConnectionError:
                return

    def wait_for(self, kind: type[Kind], seconds: float = JOIN_SECONDS) -> Kind:
        """Wait for a message of a kind, and drop those before it: as `next_frame`."""
        end = time.monotonic() + seconds
        while True:
            message = self.next(end - time.monotonic())
            if isinstance(message, kind):
                return message

    def is_closed(self, seconds: float) -> bool:
        """Whether the other side closes the connection in this time, whatever it says before."""
        end = time.monotonic() + seconds
        try:
            while True:
                self.next_frame(end - time.monotonic())
        except Silent:
            return False
        except (OSError, MinidaskError):
            return True

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()


def initiator(credentials: Credentials, role: str, info: dict[str, Any]) -> Initiator:
    """This side's part of a handshake, of the side that connects."""
    nonce = os.urandom(NONCE_BYTES)
    return Initiator(credentials.secret, role=role, version=__version__, nonce=nonce, info=info)


def acceptor(credentials: Credentials, info: dict[str, Any]) -> Acceptor:
    """This side's part of a handshake, of the side that listens."""
    return Acceptor(credentials.secret, version=__version__, nonce=os.urandom(NONCE_BYTES), info=info)
