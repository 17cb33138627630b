"""The byte layout of a frame: how a message's header and its raw buffers lie on the wire.

     0      2      4            8                                  8 + 8n
    ┌──────┬──────┬────────────┬────────────┬───┬────────────┬────────┬──────────┬───┬──────────┐
    │ "mD" │  n   │ length of  │ length of  │ … │ length of  │ header │ buffer 1 │ … │ buffer n │
    │      │      │ the header │ buffer 1   │   │ buffer n   │        │          │   │          │
    └──────┴──────┴────────────┴────────────┴───┴────────────┴────────┴──────────┴───┴──────────┘
             u16        u32         u64               u64

All integers are little-endian. All lengths come first, so a receiver knows after a few bytes how much memory the frame
needs, and can refuse it before any is allocated: the limits are part of the format.

What a frame says of its size costs nothing: memory is taken as bytes come.

Large data is never copied into one piece. Encoding returns a list of buffers to write. Decoding lends out the memory to
receive into: small frames share one buffer and are cut out of it; the header and each buffer of a large frame are
received straight into memory of their own, which they keep.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from minidask.errors import ProtocolError

Buffer = bytes | bytearray | memoryview

MAGIC = b"mD"
PREFIX = struct.Struct("<2sHI")
SHARED_BYTES = 256 * 1024
STRANGERS_BYTES = 8 * 1024  # the same before authentication: anybody may open thousands of connections
INLINE_BYTES = 4096
AT_ONCE_BYTES = 2 * 1024 * 1024  # more is taken as it comes; less is faster from memory that was in use before


class _Sizes(dict[int, struct.Struct]):
    """The layouts of the lengths in a frame, by the number of buffers. Each is made when it is first needed."""

    def __missing__(self, count: int) -> struct.Struct:
        layout = self[count] = struct.Struct(f"<{count}Q")
        return layout


SIZES = _Sizes()


class NotAFrame(ProtocolError):
    """Received bytes do not begin like a frame: the peer speaks another protocol."""


class Limits(NamedTuple):
    """The limits of a frame: the bytes of its header, the number of its buffers, and its bytes in total."""

    header: int
    buffers: int
    total: int


BEFORE_AUTHENTICATION = Limits(header=4096, buffers=0, total=8192)
AUTHENTICATED = Limits(header=16 * 1024 * 1024, buffers=4096, total=1 << 38)


class Frame(NamedTuple):
    """One frame as received: the bytes of its header, and its raw buffers."""

    header: bytes
    buffers: list[Buffer]


def encode_frame(header: bytes, buffers: Sequence[Buffer] = ()) -> list[Buffer]:
    """Return the buffers to write for one frame, in order. Small buffers are joined; large ones are not copied.

    Raises:
        ProtocolError: the frame exceeds the limits `AUTHENTICATED`, so it cannot be sent.
    """
    sizes = [len(buffer) for buffer in buffers]
    payload = sum(sizes)
    _check(len(header), len(sizes), payload, AUTHENTICATED)
    head = PREFIX.pack(MAGIC, len(sizes), len(header)) + SIZES[len(sizes)].pack(*sizes) + header
    if payload <= INLINE_BYTES:
        return [b"".join((head, *buffers))]
    joined: list[Buffer] = [head]
    for buffer, size in zip(buffers, sizes, strict=True):
        last = joined[-1]
        if size <= INLINE_BYTES and isinstance(last, bytes) and len(last) <= INLINE_BYTES:
            joined[-1] = last + buffer
        else:
            joined.append(buffer)
    return joined


def _check(header: int, count: int, payload: int, limits: Limits) -> None:
    if header > limits.header:
        raise ProtocolError(f"a frame header of {header} bytes is over the limit of {limits.header}")
    if count > limits.buffers:
        raise ProtocolError(f"a frame of {count} buffers is over the limit of {limits.buffers}")
    if header + payload > limits.total:
        raise ProtocolError(f"a frame of {header + payload} bytes is over the limit of {limits.total}")


class FrameDecoder:
    """Turns received bytes into frames, however the bytes were split.

    The caller asks `get_buffer()` where to put the next bytes, puts n bytes there, and calls `received(n)`, which
    yields the frames that are complete by then.

    Args:
        limits: the largest frame to accept. The attribute is raised when the peer is authenticated.
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
        """The memory for the next bytes. It is never empty, and valid until `received` is called."""
        if self._large is not None:
            return self._large.missing()
        return self._view[self._end :]

    @property
    def receiving(self) -> int:
        """The bytes that have come of a large frame that is not complete."""
        return self._large.filled if self._large is not None else 0

    def received(self, count: int) -> Iterator[Frame]:
        """Yield the frames that are complete, now that `count` bytes were put into the last `get_buffer()`.

        The caller has to iterate to the end. Each frame is checked against the `limits` of that moment.

        Raises:
            ProtocolError: the bytes are no frame, or its size exceeds the limits. The decoder cannot be used any more.
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
        """Cut the next frame out of the shared memory; None if there is no complete one."""
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
        """Give a large frame memory of its own, and move the bytes there that have come already."""
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
        """Move the bytes of a partial frame to the front when the space behind them runs short.

        They are at most half of the memory: a larger frame has memory of its own.
        """
        if self._small and self.limits.total > STRANGERS_BYTES:
            self._small = False
            self._move_to(bytearray(SHARED_BYTES))
        elif self._start == self._end:
            self._start = self._end = 0
        elif self._start and len(self._shared) - self._end < len(self._shared) // 2:
            self._move_to(self._shared)

    def _move_to(self, memory: bytearray) -> None:
        """Share this memory from now on; the bytes that are not cut out yet go to its front."""
        tail = bytes(self._view[self._start : self._end])
        self._shared, self._view = memory, memoryview(memory)
        self._view[: len(tail)] = tail
        self._start, self._end = 0, len(tail)


class _LargeFrame:
    """A frame whose header and buffers are each received into memory of their own.

    That memory grows with what comes: each piece gets its own when the one before is full, and a large one is mapped,
    so that the kernel gives it page by page.

    Raises:
        ProtocolError: there is not enough memory.
    """

    def __init__(self, header_size: int, sizes: tuple[int, ...]) -> None:
        self._sizes = [header_size, *sizes]
        self._buffers: list[Buffer] = []
        self._filled = 0
        self._next_buffer()

    @property
    def filled(self) -> int:
        """How many bytes have come."""
        return sum(self._sizes[: len(self._buffers) - 1]) + self._filled

    def missing(self) -> memoryview:
        """The rest of the buffer that is being filled."""
        return memoryview(self._buffers[-1])[self._filled :]

    def advance(self, count: int) -> Frame | None:
        """Count bytes that were put into `missing()`; returns the frame once it is complete."""
        self._filled += count
        if self._filled < self._sizes[len(self._buffers) - 1] or self._next_buffer():
            return None
        return Frame(bytes(self._buffers[0]), self._buffers[1:])

    def _next_buffer(self) -> bool:
        """Begin the next buffer that is not empty; returns False if there is none."""
        while len(self._buffers) < len(self._sizes):
            size = self._sizes[len(self._buffers)]
            self._buffers.append(_memory(size))
            self._filled = 0
            if size:
                return True
        return False


def _memory(size: int) -> Buffer:
    try:
        return bytearray(size) if size <= AT_ONCE_BYTES else memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE))
    except (MemoryError, OSError, OverflowError) as error:
        raise ProtocolError(f"no memory to receive {size} bytes") from error
