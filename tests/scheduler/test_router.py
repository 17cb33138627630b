"""Where workers are told to fetch large data, as clients and workers come and go; the scheduler's core driven alone."""

from __future__ import annotations

from collections.abc import Iterable

from minidask.scheduler import invariants
from minidask.scheduler.blobs import RELAY, BlobTable
from minidask.scheduler.core import SchedulerCore
from minidask.scheduler.events import Joined, Left, Received
from minidask.wire import messages as m

BLOB = b"x" * 16
SIZE = 4


class Cluster:
    """A core, its clients and workers, and what each of them was sent last."""

    def __init__(self, clients: Iterable[int], workers: Iterable[int]) -> None:
        self.core = SchedulerCore()
        for client in clients:
            self.core.handle(Joined(client, "client", f"tcp://c:{client}", {}), 0.0)
        for worker in workers:
            info = {"slots": 1, "serves": f"tcp://w:{worker}", "place": f"machine{worker}:/store"}
            self.core.handle(Joined(worker, "worker", f"tcp://w:{worker}", info), 0.0)

    def say(self, peer: int, *messages: m.Message) -> list[tuple[int, m.Message]]:
        sent = []
        for message in messages:
            sent += self.core.handle(Received(peer, message), 0.0)
        sent += self.core.assign(0.0)
        invariants.check(self.core)
        return sent

    def leave(self, peer: int) -> list[tuple[int, m.Message]]:
        sent = self.core.handle(Left(peer, "gone"), 0.0)
        invariants.check(self.core)
        return sent


def submit(task: int, pin: int) -> m.Submit:
    return m.Submit(task, "f", 0, None, 0, f"tcp://w:{pin}", [BLOB], [], False, {}, [b"call"])


OFFER = m.OfferBlob(BLOB, SIZE, "")
WANTED = m.FetchChunk(BLOB, 0, SIZE, 0)


def test_when_a_client_leaves_others_go_on_with_another_one_that_has_the_same() -> None:
    cluster = Cluster([1, 2], [5])
    cluster.say(1, OFFER, submit(1, pin=5))
    cluster.say(2, OFFER, submit(1, pin=5))
    assert cluster.say(5, WANTED) == [(1, WANTED._replace(peer=5))]
    assert (5, m.NeedBlob(BLOB, SIZE, "", [])) in cluster.leave(1), "the worker asks again for what has not come"
    assert cluster.say(5, WANTED) == [(2, WANTED._replace(peer=5))]


def test_when_a_client_lets_go_the_others_are_asked() -> None:
    cluster = Cluster([1, 2], [5])
    cluster.say(1, OFFER)
    cluster.say(2, OFFER, submit(1, pin=5))
    assert cluster.say(1, m.ReleaseBlobs([BLOB])) == [(5, m.NeedBlob(BLOB, SIZE, "", []))]
    assert cluster.say(5, WANTED) == [(2, WANTED._replace(peer=5))]


def test_a_client_that_had_no_room_and_sent_the_bytes_is_not_asked_for_them() -> None:
    cluster = Cluster([1, 2], [5])
    cluster.say(1, OFFER)
    cluster.say(2, m.PutBlob(BLOB, [b"data"]), submit(1, pin=5))
    cluster.leave(1)
    assert cluster.say(5, WANTED) == [(5, m.Chunk(BLOB, 0, 0, [b"data"]))]
    for wrong in (WANTED._replace(offset=1), WANTED._replace(offset=-1), WANTED._replace(size=0)):
        ((peer, refusal),) = cluster.say(5, wrong)
        assert peer == 5 and isinstance(refusal, m.NoBlob)
    cluster = Cluster([1, 2], [5])
    cluster.say(2, m.PutBlob(BLOB, [b"data"]))
    assert (5, m.PutBlob(BLOB, [b"data"])) in cluster.say(1, OFFER, submit(1, pin=5))


def test_only_stores_on_its_own_machine_are_named_to_a_worker() -> None:
    cluster = Cluster([1], [5, 6])
    offer = OFFER._replace(place="machine6:/mine")
    assert (5, m.NeedBlob(BLOB, SIZE, "", [])) in cluster.say(1, offer, submit(1, pin=5))
    cluster.say(5, m.HaveBlob(BLOB))
    assert (6, m.NeedBlob(BLOB, SIZE, "tcp://w:5", ["machine6:/mine"])) in cluster.say(1, submit(2, pin=6))


def test_behind_a_firewall_the_client_is_asked_after_two_others() -> None:
    cluster = Cluster([1], range(5, 10))
    for worker in range(5, 9):
        cluster.say(1, *([OFFER] if worker == 5 else []), submit(worker, pin=worker))
        cluster.say(worker, m.HaveBlob(BLOB))
    sources = []
    sent = cluster.say(1, submit(9, pin=9))
    while True:
        (source,) = [message.source for peer, message in sent if peer == 9 and isinstance(message, m.NeedBlob)]
        sources.append(source)
        if not source:
            break
        sent = cluster.say(9, m.FetchFailed(BLOB, source, "no answer"))
    assert len(sources) == 3
    assert len(set(sources)) == 3


def test_a_thousand_workers_are_one_chain_that_a_loss_cuts_and_joins_again() -> None:
    table = BlobTable()
    table.offer(BLOB, SIZE, "", 1)
    serving = range(1, 1001)
    for worker in serving:
        table.choose_source(BLOB, worker, serving)
    for worker in (1, 500):
        for peer in table.lose_copy(BLOB, worker):
            table.choose_source(BLOB, peer, serving)
    copies = table.records[BLOB].copies
    assert sum(copy.source == RELAY for copy in copies.values()) <= 2
