"""Messages become bytes and come back the same; a malformed message is refused."""

from __future__ import annotations

import contextlib
from typing import Any

import hypothesis.strategies as st
import msgpack
import pytest
from hypothesis import given

from minidask.errors import ProtocolError
from minidask.wire import messages as m
from minidask.wire.codec import decode, encode
from minidask.wire.frames import AUTHENTICATED, PREFIX, Frame, FrameDecoder
from minidask.wire.packing import pack, unpack
from tests.wire.any_message import any_message, beyond
from tests.wire.bytes_in import feed, joined


@given(message=any_message)
def test_every_message_round_trips(message: m.Message) -> None:
    (frame,) = feed(FrameDecoder(AUTHENTICATED), joined(encode(message)))
    decoded = decode(frame)
    assert type(decoded) is type(message)
    assert decoded == message


@given(message=any_message, data=st.data())
def test_a_field_of_another_type_is_refused(message: m.Message, data: st.DataObject) -> None:
    (frame,) = feed(FrameDecoder(AUTHENTICATED), joined(encode(message)))
    fields = unpack(frame.header)
    position = data.draw(st.integers(0, len(fields)))
    if position == len(fields):
        fields.append(0)  # one too many
    else:
        fields[position] = {"not": b"expected"} if type(fields[position]) is not dict else []
    with pytest.raises(ProtocolError):
        decode(Frame(pack(fields), frame.buffers))


@given(message=beyond)
def test_a_field_beyond_its_bounds_is_refused_and_named(message: tuple[m.Message, str]) -> None:
    """Whatever the declaration beside the message says of a field: range, length, choice, depth."""
    bad, name = message
    (frame,) = feed(FrameDecoder(AUTHENTICATED), joined(encode(bad)))
    with pytest.raises(ProtocolError, match=f"{type(bad).__name__} is malformed: {name}"):
        decode(frame)


def test_a_number_as_the_key_of_a_map_is_refused() -> None:
    """Numbers of one hash would make a map slow: msgpack refuses them before a field can be named."""
    bad: Any = m.WorkerChanged("", "", None, {1: "package"})
    (frame,) = feed(FrameDecoder(AUTHENTICATED), joined(encode(bad)))
    with pytest.raises(ProtocolError, match="int is not allowed for map key"):
        decode(frame)


@given(header=st.binary(max_size=60))
def test_an_arbitrary_header_is_a_message_or_a_protocol_error(header: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode(Frame(header, []))


@pytest.mark.parametrize("elements", [[1, "x"], ["x"], [True], [None]])
def test_lists_are_checked_to_the_last_element(elements: list[Any]) -> None:
    code = m.CODES.index(m.Cancel)
    with pytest.raises(ProtocolError, match="tasks"):
        decode(Frame(msgpack.packb([code, elements, False]), []))


def test_buffers_with_a_message_that_has_none_are_refused() -> None:
    code = m.CODES.index(m.Ask)
    with pytest.raises(ProtocolError, match="no buffers"):
        decode(Frame(msgpack.packb([code, 1]), [b"x"]))


@given(data=st.binary(min_size=1, max_size=200))
def test_arbitrary_bytes_never_do_worse_than_a_protocol_error(data: bytes) -> None:
    for start in (b"", b"mD", PREFIX.pack(b"mD", 1, 5), PREFIX.pack(b"mD", 0, len(data))):
        decoder = FrameDecoder(AUTHENTICATED)
        try:
            for frame in feed(decoder, start + data):
                decode(frame)
        except ProtocolError:
            pass


def test_seconds_may_come_as_an_integer() -> None:
    """Other languages do not tell 1 from 1.0."""
    assert decode(Frame(pack([18, 7, 1, 2]), [b"x"])) == m.Done(7, 1, 2, [b"x"])
    with pytest.raises(ProtocolError, match="duration is of type bool"):
        decode(Frame(pack([18, 7, 1, True]), [b"x"]))
