"""The byte layout of a frame: how a message's header and its raw buffers lie on the wire.

    magic "mD" | buffer count u16 | header length u32 | buffer lengths u64 each | header | buffers ...

All integers are little-endian. Encoding returns a list of buffers to write, so large data is never
copied into one piece. Decoding lends out the memory to receive into: small frames share one buffer,
and each part of a large frame is received straight into memory of its own, which stays its memory.

Limits are part of the format: a peer that goes over one is closed before anything is allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from minidask.errors import ProtocolError

Buffer = bytes | bytearray | memoryview

MAGIC = b"mD"
PREFIX = struct.Struct("<2sHI")
SHARED_BYTES = 256 * 1024
STRANGERS_BYTES = 8 * 1024  # the same, before authentication: anybody may open thousands of connections
INLINE_BYTES = 4096


class _Sizes(dict[int, struct.Struct]):
    """The layout of so many buffer lengths, made when it is first wanted."""

    def __missing__(self, count: int) -> struct.Struct:
        layout = self[count] = struct.Struct(f"<{count}Q")
        return layout


SIZES = _Sizes()


class NotAFrame(ProtocolError):
    """The bytes do not begin as a frame does: the peer speaks something else."""


class Limits(NamedTuple):
    """The largest frame that a decoder accepts: bytes of header, number of buffers, bytes in all."""

    header: int
    buffers: int
    total: int


BEFORE_AUTHENTICATION = Limits(header=4096, buffers=0, total=8192)
AUTHENTICATED = Limits(header=16 * 1024 * 1024, buffers=4096, total=1 << 38)


class Frame(NamedTuple):
    """One frame as received: the header's bytes, and the raw buffers behind it."""

    header: bytes
    buffers: list[Buffer]


def encode_frame(header: bytes, buffers: Sequence[Buffer] = ()) -> list[Buffer]:
    """Return the pieces to write, in order, for one frame; small pieces are joined, large ones are not copied.

    Raises:
        ProtocolError: the frame is over the limits `AUTHENTICATED`; nothing is to be sent.
    """
    sizes = [len(buffer) for buffer in buffers]
    payload = sum(sizes)
    _check(len(header), len(sizes), payload, AUTHENTICATED)
    head = PREFIX.pack(MAGIC, len(sizes), len(header)) + SIZES[len(sizes)].pack(*sizes) + header
    if payload <= INLINE_BYTES:
        return [b"".join((head, *buffers))]
    pieces: list[Buffer] = [head]
    for buffer, size in zip(buffers, sizes, strict=True):
        last = pieces[-1]
        if size <= INLINE_BYTES and isinstance(last, bytes) and len(last) <= INLINE_BYTES:
            pieces[-1] = last + buffer
        else:
            pieces.append(buffer)
    return pieces


def _check(header: int, count: int, payload: int, limits: Limits) -> None:
    if header > limits.header:
        raise ProtocolError(f"a frame header of {header} bytes is over the limit of {limits.header}")
    if count > limits.buffers:
        raise ProtocolError(f"a frame of {count} buffers is over the limit of {limits.buffers}")
    if header + payload > limits.total:
        raise ProtocolError(f"a frame of {header + payload} bytes is over the limit of {limits.total}")


class FrameDecoder:
    """Turns received bytes into frames, however the bytes were split.

    The caller asks `get_buffer()` where to put the next bytes, puts some there, and calls
    `received(n)`, which returns the frames that are complete by now. `limits` may be raised by
    assignment once the peer is authenticated.
    """

    def __init__(self, limits: Limits = BEFORE_AUTHENTICATION) -> None:
        self.limits = limits
        self._small = limits.total <= STRANGERS_BYTES
        self._shared = bytearray(STRANGERS_BYTES if self._small else SHARED_BYTES)
        self._view = memoryview(self._shared)
        self._start = 0
        self._end = 0
        self._large: _LargeFrame | None = None

    def get_buffer(self) -> memoryview:
        """The writable memory, never empty, that the next received bytes belong into."""
        if self._large is not None:
            return self._large.missing()
        return self._view[self._end :]

    def received(self, count: int) -> Iterator[Frame]:
        """Take note of `count` bytes put into the last `get_buffer()`, and yield the frames now complete.

        To be iterated to its end. Each frame is checked against `limits` as they are when it is asked for.

        Raises:
            ProtocolError: the bytes are no frame, or one over the limits; the decoder is of no use after it.
        """
        if self._large is not None:
            frame = self._large.advance(count)
            if frame is not None:
                self._large = None
                yield frame
            return
        self._end += count
        while (frame := self._next_frame()) is not None:
            yield frame
        self._make_room()

    def _next_frame(self) -> Frame | None:
        """Cut the next frame out of the shared memory; None if it is not complete there."""
        start, available = self._start, self._end - self._start
        if available < PREFIX.size:
            if not MAGIC.startswith(self._view[start : start + min(available, 2)]):
                raise NotAFrame(f"these bytes begin no minidask frame: {bytes(self._view[start : self._end])!r}")
            return None
        magic, count, header_size = PREFIX.unpack_from(self._shared, start)
        if magic != MAGIC:
            raise NotAFrame(f"these bytes begin no minidask frame: {bytes(self._view[start : start + 8])!r}")
        body = PREFIX.size + 8 * count
        if available < body or count > self.limits.buffers:
            _check(header_size, count, 0, self.limits)
            return None
        sizes = SIZES[count].unpack_from(self._shared, start + PREFIX.size)
        payload = sum(sizes)
        _check(header_size, count, payload, self.limits)
        total = body + header_size + payload
        if available < total:
            if total > len(self._shared) // 2:
                self._begin_large(start + body, header_size, sizes)
            return None
        position = start + body + header_size
        header = self._view[start + body : position].tobytes()
        buffers: list[Buffer] = []
        for size in sizes:
            buffers.append(self._shared[position : position + size])  # a copy, writable as large ones are
            position += size
        self._start = position
        return Frame(header, buffers)

    def _begin_large(self, position: int, header_size: int, sizes: tuple[int, ...]) -> None:
        """Give a large frame memory of its own and move over what has come of it so far."""
        large = _LargeFrame(header_size, sizes)
        while position < self._end:
            target = large.missing()
            count = min(len(target), self._end - position)
            target[:count] = self._view[position : position + count]
            large.advance(count)
            position += count
        self._start = self._end = 0
        self._large = large

    def _make_room(self) -> None:
        """Move the tail to the front when the space behind it runs short (a partial frame is at most half)."""
        if self._small and self.limits.total > STRANGERS_BYTES:
            self._small = False
            self._move_to(bytearray(SHARED_BYTES))
        elif self._start == self._end:
            self._start = self._end = 0
        elif self._start and len(self._shared) - self._end < len(self._shared) // 2:
            self._move_to(self._shared)

    def _move_to(self, memory: bytearray) -> None:
        """What is not yet cut out goes to the front of this memory, which is shared from now on."""
        tail = bytes(self._view[self._start : self._end])
        self._shared, self._view = memory, memoryview(memory)
        self._view[: len(tail)] = tail
        self._start, self._end = 0, len(tail)


class _LargeFrame:
    """A frame under way whose header and buffers are each received into memory of their own."""

    def __init__(self, header_size: int, sizes: tuple[int, ...]) -> None:
        try:
            self._parts = [bytearray(size) for size in (header_size, *sizes)]
        except MemoryError as error:
            raise ProtocolError(f"no memory to receive a frame of {sum(sizes)} bytes") from error
        self._index = 0
        self._filled = 0
        self._skip_full_parts()

    def missing(self) -> memoryview:
        return memoryview(self._parts[self._index])[self._filled :]

    def advance(self, count: int) -> Frame | None:
        self._filled += count
        self._skip_full_parts()
        if self._index < len(self._parts):
            return None
        return Frame(bytes(self._parts[0]), list(self._parts[1:]))

    def _skip_full_parts(self) -> None:
        while self._index < len(self._parts) and self._filled == len(self._parts[self._index]):
            self._index += 1
            self._filled = 0
