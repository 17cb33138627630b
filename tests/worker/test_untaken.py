"""Results that a worker keeps for clients: they go when their client has left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from minidask.data.store import BlobStore
from minidask.wire import messages as m
from minidask.worker import events as e
from minidask.worker.untaken import Untaken
from tests.data.stores import KIB, data, new_store
from tests.rig import Rig, done, run

BLOB = b"p" * 16


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return new_store(tmp_path, 100 * KIB)


class Known:
    """In the place of a scheduler: who waits for which task."""

    def __init__(self, **clients: int) -> None:
        self.waits = {int(task[1:]): client for task, client in clients.items()}
        self.clients = set(clients.values())

    def recipient(self, task: int, attempt: int) -> int:
        return self.waits.get(task, 0)


def left(store: BlobStore, number: int) -> bytes:
    name = store.hand_over(data(number))
    store.accept(name)
    return name


def test_what_was_left_for_a_client_goes_when_it_has_left_and_not_before(store: BlobStore) -> None:
    known = Known(t1=7, t2=7, t3=8)
    untaken = Untaken(store, known)
    names = [left(store, number) for number in range(4)]
    for number, name in enumerate(names):
        untaken.add(number, 1, [name])
    assert store.results() == set(names[1:]), "nobody waits for the first"
    untaken.look()
    assert store.results() == set(names[1:])
    store.take(names[1])
    known.clients = {8}
    untaken.look()
    assert store.results() == {names[3]}
    known.clients = set()
    untaken.look()
    assert store.results() == set()
    shutil.rmtree(store.folder)
    untaken.add(3, 1, [BLOB])
    untaken.look()


def test_the_worker_of_a_shared_store_tells_outcomes_at_once_and_removes_what_nobody_is_told_of() -> None:
    rig = Rig()
    rig.core.data.shared = True
    rig.run(1)
    assert rig.do(e.ResultLeft(0, done(1), {BLOB: 100})) == [e.AwaitTaker(1, 1, [BLOB]), e.ToScheduler(done(1))]
    rig.run(2, timeout=1.0)
    rig.do(e.FromSlot(0, m.Began(2, 1)))
    rig.pass_time(2)
    stopped = m.Stopped(2, 1, "timeout", "it ran longer than its time limit of 1 seconds and was stopped")
    assert rig.do(e.ResultLeft(0, done(2), {BLOB: 100})) == [e.RemoveResult(BLOB), e.ToScheduler(stopped)]
    assert rig.do(e.ResultLeft(0, done(9), {BLOB: 100})) == [e.RemoveResult(BLOB)]
    assert rig.run(3) == [e.ToSlot(0, run(3))]
