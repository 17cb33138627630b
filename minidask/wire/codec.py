"""Messages to frames and back.

A header is msgpack `[code, field, ...]`. A message whose last field is `payload` carries that as the raw buffers of the
frame, which are never copied into the header.

Decoding checks the code, and every field against its annotation in `messages.py`: types, ranges, lengths, depth. So no
core ever meets a message from outside that its annotations do not describe. The annotations are read once, at import
(`bounds.py`). A check is then one look into a set, and one expression of comparisons.
"""

from __future__ import annotations

from typing import Any

import msgpack

from minidask.errors import ProtocolError
from minidask.wire.bounds import Fields
from minidask.wire.frames import Buffer, Frame, encode_frame
from minidask.wire.messages import CODES, Message
from minidask.wire.packing import pack, unpack


class _Layout:
    """What the codec knows of one message type."""

    def __init__(self, code: int, kind: type[Any]) -> None:
        self.code = code
        self.name = kind.__name__
        self.build = kind._make
        self.fields = Fields(kind)
        self.types = self.fields.types
        self.fits = self.fields.fits
        self.unsound = getattr(kind, "unsound", None)
        self.fits_payload = self.fields.fits_payload
        self.has_payload = "payload" in kind._fields


_LAYOUTS = [_Layout(code, kind) for code, kind in enumerate(CODES)]
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
    if tuple(map(type, fields)) not in layout.types or not layout.fits(*fields):
        raise ProtocolError(f"{layout.name} is malformed: {layout.fields.why_not(fields)}")
    if layout.has_payload:
        if layout.fits_payload is not None and not layout.fits_payload(frame.buffers):
            raise ProtocolError(f"{layout.name} is malformed: it came with {len(frame.buffers)} buffers")
        fields.append(frame.buffers)
    elif frame.buffers:
        raise ProtocolError(f"{layout.name} carries no buffers, but {len(frame.buffers)} came with it")
    message: Message = layout.build(fields)
    if layout.unsound is not None and (why := layout.unsound(message)):
        raise ProtocolError(f"{layout.name} is malformed: {why}")
    return message
