"""The handshake: both ends prove that they hold the secret, and any other proof is refused."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import msgpack
import pytest
from hypothesis import given

from minidask.errors import AuthenticationError, ProtocolError, VersionMismatch
from minidask.wire import handshake as hs
from minidask.wire.frames import Frame, FrameDecoder
from tests.wire.bytes_in import feed, joined

SECRET = b"s" * 32


def pair(initiator_secret: bytes = SECRET, acceptor_secret: bytes = SECRET) -> tuple[hs.Initiator, hs.Acceptor]:
    initiator = hs.Initiator(initiator_secret, role="worker", version="1", nonce=b"i" * 32, info={"slots": 2})
    acceptor = hs.Acceptor(acceptor_secret, version="2", nonce=b"a" * 32, info={"version": "2"})
    return initiator, acceptor


def only_frame(pieces: list[Any]) -> Frame:
    (frame,) = feed(FrameDecoder(), joined(pieces))
    return frame


def test_both_sides_that_hold_the_secret_come_to_terms() -> None:
    initiator, acceptor = pair()
    challenge = acceptor.receive(only_frame(initiator.start()))
    welcome = acceptor.receive(only_frame(initiator.receive(only_frame(challenge))))
    assert initiator.receive(only_frame(welcome)) == []
    assert initiator.done
    assert acceptor.done
    assert (acceptor.role, acceptor.peer_info, initiator.peer_info) == ("worker", {"slots": 2}, {"version": "2"})


def test_the_initiator_notices_an_acceptor_without_the_secret() -> None:
    initiator, acceptor = pair(acceptor_secret=b"x" * 32)
    challenge = acceptor.receive(only_frame(initiator.start()))
    with pytest.raises(AuthenticationError, match="access file"):
        initiator.receive(only_frame(challenge))
    assert not initiator.done


def test_the_acceptor_notices_an_initiator_without_the_secret() -> None:
    initiator, acceptor = pair()
    challenge = msgpack.unpackb(only_frame(acceptor.receive(only_frame(initiator.start()))).header)
    for proof in (b"", b"p" * 32, challenge[4]):  # the last: the acceptor's own, reflected
        with pytest.raises(AuthenticationError):
            acceptor.receive(Frame(msgpack.packb(["proof", proof, b"info"]), []))
    assert not acceptor.done


@given(position=st.integers(0, 200), bit=st.integers(0, 7))
def test_a_tampered_handshake_fails(position: int, bit: int) -> None:
    initiator, acceptor = pair()
    challenge = acceptor.receive(only_frame(initiator.start()))
    proof = bytearray(only_frame(initiator.receive(only_frame(challenge))).header)
    proof[position % len(proof)] ^= 1 << bit
    with pytest.raises((AuthenticationError, ProtocolError)):
        acceptor.receive(Frame(bytes(proof), []))
    assert not acceptor.done


def test_a_replayed_proof_is_worth_nothing_against_a_fresh_nonce() -> None:
    initiator, acceptor = pair()
    challenge = acceptor.receive(only_frame(initiator.start()))
    proof = only_frame(initiator.receive(only_frame(challenge)))
    again = hs.Acceptor(SECRET, version="2", nonce=b"b" * 32, info={})
    again.receive(only_frame(initiator.start()))
    with pytest.raises(AuthenticationError):
        again.receive(proof)


def test_another_protocol_version_is_named_on_both_sides() -> None:
    hello = msgpack.packb(["hello", hs.PROTOCOL + 1, "9.9", "client", b"n" * 32, "and what the future adds"])
    _, acceptor = pair()
    with pytest.raises(VersionMismatch, match=r"9\.9") as caught:
        acceptor.receive(Frame(hello, []))
    initiator, _ = pair()
    with pytest.raises(VersionMismatch, match=r"9\.9"):
        initiator.receive(only_frame(hs.refusal(caught.value)))


@given(header=st.binary(max_size=80))
def test_a_stranger_can_send_nothing_worse_than_a_protocol_error(header: bytes) -> None:
    _, acceptor = pair()
    with pytest.raises((ProtocolError, AuthenticationError)):
        acceptor.receive(Frame(header, []))
