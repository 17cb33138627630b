"""Bytes as a peer receives them, for the tests of frames, codec and handshake."""

from __future__ import annotations

from typing import Any

from minidask.wire.frames import Frame, FrameDecoder


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
