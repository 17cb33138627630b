"""A peer that holds the cluster's secret, and says whatever a test wants it to say."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

from minidask._version import __version__
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials
from minidask.wire.codec import decode, encode
from minidask.wire.frames import AUTHENTICATED, FrameDecoder
from minidask.wire.handshake import NONCE_BYTES, Initiator
from minidask.wire.messages import Message


class Hostile:
    """An authenticated connection of the role "client", "worker" or "peer".

    Args:
        info: what it says of itself.
        access_file: None for the usual places.
    """

    def __init__(self, address: str, role: str, info: dict[str, Any], access_file: str | None = None) -> None:
        at = Address.parse(address)
        if at.scheme == "unix":
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(at.path)
        else:
            self.sock = socket.create_connection((at.host, at.port))
        try:
            self._join(at, role, info, access_file)
        except BaseException:
            self.sock.close()
            raise

    def _join(self, at: Address, role: str, info: dict[str, Any], access_file: str | None) -> None:
        self.sock.settimeout(20)
        self._decoder = FrameDecoder()
        self._frames: list[Any] = []
        credentials = Credentials.of(at, access_file)
        self._tls = credentials.stream(at, accepts=False)
        nonce = os.urandom(NONCE_BYTES)
        handshake = Initiator(credentials.secret, role=role, version=__version__, nonce=nonce, info=info)
        if self._tls is not None:
            self.sock.sendall(self._tls.start())
            while not self._tls.ready:
                assert not [*self._read()]
                self.sock.sendall(self._tls.take())
            handshake.binding = self._tls.binding
        self.say_bytes(b"".join(handshake.start()))
        while not handshake.done:
            for frame in self._read():
                if handshake.done:
                    self._frames.append(frame)
                    continue
                self.say_bytes(b"".join(handshake.receive(frame)))
                if handshake.done:
                    self._decoder.limits = AUTHENTICATED
        self.peer_info = handshake.peer_info

    def _read(self) -> Iterator[Any]:
        tls = self._tls
        count = self.sock.recv_into(self._decoder.get_buffer() if tls is None else tls.memory)
        if not count:
            raise ConnectionError("the other side closed the connection")
        for clear in (count,) if tls is None else tls.open_into(count, self._decoder.get_buffer):
            yield from self._decoder.received(clear)

    def say(self, *messages: Message) -> None:
        self.say_bytes(b"".join(bytes(piece) for message in messages for piece in encode(message)))

    def say_bytes(self, data: bytes) -> None:
        if self._tls is None:
            self.sock.sendall(data)
            return
        self._tls.put([data])
        while self._tls.has_clear:
            self.sock.sendall(self._tls.seal())

    def messages(self) -> Iterator[Message]:
        """What comes, one after the other, until the other side closes the connection."""
        while True:
            frames, self._frames = self._frames, []
            for frame in frames:
                yield decode(frame)
            try:
                self._frames += self._read()
            except ConnectionError:
                return

    def wait_for(self, kind: type) -> Any:
        return next(message for message in self.messages() if isinstance(message, kind))

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Hostile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
