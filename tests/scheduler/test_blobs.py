"""The rule by which a worker is told where to fetch a large blob."""

from __future__ import annotations

from minidask.scheduler.blobs import RELAY, BlobTable


def table(*workers: int) -> BlobTable:
    """One blob, which these workers were told to fetch, one after the other."""
    blobs = BlobTable()
    blobs.offer(b"x", 100, "", 99)
    for worker in workers:
        assert blobs.choose_source(b"x", worker, range(100))
    return blobs


def sources(blobs: BlobTable) -> dict[int, int]:
    return {worker: copy.source for worker, copy in blobs.records[b"x"].copies.items()}


def test_the_client_sends_once_and_workers_pass_it_on() -> None:
    assert sources(table(1, 2, 3, 4)) == {1: RELAY, 2: 1, 3: 2, 4: 3}


def test_two_that_have_it_share_the_work() -> None:
    blobs = table(1, 2)
    for copy in blobs.records[b"x"].copies.values():
        copy.complete = True
    for worker in (3, 4):
        blobs.choose_source(b"x", worker, {1, 2})
    assert sources(blobs) == {1: RELAY, 2: 1, 3: 1, 4: 2}


def test_where_nobody_serves_the_client_sends_to_each() -> None:
    blobs = BlobTable()
    blobs.offer(b"x", 100, "", 99)
    for worker in (1, 2):
        blobs.choose_source(b"x", worker, ())
    assert sources(blobs) == {1: RELAY, 2: RELAY}


def test_a_lost_source_is_replaced_and_never_by_one_that_hangs_on_the_seeker() -> None:
    blobs = table(1, 2, 3)
    assert blobs.lose_copy(b"x", 1) == [2]
    assert blobs.choose_source(b"x", 2, range(100))
    assert sources(blobs) == {2: RELAY, 3: 2}, "3 gets it from 2, so 2 cannot get it from 3"


def test_a_source_that_failed_is_not_tried_again_and_the_client_is_the_last_resort() -> None:
    blobs = table(1, 2)
    copy = blobs.records[b"x"].copies[2]
    copy.failed.add(1)
    assert blobs.choose_source(b"x", 2, range(100))
    assert copy.source == RELAY
    copy.failed.add(RELAY)
    assert not blobs.choose_source(b"x", 2, range(100))
