"""Frames: any split of the bytes decodes the same, and limits hold before memory is allocated."""

from __future__ import annotations

import hypothesis.strategies as st
import psutil
import pytest
from hypothesis import given, settings

from minidask.errors import ProtocolError
from minidask.wire.frames import (
    AUTHENTICATED,
    BEFORE_AUTHENTICATION,
    PREFIX,
    SHARED_BYTES,
    FrameDecoder,
    NotAFrame,
    encode_frame,
)
from tests.wire.bytes_in import feed, joined

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


def test_the_large_buffer_begins_with_what_had_come() -> None:
    whole = b"".join([*encode_frame(b"first"), *encode_frame(b"h" * 3000, [b"b" * 100_000])])
    decoder = FrameDecoder()
    decoder.get_buffer()[:4000] = whole[:4000]
    found = []
    for frame in decoder.received(4000):
        found.append(frame.header)
        decoder.limits = AUTHENTICATED
    rest = whole[4000:]
    decoder.get_buffer()[: len(rest)] = rest
    for frame in decoder.received(len(rest)):
        found += [frame.header, bytes(frame.buffers[0])]
    assert found == [b"first", b"h" * 3000, b"b" * 100_000]


def test_many_small_frames_fit_through_the_small_buffer() -> None:
    decoder, found = FrameDecoder(), []
    data = b"".join(piece for number in range(50) for piece in encode_frame(bytes([number]) * 1000))
    while data:
        buffer = decoder.get_buffer()
        count = min(len(buffer), 700, len(data))
        assert count
        buffer[:count], data = data[:count], data[count:]
        found += [frame.header[0] for frame in decoder.received(count)]
    assert found == list(range(50))


def test_what_a_frame_says_of_its_size_costs_nothing_until_it_comes() -> None:
    """One buffer of gigabytes, thousands of one megabyte, or a header of 16 MiB: memory grows with what has come."""
    process = psutil.Process()
    before = process.memory_info().rss
    announced = [(1, 5, [3 << 30]), (4096, 5, [1 << 20] * 4096), (1, 16 << 20, [1 << 30])]
    decoders = []
    for count, header, sizes in announced:
        data = PREFIX.pack(b"mD", count, header) + b"".join(size.to_bytes(8, "little") for size in sizes) + b"h" * 5
        decoders.append(FrameDecoder(AUTHENTICATED))
        assert feed(decoders[-1], data) == []
    assert process.memory_info().rss - before < 16 << 20
