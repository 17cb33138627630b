"""A connection's bytes and messages, with asyncio's transport played by the test."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from minidask.net.sockets import keep_alive
from minidask.net.transport import MessageLink
from minidask.wire import messages as m
from minidask.wire.codec import decode, encode
from minidask.wire.frames import AUTHENTICATED, SHARED_BYTES, STRANGERS_BYTES, Frame, FrameDecoder, encode_frame
from minidask.wire.handshake import Acceptor, Initiator
from tests.wire.bytes_in import feed

SECRET = b"s" * 32


class Transport:
    """What asyncio gives a protocol, with the bytes written to it."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False

    def writelines(self, pieces: list[Any]) -> None:
        self.written += b"".join(pieces)

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str) -> Any:
        return None


def frames(data: bytes) -> list[Frame]:
    return feed(FrameDecoder(AUTHENTICATED), data)


def give(link: MessageLink, data: bytes) -> None:
    """Have the link receive these bytes, in one read."""
    buffer = link.get_buffer(-1)
    buffer[: len(data)] = data
    link.buffer_updated(len(data))


def opened(came: list[m.Message]) -> tuple[MessageLink, Transport]:
    """A scheduler's link to a client that has shaken hands."""
    initiator = Initiator(SECRET, role="client", version="1", nonce=b"n" * 32, info={})
    acceptor = Acceptor(SECRET, version="1", nonce=b"m" * 32, info={})
    ended: list[Any] = []
    link = MessageLink(
        acceptor, lambda _: None, lambda _, messages: came.extend(messages), lambda *end: ended.append(end)
    )
    transport = Transport()
    link._transport = transport  # type: ignore[assignment]
    give(link, b"".join(initiator.start()))
    (challenge,) = frames(transport.written)
    give(link, b"".join(initiator.receive(challenge)))
    transport.written = b""
    return link, transport


@pytest.mark.parametrize("bad", [b"no frame", b"".join(encode_frame(b"\xff")), b"".join(encode_frame(b"\x91\x63"))])
def test_a_broken_protocol_is_answered_with_goodbye_and_the_reason(bad: bytes) -> None:
    """What came before the mistake, in the same read, is still taken."""
    came: list[m.Message] = []
    link, transport = opened(came)
    give(link, b"".join(encode(m.Ask(7))) + bad)
    assert came == [m.Ask(7)]
    (frame,) = frames(transport.written)
    goodbye = decode(frame)
    assert isinstance(goodbye, m.Goodbye) and goodbye.reason.startswith("protocol error: ")
    assert transport.closing


def test_a_stranger_gets_a_small_buffer_and_a_known_peer_a_large_one() -> None:
    stranger = FrameDecoder()
    assert len(stranger.get_buffer()) == STRANGERS_BYTES <= 8192
    link, _ = opened([])
    assert len(link.get_buffer(-1)) == SHARED_BYTES


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has this option")
@pytest.mark.parametrize(("seconds", "expected"), [(30, (30_000, 10, 5, 4)), (6, (6_000, 2, 1, 4))])
def test_the_kernel_tells_of_a_dead_peer_in_time(seconds: int, expected: tuple[int, ...]) -> None:
    options = [socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
    with socket.socket() as sock:
        keep_alive(sock, seconds)
        assert tuple(sock.getsockopt(socket.IPPROTO_TCP, option) for option in options) == expected


class Kernel:
    """A socket whose kernel tells what a test says."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.options: dict[int, int] = {}
        self.retransmits = self.probes = self.last_answer = 0

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options[option] = value

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return struct.pack("=BBBB4x12II", 1, 0, self.retransmits, self.probes, *range(12), self.last_answer)


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="only Linux tells that")
def test_a_peer_that_reads_nothing_is_kept_and_one_that_answers_nothing_is_dead() -> None:
    link, transport = opened([])
    kernel = Kernel()
    transport.get_extra_info = lambda name: kernel  # type: ignore[method-assign, assignment]
    assert link.endure()
    assert kernel.options == {socket.TCP_USER_TIMEOUT: 0}

    def looks(*seconds: float) -> list[bool]:
        found = []
        for last_answer in seconds:
            kernel.last_answer = int(1000 * last_answer)
            found.append(link.is_dead(30))
        return found

    assert looks(100, 101, 102) == [False] * 3, "nothing was sent that it could answer"
    kernel.probes = 1
    assert looks(58, 59, 1, 31, 32, 2, 29) == [False] * 7, "it was asked whether it has room, and answers"
    assert looks(31, 32, 33, 34) == [False, False, True, True]
    kernel.probes, kernel.retransmits = 0, 3
    assert looks(1, 31, 32, 33) == [False, False, False, True]


def test_over_a_unix_socket_nobody_has_to_be_asked() -> None:
    link, _ = opened([])
    assert not link.endure()
