"""Frames, messages and the handshake: any split of the bytes decodes the same, anything malformed is refused."""

from __future__ import annotations

import contextlib
import re
import types
import typing
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgpack
import pytest
from hypothesis import given, settings

from minidask.errors import AuthenticationError, ProtocolError, VersionMismatch
from minidask.wire import handshake as hs
from minidask.wire import messages as m
from minidask.wire.codec import decode, encode
from minidask.wire.frames import (
    AUTHENTICATED,
    BEFORE_AUTHENTICATION,
    PREFIX,
    SHARED_BYTES,
    Frame,
    FrameDecoder,
    NotAFrame,
    encode_frame,
)


def feed(decoder: FrameDecoder, data: bytes, sizes: list[int] | None = None) -> list[Frame]:
    """Receive `data` in pieces of these sizes, the last one repeated."""
    frames, position, turn = [], 0, 0
    sizes = sizes or [len(data)]
    while position < len(data):
        target = decoder.get_buffer()
        count = min(max(1, sizes[min(turn, len(sizes) - 1)]), len(target), len(data) - position)
        target[:count] = data[position : position + count]
        frames += decoder.received(count)
        position += count
        turn += 1
    return frames


def joined(pieces: list[Any]) -> bytes:
    return b"".join(bytes(piece) for piece in pieces)


buffers = st.lists(st.binary(max_size=200) | st.integers(0, 3 * SHARED_BYTES // 2).map(bytes), max_size=4)
frames = st.lists(st.tuples(st.binary(max_size=300), buffers), min_size=1, max_size=6)


@given(frames=frames, sizes=st.lists(st.integers(1, 3 * SHARED_BYTES), min_size=1, max_size=8))
@settings(deadline=None, max_examples=60)
def test_any_split_of_the_bytes_decodes_the_same(frames: list[tuple[bytes, list[bytes]]], sizes: list[int]) -> None:
    data = b"".join(joined(encode_frame(header, parts)) for header, parts in frames)
    if len(sizes) > 1 or sizes[0] > 500:
        sizes[-1] = max(sizes[-1], 1 + len(data) // 2000)  # the last size goes on: not byte by byte through megabytes
    else:
        sizes[-1] = 1 + len(data) // 2000
    decoded = feed(FrameDecoder(AUTHENTICATED), data, sizes)
    assert [(frame.header, [bytes(part) for part in frame.buffers]) for frame in decoded] == frames


@given(data=st.binary(min_size=1, max_size=200))
def test_arbitrary_bytes_never_do_worse_than_a_protocol_error(data: bytes) -> None:
    for start in (b"", b"mD", PREFIX.pack(b"mD", 1, 5), PREFIX.pack(b"mD", 0, len(data))):
        decoder = FrameDecoder(AUTHENTICATED)
        try:
            for frame in feed(decoder, start + data):
                decode(frame)
        except ProtocolError:
            pass


def test_received_buffers_are_writable_and_their_own() -> None:
    small, large = b"x" * 10, b"y" * (2 * SHARED_BYTES)
    data = joined(encode_frame(b"h", [small, large])) + joined(encode_frame(b"h", [small]))
    first, second = feed(FrameDecoder(AUTHENTICATED), data, [1000])
    for frame in (first, second):
        for buffer in frame.buffers:
            memoryview(buffer)[0] = 0
    assert bytes(second.buffers[0]) == b"\0" + small[1:]


def test_large_buffers_are_not_copied_by_encoding() -> None:
    large = bytearray(100_000)
    assert any(piece is large for piece in encode_frame(b"header", [b"small", large, b"small"]))


@pytest.mark.parametrize(
    ("header", "count", "sizes"),
    [(5000, 0, []), (10, 1, [1]), (10, 5000, [])],
)
def test_limits_hold_before_anything_is_allocated(header: int, count: int, sizes: list[int]) -> None:
    data = PREFIX.pack(b"mD", count, header) + b"".join(size.to_bytes(8, "little") for size in sizes)
    with pytest.raises(ProtocolError, match="over the limit"):
        feed(FrameDecoder(BEFORE_AUTHENTICATION), data)


def test_a_huge_announced_buffer_is_refused() -> None:
    data = PREFIX.pack(b"mD", 1, 1) + (1 << 60).to_bytes(8, "little")
    with pytest.raises(ProtocolError, match="over the limit"):
        feed(FrameDecoder(AUTHENTICATED), data)


@pytest.mark.parametrize(
    ("header", "buffers"),
    [(b"header", [b""] * (AUTHENTICATED.buffers + 1)), (bytes(AUTHENTICATED.header + 1), [])],
)
def test_the_sender_is_told_of_a_frame_over_the_limits(header: bytes, buffers: list[bytes]) -> None:
    with pytest.raises(ProtocolError, match="over the limit"):
        encode_frame(header, buffers)


@pytest.mark.parametrize("start", [b"G", b"GET / HTTP/1.1\r\n", b"\0\0\0\0\0\0\0\0", b"mX123456"])
def test_another_protocol_is_noticed_at_its_first_bytes(start: bytes) -> None:
    with pytest.raises(NotAFrame):
        feed(FrameDecoder(), start)


def test_raised_limits_apply_to_the_next_frame_of_the_same_read() -> None:
    decoder = FrameDecoder(BEFORE_AUTHENTICATION)
    data = joined(encode_frame(b"first")) + joined(encode_frame(b"second", [b"buffer"]))
    decoder.get_buffer()[: len(data)] = data
    seen = []
    for frame in decoder.received(len(data)):
        seen.append(frame.header)
        decoder.limits = AUTHENTICATED
    assert seen == [b"first", b"second"]


# --- messages ---

_PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5)


def _values(annotation: Any) -> st.SearchStrategy[Any]:
    """Values that a field with this annotation may have."""
    if annotation == m.Payload:
        return st.lists(st.binary(max_size=20).map(bytearray), max_size=3)
    if isinstance(annotation, types.UnionType):
        return st.one_of(*(_values(part) for part in typing.get_args(annotation)))
    origin = typing.get_origin(annotation)
    if origin is list:
        return st.lists(_values(typing.get_args(annotation)[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(st.text(max_size=5), _PLAIN, max_size=3)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(-(2**63), 2**64 - 1),
        str: st.text(max_size=10),
        float: st.floats(allow_nan=False),
        bytes: st.binary(max_size=16),
        bool: st.booleans(),
        type(None): st.none(),
        Any: _PLAIN,
    }
    return simple[annotation]


def _messages(kind: Any) -> st.SearchStrategy[m.Message]:
    hints = typing.get_type_hints(kind)
    return st.tuples(*(_values(hints[name]) for name in kind._fields)).map(kind._make)


any_message = st.one_of(*(_messages(kind) for kind in m.CODES))


@given(message=any_message)
def test_every_message_round_trips(message: m.Message) -> None:
    (frame,) = feed(FrameDecoder(AUTHENTICATED), joined(encode(message)))
    decoded = decode(frame)
    assert type(decoded) is type(message)
    assert decoded == message


@given(message=any_message, data=st.data())
def test_a_field_of_another_type_is_refused(message: m.Message, data: st.DataObject) -> None:
    (frame,) = feed(FrameDecoder(AUTHENTICATED), joined(encode(message)))
    fields = msgpack.unpackb(frame.header)
    position = data.draw(st.integers(0, len(fields)))
    if position == len(fields):
        fields.append(0)  # one too many
    else:
        fields[position] = {"not": b"expected"} if type(fields[position]) is not dict else []
    with pytest.raises(ProtocolError):
        decode(Frame(msgpack.packb(fields), frame.buffers))


@given(header=st.binary(max_size=60))
def test_an_arbitrary_header_is_a_message_or_a_protocol_error(header: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode(Frame(header, []))


@pytest.mark.parametrize("elements", [[1, "x"], ["x"], [True], [None]])
def test_lists_are_checked_to_the_last_element(elements: list[Any]) -> None:
    code = m.CODES.index(m.Cancel)
    with pytest.raises(ProtocolError, match="elements"):
        decode(Frame(msgpack.packb([code, elements, False]), []))


def test_buffers_with_a_message_that_has_none_are_refused() -> None:
    code = m.CODES.index(m.Ask)
    with pytest.raises(ProtocolError, match="no buffers"):
        decode(Frame(msgpack.packb([code, 1]), [b"x"]))


# --- the handshake ---

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


# --- the specification ---


def test_the_specification_has_every_message_with_its_code_and_fields() -> None:
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\w+)( ✚)? \|([^|]*)\|", text, re.MULTILINE)
    told = {int(code): (name, bool(payload), fields.strip()) for code, name, payload, fields in rows}
    told[17] = ("SlotReady", False, "")
    for code, kind in enumerate(m.CODES):
        name, payload, fields = told[code]
        names = [field.split()[0] for field in re.sub(r"\[[^]]*\]+", "", fields).split(",") if field.strip()]
        assert name == kind.__name__
        assert names + ["payload"] * payload == list(kind._fields)
