"""Peers that hold the secret and mean harm: an honest client goes on, the daemons live, and their memory is bounded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from operator import neg
from pathlib import Path

import numpy as np
import psutil
import pytest

import minidask
from minidask import errors
from minidask.host.folders import SHARED_MEMORY
from minidask.host.packages import python_version
from minidask.wire import messages as m
from minidask.wire.codec import encode
from minidask.wire.frames import MAGIC, PREFIX, SIZES
from minidask.wire.large import CHUNK_BYTES
from tests.helpers import Program, Programs, wait_until
from tests.hostile import Hostile

MIB = 1 << 20


def rss(program: Program) -> int:
    return int(psutil.Process(program.process.pid).memory_info().rss)


class Cluster:
    """A scheduler, a worker of one slot, and an honest client."""

    def __init__(self, programs: Programs) -> None:
        self.scheduler, self.address = programs.scheduler()
        self.worker = programs.worker(self.address, "--nworkers", "1")
        self.client = minidask.Client(self.address)
        self.client.wait_for_workers(1, timeout=30)
        assert self.client.submit(neg, 1).result(30) == -1

    def serves(self) -> str:
        return str(self.client.scheduler_info()["machines"][0]["serves"])

    def store(self) -> Path:
        (store,) = SHARED_MEMORY.glob(f"minidask-{self.worker.process.pid}-*")
        return store

    def is_well(self) -> None:
        """Client and daemons are those of before, and a new client is served too."""
        assert self.client.gather([self.client.submit(neg, i) for i in range(3)]) == [0, -1, -2]
        with minidask.Client(self.address) as another:
            assert another.submit(neg, 7).result(30) == -7
            assert len(another.scheduler_info()["machines"]) == 1
        assert self.scheduler.process.poll() is None and self.worker.process.poll() is None
        assert "joined the scheduler" not in self.worker.text.partition("joined the scheduler")[2], "it was cut off"


@pytest.fixture
def cluster(programs: Programs) -> Iterator[Cluster]:
    cluster = Cluster(programs)
    yield cluster
    cluster.client.close()


def test_gigabytes_that_are_only_announced_cost_nothing(cluster: Cluster) -> None:
    """In a frame, and in an offer, which a worker is to fetch."""
    before = rss(cluster.scheduler), sum(path.stat().st_blocks for path in cluster.store().iterdir())
    peers = [Hostile(cluster.address, role, {"slots": 0}) for role in ("client", "worker")]
    peers.append(Hostile(cluster.serves(), "peer", {}))
    for peer in peers:
        peer.say_bytes(PREFIX.pack(MAGIC, 1, 3) + SIZES[1].pack(3 << 30) + b"abc" + b"x")
    blob = b"Z" * 16
    liar = Hostile(cluster.address, "client", {})
    liar.say(m.OfferBlob(blob, 3 << 30, "p"), m.Submit(1, "t", 0, None, 0, None, [blob], [], False, {}, [b"x"]))
    liar.wait_for(m.FetchChunk)
    after = rss(cluster.scheduler), sum(path.stat().st_blocks for path in cluster.store().iterdir())
    assert after[0] - before[0] < 32 * MIB and (after[1] - before[1]) * 512 < 32 * MIB
    for peer in (*peers, liar):
        peer.close()
    cluster.is_well()


@pytest.mark.parametrize(
    "request_", [(b"x" * 200, 0, 10), (b"x" * 16, 1 << 63, 10), (b"x" * 16, (1 << 63) - 1, 10), (b"", 0, 0)], ids=str
)
def test_a_request_for_what_cannot_be_raises_in_nobody(request_: tuple[bytes, int, int], cluster: Cluster) -> None:
    with Hostile(cluster.address, "client", {}) as liar, Hostile(cluster.serves(), "peer", {}) as peer:
        liar.say(*(m.FetchChunk(*request_, number) for number in range(1, 6)))
        peer.say(m.FetchChunk(*request_, 0))
        assert "malformed" in liar.wait_for(m.Goodbye).reason
        assert "malformed" in peer.wait_for(m.Goodbye).reason
    cluster.is_well()


def test_chunks_that_are_asked_for_and_not_read_do_not_pile_up(cluster: Cluster) -> None:
    """64 KB of requests, of which each is answered by a megabyte."""
    data = cluster.client.scatter(np.random.default_rng(0).random(1 << 20))
    cluster.client.submit(len, data).result(30)
    blob = max(cluster.store().glob("?" * 32), key=lambda path: path.stat().st_size)
    asked = m.FetchChunk(bytes.fromhex(blob.name), 0, CHUNK_BYTES, 0)
    before = rss(cluster.worker)
    with Hostile(cluster.serves(), "peer", {}) as peer:
        peer.say(*[asked] * 2000)
        highest, end = 0, time.monotonic() + 3
        while time.monotonic() < end:
            highest = max(highest, rss(cluster.worker) - before)
            time.sleep(0.01)
        assert highest < 200 * MIB
        cluster.is_well()
        messages = peer.messages()
        assert all(type(next(messages)) is m.Chunk for _ in range(300)), "and who reads them after all gets them"


def test_answers_that_are_not_read_do_not_pile_up(cluster: Cluster) -> None:
    packages = {f"package{i}": "1" * 60 for i in range(45)}
    others = [Hostile(cluster.address, "worker", {"slots": 0, "packages": packages}) for _ in range(60)]
    before = rss(cluster.scheduler)
    with Hostile(cluster.address, "client", {}) as liar:
        liar.say(*(m.Ask(number) for number in range(3000)))
        highest, end = 0, time.monotonic() + 3
        while time.monotonic() < end:
            highest = max(highest, rss(cluster.scheduler) - before)
            time.sleep(0.01)
        assert highest < 250 * MIB
        assert cluster.client.submit(neg, 1).result(30) == -1
        messages = (message for message in liar.messages() if type(message) is m.Answer)
        assert [next(messages).request for _ in range(3000)] == [*range(3000)], "and who reads them gets all"
    for other in others:
        other.close()
    wait_until(lambda: len(cluster.client.scheduler_info()["machines"]) == 1, "they had left")
    cluster.is_well()


def test_a_name_of_megabytes_is_the_end_of_nobody_else(cluster: Cluster) -> None:
    for length in (1 << 20, (1 << 20) + 1, (1 << 24) - 100):
        with Hostile(cluster.address, "client", {}) as liar:
            liar.say(m.Submit(1, "n" * length, 0, None, 0, None, [], [], False, {}, [b"x"]))
            assert liar.wait_for(m.Goodbye if length > 1 << 20 else m.TaskRaised)
    cluster.is_well()


def test_the_name_of_a_blob_cannot_be_taken_by_other_bytes(cluster: Cluster) -> None:
    """Neither by bytes that come with it, nor by an offer, of whatever size."""
    with Hostile(cluster.address, "client", {}) as liar:
        liar.say(m.PutBlob(b"n" * 16, [b"other bytes"]))
        assert "not what its name says" in liar.wait_for(m.Goodbye).reason
    data = np.arange(300_000.0)
    with minidask.Client(cluster.address) as honest:
        handle = honest.scatter(data)
        (offer,) = [n for n in honest.shell.core._announced.values() if isinstance(n, m.OfferBlob)][-1:]
        honest.shell.blobs.close()
    del handle
    with Hostile(cluster.address, "client", {}) as liar:
        for size in (offer.size, 1, offer.size + 7):
            liar.say(m.OfferBlob(offer.blob, size, ""))
        with minidask.Client(cluster.address) as honest:
            handle = honest.scatter(data)
            future = honest.submit(np.sum, handle)
            for message in liar.messages():
                if isinstance(message, m.FetchChunk):
                    liar.say(m.Chunk(message.blob, message.offset, message.peer, [bytes(message.size)]))
                if message == m.ReleaseBlobs([offer.blob]) or future.done():
                    break
                if isinstance(message, m.FetchChunk):
                    break
            assert future.result(30) == data.sum()
    cluster.is_well()


def test_only_a_scheduler_that_says_so_can_be_ended_by_a_client(cluster: Cluster) -> None:
    began = time.monotonic()
    with pytest.raises(errors.MinidaskError, match="--allow-shutdown"):
        cluster.client.shutdown()
    assert time.monotonic() - began < 5
    with Hostile(cluster.address, "client", {}) as liar:
        liar.say(m.Shutdown())
        assert "not for its clients to end" in liar.wait_for(m.Goodbye).reason
    cluster.is_well()


def test_the_place_of_a_worker_cannot_be_taken(cluster: Cluster) -> None:
    """`uid` says which worker has come back: so nobody is told it."""
    assert "uid" not in cluster.client.scheduler_info()["machines"][0]
    with Hostile(cluster.address, "worker", {"slots": 0, "uid": ""}):
        pass
    cluster.is_well()


def test_what_others_are_called_cannot_control_a_terminal_nor_forge_a_line_of_a_log(cluster: Cluster) -> None:
    name = "\x1b]0;title\x07\nINFO all is well"
    with Hostile(cluster.address, "worker", {"slots": 0, "name": name}):
        wait_until(lambda: len(cluster.client.scheduler_info()["machines"]) == 2, "it had joined")
        shown = str(cluster.client.shell.workers.entries)
        assert r"\x1b]0;title" in shown and "\x1b" not in shown
    with Hostile(cluster.address, "client", {"name": name}):
        pass
    wait_until(lambda: cluster.scheduler.text.count("all is well") >= 2, "both were logged")
    assert "\x1b" not in cluster.scheduler.text and "\nINFO all is well" not in cluster.scheduler.text
    cluster.is_well()


def test_bytes_that_are_no_message_end_the_connection_that_they_came_over(cluster: Cluster) -> None:
    for role, info in (("client", {}), ("worker", {"slots": 3})):
        for bad in (b"GET / HTTP/1.1\r\n\r\n", b"mD" + bytes(6) + b"\xc1", b"".join(map(bytes, encode(m.Workers([]))))):
            with Hostile(cluster.address, role, info) as liar:
                liar.say_bytes(bad)
                for _ in liar.messages():
                    pass
    cluster.is_well()


def test_who_knows_the_key_of_a_client_cannot_take_its_place(cluster: Cluster) -> None:
    """A worker sees it in the numbers of tasks."""
    worker = Hostile(cluster.address, "worker", {"slots": 1000, "python": python_version()})
    futures = [cluster.client.submit(neg, number) for number in range(2)]
    key = worker.wait_for(m.Run).task // m.OUTLIVES
    liar = Hostile(cluster.address, "client", {"keys": [key - 1 or 2, key]})
    worker.close()
    assert cluster.client.gather(futures) == [0, -1]
    liar.close()
    cluster.is_well()
    assert "is cut off" not in cluster.scheduler.text
