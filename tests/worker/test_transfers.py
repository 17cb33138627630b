"""Large blobs between stores: a machine fetches what it needs, chunk by chunk, and passes it on meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from minidask.data.downloads import WINDOW_BYTES
from minidask.data.store import BlobStore
from minidask.host.folders import place_of
from minidask.wire import messages as m
from minidask.wire.large import CHUNK_BYTES, blob_id
from minidask.worker.events import BlobFailed, BlobHere, Event, NoRoom
from minidask.worker.peers import Peer
from minidask.worker.transfers import Transfers

MIB = 1 << 20


class Machine:
    """A worker's transfers over its own store, and what they say."""

    def __init__(self, folder: Path, budget: int = 64 * MIB) -> None:
        for name in ("memory", "disk"):
            (folder / name).mkdir(parents=True)
        self.store = BlobStore.create(folder / "memory", budget, folder / "disk")
        self.events: list[Event] = []
        self.asked: list[tuple[str, m.Message]] = []
        self.readers: dict[int, Callable[[m.Message], None]] = {}
        self.transfers = Transfers(self.store, False, self.events.append, self._send)

    def _send(self, peer: Peer, message: m.Message) -> None:
        if isinstance(peer, str):
            self.asked.append((peer, message))
        else:
            self.readers[peer](message)

    def fetch_from(self, other: Machine, steps: int = 1 << 30) -> None:
        """Have the other answer what this one has asked for; its answers come at once or later."""
        while self.asked and steps:
            _, wanted = self.asked.pop(0)
            assert isinstance(wanted, m.FetchChunk)
            other.serve(wanted, self.receive)
            steps -= 1

    def serve(self, wanted: m.FetchChunk, answer: Callable[[m.Message], None]) -> None:
        """Answer a request, at once or later."""
        self.readers[len(self.readers)] = answer
        self.transfers.received(len(self.readers) - 1, wanted)

    def receive(self, answer: m.Message) -> None:
        assert isinstance(answer, (m.Chunk, m.NoBlob))
        self.transfers.received("peer", answer)


@pytest.fixture
def machines(tmp_path: Path) -> list[Machine]:
    return [Machine(tmp_path / str(number)) for number in range(3)]


DATA = bytes(range(256)) * (10 * MIB // 256) + b"the end"
NAME = blob_id([DATA])


def test_a_blob_goes_from_one_to_the_next_while_it_comes(machines: list[Machine]) -> None:
    first, second, third = machines
    first.store.put(NAME, DATA)
    for machine in (second, third):
        machine.transfers.want(NAME, len(DATA), "peer", [])
    third.fetch_from(second)
    assert third.asked == [], "it has asked, and waits"
    second.fetch_from(first, steps=2)
    assert third.asked, "two chunks have come, and were passed on"
    while second.asked or third.asked:
        second.fetch_from(first)
        third.fetch_from(second)
    for machine in (second, third):
        assert machine.events == [BlobHere(NAME)]
        assert machine.store.map(NAME) == DATA


def test_after_a_lost_source_it_goes_on_where_it_was(machines: list[Machine]) -> None:
    first, second, third = machines
    for machine in (first, second):
        machine.store.put(NAME, DATA)
    third.transfers.want(NAME, len(DATA), "peer", [])
    third.fetch_from(first, steps=3)
    third.transfers.source_lost("peer", "it died")
    assert third.events == [BlobFailed(NAME, "peer", "peer: it died")]
    third.asked.clear()
    third.transfers.want(NAME, len(DATA), "another", [])
    assert third.asked[0] == ("another", m.FetchChunk(NAME, 3 * CHUNK_BYTES, CHUNK_BYTES, 0))
    third.fetch_from(second)
    assert third.events[-1] == BlobHere(NAME)
    assert third.store.map(NAME) == DATA


def test_what_is_here_already_is_not_fetched(machines: list[Machine]) -> None:
    first, second, _ = machines
    first.store.put(NAME, DATA)
    first.store.unpin(NAME)
    first.transfers.want(NAME, len(DATA), "peer", [])
    assert (first.events, first.asked) == ([BlobHere(NAME)], [])
    second.transfers.want(NAME, len(DATA), "peer", [place_of(first.store.folder)])
    assert (second.events, second.asked) == ([BlobHere(NAME)], []), "the same memory, under a second name"
    assert (second.store.folder / NAME.hex()).samefile(first.store.folder / NAME.hex())


def test_torn_or_forged_data_is_refused_and_never_mapped(machines: list[Machine], tmp_path: Path) -> None:
    first, second, third = machines
    forged = DATA[:-1] + b"?"
    (first.store.folder / NAME.hex()).write_bytes(forged)
    second.transfers.want(NAME, len(DATA), "peer", [])
    second.fetch_from(first)
    assert second.events == [BlobFailed(NAME, "peer", "the bytes that came are not what the name says")]
    third.transfers.want(NAME, len(DATA), "peer", [place_of(first.store.folder)])
    assert third.asked, "nor is it adopted from another store"
    third.transfers.forget([NAME])
    for machine in (second, third):
        assert not [path for path in machine.store.folder.iterdir() if path.name.startswith(NAME.hex())]


@pytest.mark.parametrize(("offset", "size"), [(-1, 10), (0, 0), (0, CHUNK_BYTES + 1), (len(DATA), 1)])
def test_a_chunk_that_cannot_be_is_refused(machines: list[Machine], offset: int, size: int) -> None:
    machines[0].store.put(NAME, DATA)
    answers: list[m.Message] = []
    machines[0].serve(m.FetchChunk(NAME, offset, size, 0), answers.append)
    assert [type(answer) for answer in answers] == [m.NoBlob]


def test_those_who_wait_are_told_when_it_does_not_come(machines: list[Machine]) -> None:
    first, second, _ = machines
    first.transfers.want(NAME, len(DATA), "peer", [])
    second.transfers.want(NAME, len(DATA), "peer", [])
    second.fetch_from(first)
    first.transfers.forget([NAME])
    assert [type(event) for event in second.events] == [BlobFailed] * (WINDOW_BYTES // CHUNK_BYTES)


def test_without_room_it_is_said(machines: list[Machine], tmp_path: Path) -> None:
    (machines[0].store.folder / "disk").unlink()
    (machines[0].store.folder / "disk").symlink_to(tmp_path / "gone")
    machines[0].transfers.want(NAME, 1 << 40, "peer", [])
    (event,) = machines[0].events
    assert isinstance(event, NoRoom)


def test_many_blobs_from_one_source_are_asked_for_no_faster_than_one(machines: list[Machine]) -> None:
    first, second, _ = machines
    blobs = {blob_id([data]): data for data in (bytes([number]) * (3 * MIB + number) for number in range(1, 9))}
    for name, data in blobs.items():
        first.store.put(name, data)
    for name, data in sorted(blobs.items(), reverse=True):
        second.transfers.want(name, len(data), "peer", [])
    most = 0
    while second.asked:
        most = max(most, sum(wanted.size for _, wanted in second.asked if isinstance(wanted, m.FetchChunk)))
        second.fetch_from(first, steps=1)
    assert len(second.events) == len(blobs)
    assert most <= WINDOW_BYTES + len(blobs) * CHUNK_BYTES, "each was the first by name for a while"
    assert all(second.store.map(name) == data for name, data in blobs.items())


def test_of_two_that_fetch_from_one_another_none_waits_for_ever(machines: list[Machine]) -> None:
    first, second, third = machines
    blobs = [bytes([number]) * (12 * MIB) for number in range(4)]
    names = sorted((blob_id([data]), data) for data in blobs)
    for name, data in names:
        first.store.put(name, data)
    for number, (name, data) in enumerate(names):
        one, other = (second, third) if number % 2 else (third, second)
        one.transfers.want(name, len(data), "first", [])
        other.transfers.want(name, len(data), "other", [])
    while second.asked or third.asked:
        for machine, other in ((second, third), (third, second)):
            source, _ = machine.asked[0] if machine.asked else ("", None)
            if source:
                machine.fetch_from(first if source == "first" else other, steps=1)
    assert len(second.events) == len(third.events) == len(names)


def test_a_source_that_is_given_up_makes_room_for_the_next_blob(machines: list[Machine]) -> None:
    _, second, _ = machines
    names = sorted(blob_id([bytes([number]) * (20 * MIB)]) for number in range(2))
    for name in names:
        second.transfers.want(name, 20 * MIB, "peer", [])
    assert {wanted.blob for _, wanted in second.asked if isinstance(wanted, m.FetchChunk)} == {names[0]}
    second.transfers.want(names[0], 20 * MIB, "another", [])
    assert second.asked[-1][0] == "another" or second.asked[-1][1] == m.FetchChunk(names[1], 7 * MIB, MIB, 0)
    assert {
        wanted.blob for source, wanted in second.asked if source == "peer" and isinstance(wanted, m.FetchChunk)
    } == {*names}
    second.transfers.forget([names[0]])
    assert not [path for path in second.store.folder.iterdir() if path.name.startswith(names[0].hex())]


def test_a_store_that_was_removed_is_said_and_nothing_breaks(machines: list[Machine]) -> None:
    first, second, _ = machines
    shutil.rmtree(first.store.folder)
    first.transfers.want(NAME, len(DATA), "peer", [])
    assert [type(event) for event in first.events] == [NoRoom]
    second.transfers.want(NAME, len(DATA), "peer", [])
    shutil.rmtree(second.store.folder)
    for offset in range(0, len(DATA), CHUNK_BYTES):
        second.receive(m.Chunk(NAME, offset, 0, [DATA[offset : offset + CHUNK_BYTES]]))
    assert [type(event) for event in second.events] == [NoRoom]
