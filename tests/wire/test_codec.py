"""Messages become bytes and come back the same; a malformed message is refused."""

from __future__ import annotations

import contextlib
import types
import typing
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
from tests.wire.bytes_in import feed, joined

_TEXT = st.text(st.characters(), max_size=10)  # with lone surrogates: the text of an exception may be anything
_PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | _TEXT


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
        return st.dictionaries(_TEXT, _PLAIN, max_size=3)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(-(2**63), 2**64 - 1),
        str: _TEXT,
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
    fields = unpack(frame.header)
    position = data.draw(st.integers(0, len(fields)))
    if position == len(fields):
        fields.append(0)  # one too many
    else:
        fields[position] = {"not": b"expected"} if type(fields[position]) is not dict else []
    with pytest.raises(ProtocolError):
        decode(Frame(pack(fields), frame.buffers))


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


@given(data=st.binary(min_size=1, max_size=200))
def test_arbitrary_bytes_never_do_worse_than_a_protocol_error(data: bytes) -> None:
    for start in (b"", b"mD", PREFIX.pack(b"mD", 1, 5), PREFIX.pack(b"mD", 0, len(data))):
        decoder = FrameDecoder(AUTHENTICATED)
        try:
            for frame in feed(decoder, start + data):
                decode(frame)
        except ProtocolError:
            pass
