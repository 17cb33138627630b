"""Which worker a task goes to."""

from __future__ import annotations

import pytest

from minidask.scheduler.blobs import BlobTable
from minidask.scheduler.placement import (
    LOOK_AT,
    MAX_NAMES,
    MAX_PREFETCH,
    WorkerPool,
    next_assignment,
    prefetch_depth,
    record_duration,
)
from minidask.scheduler.ready import ReadyQueue
from minidask.scheduler.tasks import ClientRecord, Running, TaskRecord, WorkerRecord

CLIENT = ClientRecord(1, "client")
SHELF = BlobTable()
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


def busy(record: WorkerRecord, count: int) -> WorkerRecord:
    record.tasks = {-n: TaskRecord(-n, CLIENT, -n, "t", 0, None, None, None, [], [b"x"]) for n in range(1, count + 1)}
    return record


def test_free_slots_count_relative_to_the_machines_size() -> None:
    assert chosen([busy(worker(1, slots=2), 1), busy(worker(2, slots=16), 4)]).peer == 2
    assert chosen([busy(worker(1, slots=2), 1), busy(worker(2, slots=16), 12)]).peer == 1
    assert chosen([busy(worker(1, b"a", slots=2), 1), worker(2, slots=16)], b"a").peer == 1


# --- how many a worker holds in advance ---


@pytest.mark.parametrize(
    ("seconds", "round_trip", "expected"),
    [
        (None, 0.001, 0),
        (0.001, None, 0),
        (0.009, 0.001, 1),  # a slot that idled for 1 ms after each would lose a tenth
        (0.011, 0.001, 0),
        (0.001, 0.001, 1),
        (0.0004, 0.001, 3),
        (0.0, 0.001, MAX_PREFETCH),
        (0.015, 0.1, 3),  # over a slow network no more than are not given back meanwhile
        (0.03, 0.1, 0),
    ],
)
def test_the_prefetch_depth_follows_measurements(
    seconds: float | None, round_trip: float | None, expected: int
) -> None:
    assert prefetch_depth(seconds, round_trip) == expected


def finish(record: WorkerRecord, name: str, seconds: float, took: float, *, direct: bool = True) -> None:
    task = TaskRecord(1, CLIENT, 1, name, 0, None, None, None, [], [b"x"], attempt=1)
    task.state = Running(record, record.seen if direct else None)
    record.seen += took
    record_duration(task, record, seconds)


def test_durations_are_learnt_by_the_functions_name_and_round_trips_from_calls_that_waited_for_nothing() -> None:
    CLIENT.seconds.clear()
    record = worker(1)
    finish(record, "f", 1.0, 3.0, direct=False)
    assert record.round_trip is None
    finish(record, "f", 2.0, 2.5)
    assert CLIENT.seconds == {"f": pytest.approx(1.2)}
    assert record.round_trip == pytest.approx(0.5)
    finish(record, "g", 2.0, 2.25)
    assert record.round_trip == pytest.approx(0.25), "the shortest is the way itself"
    finish(record, "g", 2.0, 3.25)
    assert record.round_trip == pytest.approx(0.45)
    for nonsense in (float("nan"), float("inf"), -1.0):
        finish(record, "h", nonsense, 1.0)
    assert "h" not in CLIENT.seconds


def test_names_that_never_come_again_do_not_pile_up() -> None:
    CLIENT.seconds.clear()
    for number in range(3 * MAX_NAMES):
        finish(worker(1), f"f{number}", 1.0, 1.0)
    assert len(CLIENT.seconds) <= MAX_NAMES
