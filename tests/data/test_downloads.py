"""Which chunks are asked for, of whom and in what order, and who gets which bytes: `Downloads` without any I/O."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidask.data.downloads import WINDOW_BYTES, Downloads, Send, Serve
from minidask.wire import messages as m
from minidask.wire.chunks import answer
from minidask.wire.large import CHUNK_BYTES

WINDOW = WINDOW_BYTES // CHUNK_BYTES
HALF = CHUNK_BYTES // 2


def chunk(request: m.FetchChunk, peer: int = 0) -> m.Chunk:
    return m.Chunk(request.blob, request.offset, peer, [bytes(request.size)])


def requests(steps: list[Send[str]] | list[Send[str] | Serve[str]]) -> list[tuple[str, bytes, int]]:
    """Of whom, which blob, which chunk of it."""
    return [
        (step.peer, step.message.blob, step.message.offset // CHUNK_BYTES)
        for step in steps
        if isinstance(step, Send) and isinstance(step.message, m.FetchChunk)
    ]


def test_a_window_is_asked_for_in_advance_and_one_more_for_each_that_comes() -> None:
    downloads: Downloads[str] = Downloads()
    first = downloads.want(b"x", 20 * CHUNK_BYTES + HALF, "a")
    assert requests(first) == [("a", b"x", number) for number in range(WINDOW)]
    assert isinstance(first[0].message, m.FetchChunk)
    assert requests(downloads.wrote(chunk(first[0].message))) == [("a", b"x", WINDOW)]


def test_the_last_chunk_is_short_and_ends_the_download() -> None:
    downloads: Downloads[str] = Downloads()
    sends = downloads.want(b"x", CHUNK_BYTES + HALF, "a")
    assert [send.message for send in sends] == [
        m.FetchChunk(b"x", 0, CHUNK_BYTES, 0),
        m.FetchChunk(b"x", CHUNK_BYTES, HALF, 0),
    ]
    for offset, size in ((0, CHUNK_BYTES), (CHUNK_BYTES, HALF)):
        come = m.Chunk(b"x", offset, 0, [bytes(size)])
        assert b"x" in downloads and downloads.is_next(come)
        assert downloads.wrote(come) == []
        assert not downloads.is_next(come), "the same chunk again is ignored"
    assert len(downloads) == 0 and downloads.source(b"x") is None and downloads.from_source("a") == []


@pytest.mark.parametrize(
    "wrong",
    [
        m.Chunk(b"y", 0, 0, [bytes(CHUNK_BYTES)]),
        m.Chunk(b"x", CHUNK_BYTES, 0, [bytes(CHUNK_BYTES)]),
        m.Chunk(b"x", -1, 0, [bytes(CHUNK_BYTES)]),
        m.Chunk(b"x", 0, 0, [bytes(HALF)]),
        m.Chunk(b"x", 0, 0, []),
        m.Chunk(b"x", 0, 0, [bytes(HALF), bytes(HALF)]),
    ],
    ids=["another blob", "out of turn", "before the blob", "short", "empty", "two buffers"],
)
def test_what_is_not_the_next_chunk_is_not_to_be_written(wrong: m.Chunk) -> None:
    downloads: Downloads[str] = Downloads()
    downloads.want(b"x", 2 * CHUNK_BYTES, "a")
    assert not downloads.is_next(wrong)


def test_the_window_is_the_sources_and_filled_by_rank_and_then_by_name() -> None:
    downloads: Downloads[str] = Downloads()
    assert len(downloads.want(b"y", 5 * CHUNK_BYTES, "a")) == 5
    assert requests(downloads.want(b"z", 5 * CHUNK_BYTES, "a")) == [("a", b"z", 0), ("a", b"z", 1), ("a", b"z", 2)]
    assert requests(downloads.want(b"x", 5 * CHUNK_BYTES, "a")) == [("a", b"x", 0)], "the first always gets a chunk"
    assert downloads.want(b"w", 5 * CHUNK_BYTES, "a", rank=1) == []
    assert downloads.from_source("a") == [b"x", b"y", b"z", b"w"]
    assert len(downloads.want(b"v", 5 * CHUNK_BYTES, "b")) == 5, "another source has a window of its own"


def test_a_new_source_goes_on_at_the_first_missing_byte_and_makes_room_at_the_old_one() -> None:
    downloads: Downloads[str] = Downloads()
    first = downloads.want(b"x", 20 * CHUNK_BYTES, "a")
    assert downloads.want(b"y", CHUNK_BYTES, "a") == []
    for send in first[:3]:
        assert isinstance(send.message, m.FetchChunk)
        downloads.wrote(chunk(send.message))
    again = requests(downloads.want(b"x", 20 * CHUNK_BYTES, "b"))
    assert again == [("a", b"y", 0), *(("b", b"x", number) for number in range(3, 3 + WINDOW))]
    assert downloads.source(b"x") == "b"
    stale = m.Chunk(b"x", 3 * CHUNK_BYTES, 0, [bytes(CHUNK_BYTES)])
    assert downloads.is_next(stale), "the old source's answer is as good, if it is the next chunk"


def test_readers_wait_for_bytes_that_are_to_come_and_are_refused_when_they_do_not() -> None:
    downloads: Downloads[str] = Downloads()
    downloads.want(b"x", 2 * CHUNK_BYTES, "a")
    one, other = (m.FetchChunk(b"x", offset, CHUNK_BYTES, 7) for offset in (0, CHUNK_BYTES))
    assert downloads.serve("r", one) == downloads.serve("r", other) == []
    assert downloads.wrote(chunk(one)) == [Serve("r", one)]
    assert downloads.serve("s", one) == [Serve("s", one)], "it is here by now"
    assert downloads.drop([b"x"], "it is gone") == [Send("r", m.NoBlob(b"x", 7, "it is gone"))]
    assert downloads.serve("r", other) == [Serve("r", other)], "of what is not under way others know"


@pytest.mark.parametrize(("offset", "size"), [(-1, 10), (0, 0), (0, CHUNK_BYTES + 1), (2 * CHUNK_BYTES, 1)])
def test_nobody_waits_for_what_no_chunk_can_be(offset: int, size: int) -> None:
    downloads: Downloads[str] = Downloads()
    downloads.want(b"x", 2 * CHUNK_BYTES, "a")
    request = m.FetchChunk(b"x", offset, size, 0)
    assert downloads.serve("r", request) == [Serve("r", request)]


@pytest.mark.parametrize(("offset", "size"), [(-1, 10), (0, 0), (0, -1), (0, CHUNK_BYTES + 1)])
def test_a_range_that_no_chunk_has_is_refused_unread(offset: int, size: int) -> None:
    refusal = answer(m.FetchChunk(b"x", offset, size, 7), lambda *_: pytest.fail("read"), "missing")
    assert refusal == m.NoBlob(b"x", 7, f"a chunk has 1 to {CHUNK_BYTES} bytes")


def test_a_request_is_answered_with_the_bytes_or_that_they_are_missing() -> None:
    request = m.FetchChunk(b"x", 3, 2, 7)
    assert answer(request, lambda offset, size: b"0123456"[offset : offset + size], "") == m.Chunk(b"x", 3, 7, [b"34"])
    assert answer(request, lambda *_: None, "it is gone") == m.NoBlob(b"x", 7, "it is gone")


class Sources:
    """Three sources that each answer in order; what was asked of one that leaves, or refuses, comes late or never."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = {bytes([number]) * 16: size for number, size in enumerate(sizes)}
        self.downloads: Downloads[int] = Downloads()
        self.asked: dict[int, list[m.FetchChunk]] = {0: [], 1: [], 2: []}
        self.late: list[m.FetchChunk] = []
        self.have = dict.fromkeys(self.sizes, 0)
        self.whole: set[bytes] = set()
        for number, (blob, size) in enumerate(self.sizes.items()):
            self.take(self.downloads.want(blob, size, number % 3))

    def take(self, steps: list[Send[int]] | list[Send[int] | Serve[int]]) -> None:
        for step in steps:
            assert isinstance(step, Send) and isinstance(step.message, m.FetchChunk)
            self.asked[step.peer].append(step.message)
        for asked in self.asked.values():
            assert sum(request.size for request in asked) <= WINDOW_BYTES + CHUNK_BYTES * len(self.sizes)
            assert all(request.size <= CHUNK_BYTES for request in asked)

    def deliver(self, request: m.FetchChunk) -> None:
        come = chunk(request)
        if self.downloads.is_next(come):
            assert request.offset == self.have[request.blob]
            self.have[request.blob] += request.size
            self.take(self.downloads.wrote(come))
            if request.blob not in self.downloads:
                assert self.have[request.blob] == self.sizes[request.blob]
                self.whole.add(request.blob)

    def leave(self, source: int) -> None:
        """What it was asked for is lost, or comes later; its blobs are fetched from the next source."""
        self.late += self.asked[source]
        self.asked[source] = []
        for blob in self.downloads.from_source(source):
            self.take(self.downloads.want(blob, self.sizes[blob], (source + 1) % 3))
        self.asked[source] = []

    def drop(self, number: int) -> None:
        blob = list(self.sizes)[number % len(self.sizes)]
        if blob in self.downloads:
            steps = self.downloads.drop([blob], "")
            self.asked = {source: [r for r in asked if r.blob != blob] for source, asked in self.asked.items()}
            self.take(steps)
            self.whole.add(blob)


@given(
    sizes=st.lists(st.integers(1, 14 * CHUNK_BYTES), min_size=1, max_size=5),
    steps=st.lists(st.tuples(st.sampled_from(["chunk", "chunk", "chunk", "late", "leave", "drop"]), st.integers(0, 9))),
)
def test_whatever_leaves_or_comes_late_every_blob_comes_whole_and_in_order(
    sizes: list[int], steps: list[tuple[str, int]]
) -> None:
    sources = Sources(sizes)
    for step, number in steps:
        if step == "chunk" and sources.asked[number % 3]:
            sources.deliver(sources.asked[number % 3].pop(0))
        elif step == "late" and sources.late:
            sources.deliver(sources.late.pop(number % len(sources.late)))
        elif step == "leave":
            sources.leave(number % 3)
        elif step == "drop":
            sources.drop(number)
    while any(sources.asked.values()):
        for asked in sources.asked.values():
            if asked:
                sources.deliver(asked.pop(0))
    assert sources.whole == set(sources.sizes), "nothing is left that was not asked for"
    assert len(sources.downloads) == 0
