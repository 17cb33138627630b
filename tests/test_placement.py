"""Which worker a task goes to."""

from __future__ import annotations

from minidask.scheduler.blobs import BlobShelf
from minidask.scheduler.placement import LOOK_AT, WorkerPool, next_assignment
from minidask.scheduler.ready import ReadyQueue
from minidask.scheduler.tasks import ClientRecord, TaskRecord, WorkerRecord

CLIENT = ClientRecord(1, "client")
SHELF = BlobShelf()
for name, size in ((b"a", 10), (b"b", 10), (b"c", 10), (b"big", 1000)):
    SHELF.offer(name, size, "", 1)


def worker(number: int, *blobs: bytes, slots: int = 1) -> WorkerRecord:
    return WorkerRecord(number, f"w{number}", f"w{number}", slots, 0, {}, 0.0, blobs=set(blobs))


def chosen(workers: list[WorkerRecord], *blobs: bytes, last: str | None = None) -> WorkerRecord:
    ready, pool = ReadyQueue(), WorkerPool()
    for record in workers:
        pool.update(record)
    ready.push(TaskRecord(1, CLIENT, 1, "t", 0, None, None, None, list(blobs), [b"x"], last_worker=last))
    assignment = next_assignment(ready, pool, SHELF)
    assert assignment is not None
    return assignment[1]


def test_the_one_that_has_waited_longest_takes_it() -> None:
    assert chosen([worker(2), worker(1), worker(3)]).peer == 2
    assert chosen([worker(2, b"a"), worker(1, b"a")], b"a").peer == 2


def test_rather_one_that_has_the_blobs() -> None:
    assert chosen([worker(1), worker(2, b"a"), worker(3, b"a", b"b")], b"a", b"b").peer == 3
    assert chosen([worker(1), worker(2, b"a"), worker(3)], b"a", b"b").peer == 2


def test_bytes_count_and_not_blobs() -> None:
    assert chosen([worker(1, b"a", b"b"), worker(2, b"big")], b"a", b"b", b"big").peer == 2


def test_no_task_waits_for_one_that_is_busy() -> None:
    assert chosen([worker(1), worker(2, b"a", slots=0)], b"a").peer == 1


def test_one_that_failed_at_it_is_the_last_choice_and_still_one() -> None:
    assert chosen([worker(1, b"a"), worker(2)], b"a", last="w1").peer == 2
    assert chosen([worker(1, b"a")], b"a", last="w1").peer == 1


def test_of_many_workers_only_some_are_looked_at() -> None:
    workers = [worker(number) for number in range(1, LOOK_AT + 1)]
    assert chosen([*workers, worker(99, b"a")], b"a").peer == 1
    assert chosen([*workers[1:], worker(99, b"a")], b"a").peer == 99
