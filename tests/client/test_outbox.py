"""The client's outbox: whatever interrupts a sender, the bytes arrive once each and in order."""

from __future__ import annotations

import socket
import threading
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidask.client.outbox import Outbox
from minidask.wire.frames import Buffer
from tests.helpers import send_under_alarms


@given(
    sends=st.lists(st.lists(st.binary(max_size=20), max_size=4), max_size=10),
    takes=st.lists(st.one_of(st.none(), st.integers(1, 7)), max_size=60),
)
def test_partial_and_interrupted_writes_tear_and_repeat_nothing(
    sends: list[list[bytes]], takes: list[int | None]
) -> None:
    arrived = bytearray()
    rest = iter(takes)

    def write(piece: Buffer) -> int:
        take = next(rest, 1000)
        if take is None:
            raise KeyboardInterrupt
        arrived.extend(bytes(piece[:take]))
        return min(take, len(piece))

    outbox = Outbox(write)
    for pieces in sends:
        try:
            outbox.send(pieces)
        except KeyboardInterrupt:
            continue
    while True:
        try:
            outbox.send([])
        except KeyboardInterrupt:
            continue
        break
    assert bytes(arrived) == b"".join(piece for pieces in sends for piece in pieces)


def test_ctrl_c_between_any_two_steps_of_a_sender_loses_nothing() -> None:
    """A timer's signal comes thousands of times, wherever the interpreter then happens to be in the outbox."""
    ours, theirs = socket.socketpair()
    arrived = bytearray()

    def receive() -> None:
        while data := theirs.recv(65536):
            arrived.extend(data)

    def strike(number: int, frame: FrameType | None) -> None:
        while frame is not None:  # elsewhere, in this test's own steps, it would only lose count of what was sent
            if frame.f_code is Outbox._drain.__code__:
                raise KeyboardInterrupt
            frame = frame.f_back

    reader = threading.Thread(target=receive)
    reader.start()
    outbox = Outbox(ours.send)
    try:
        sent = send_under_alarms(outbox.send, strike, 500_000)
    finally:
        outbox.send([])
        ours.close()
        reader.join(10)
        theirs.close()
    assert bytes(arrived) == sent


def test_what_garbage_collection_sends_in_the_middle_of_a_message_follows_it() -> None:
    arrived = bytearray()

    def write(piece: Buffer) -> int:
        if not arrived:
            outbox.send([b"other"])  # as a finaliser does that runs just now, in this thread
        arrived.extend(bytes(piece[:1]))
        return 1

    outbox = Outbox(write)
    outbox.send([b"one ", b"message, "])
    assert arrived == b"one message, other"


def test_a_socket_that_is_gone_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    outbox = Outbox(ours.send)
    with ours, pytest.raises(BrokenPipeError):
        outbox.send([b"x"])
