"""Messages to frames and back.

A header is msgpack `[code, field, ...]`. A message whose last field is `payload` carries that as the raw buffers of the
frame, which are never copied into the header.

Decoding checks the code, and the type of every field against its annotation in `messages.py`. So no core ever meets a
message that its annotations do not describe, and none has to check types again. The annotations are read once, at
import: for each message the tuples of types that its fields may have. A check is then one look into a set.
"""

from __future__ import annotations

import itertools
import types
import typing
from typing import Any, NamedTuple, Union

import msgpack

from minidask.errors import ProtocolError
from minidask.wire.frames import Buffer, Frame, encode_frame
from minidask.wire.messages import CODES, Message
from minidask.wire.packing import pack, unpack


class _Layout(NamedTuple):
    """What the codec knows of one message type.

    `signatures` are all tuples of types that the fields may have; `lists` are the fields that are lists, by position,
    with the type of their elements.
    """

    code: int
    build: Any
    has_payload: bool
    signatures: frozenset[tuple[type, ...]]
    lists: tuple[tuple[int, type], ...]


def _accepted(annotation: Any) -> list[type]:
    """The exact types that a decoded field with this annotation may have."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return [kind for option in typing.get_args(annotation) for kind in _accepted(option)]
    return [typing.get_origin(annotation) or annotation]


def _layout(code: int, kind: type[Any]) -> _Layout:
    hints = typing.get_type_hints(kind)
    has_payload = "payload" in hints
    names = [name for name in kind._fields if name != "payload"]
    signatures = itertools.product(*(_accepted(hints[name]) for name in names))
    lists = tuple((index, element) for index, name in enumerate(names) if (element := _element(hints[name])))
    return _Layout(code, kind._make, has_payload, frozenset(signatures), lists)


def _element(annotation: Any) -> type | None:
    """The type that all elements of a decoded list must have; None if the annotation allows any, or is of no list."""
    element = typing.get_args(annotation)[0] if typing.get_origin(annotation) is list else Any
    return None if element is Any else element


_LAYOUTS = [_layout(code, kind) for code, kind in enumerate(CODES)]
_BY_TYPE = dict(zip(CODES, _LAYOUTS, strict=True))


def encode(message: Message) -> list[Buffer]:
    """Return the buffers to write for one message.

    Raises:
        ProtocolError: the message exceeds the limits of the wire, so it cannot be sent.
    """
    layout = _BY_TYPE[type(message)]
    fields: tuple[Any, ...] = message
    if layout.has_payload:
        return encode_frame(pack((layout.code, *fields[:-1])), fields[-1])
    return encode_frame(pack((layout.code, *fields)))


def decode(frame: Frame) -> Message:
    """Return the message in a frame.

    Raises:
        ProtocolError: the frame holds no known message, or one with a missing, surplus or ill-typed field.
    """
    try:
        fields = unpack(frame.header)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"a frame header is no msgpack: {error}") from error
    if type(fields) is not list or not fields or type(fields[0]) is not int or not 0 <= fields[0] < len(CODES):
        raise ProtocolError("a frame header begins with no known message code")
    layout = _LAYOUTS[fields.pop(0)]
    if tuple(map(type, fields)) not in layout.signatures:
        found = ", ".join(type(field).__name__ for field in fields)
        raise ProtocolError(f"{CODES[layout.code].__name__} with fields ({found}) is malformed")
    for index, kind in layout.lists:
        if any(type(element) is not kind for element in fields[index]):
            raise ProtocolError(f"{CODES[layout.code].__name__} has a list of mixed or wrong elements")
    if layout.has_payload:
        fields.append(frame.buffers)
    elif frame.buffers:
        raise ProtocolError(f"{CODES[layout.code].__name__} carries no buffers, but {len(frame.buffers)} came with it")
    message: Message = layout.build(fields)
    return message
