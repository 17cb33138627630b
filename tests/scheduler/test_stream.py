"""What the scheduler tells those who look, and writes into its log: see scheduler/stream.py."""

from __future__ import annotations

from typing import Any

import pytest

from minidask.scheduler import stream
from minidask.scheduler.core import SchedulerCore
from minidask.scheduler.events import Event, Joined, Lagging, Left, Received, Tick
from minidask.scheduler.invariants import check
from minidask.scheduler.stream import BATCH_SECONDS, LOG, STORY
from minidask.wire import messages as m
from minidask.wire.large import blob_id
from minidask.wire.observing import Activity, Events, Explain, Subscribe
from minidask.wire.packing import pack, unpack

CLIENT, VIEWER, WORKER, OTHER = 1, 2, 11, 12


class Room:
    """A core with a client, somebody who looks, and a machine of one worker. Each event is a tenth of a second."""

    def __init__(self, *, looked_at: bool = True) -> None:
        self.core = SchedulerCore()
        self.time = 100.0
        self.runs: list[tuple[int, m.Run]] = []
        self.sent: list[tuple[int, m.Message]] = []
        self.do(Joined(CLIENT, "client", "a", {"name": "sarah"}))
        self.do(Joined(VIEWER, "client", "b", {"name": "viewer"}))
        self.do(Joined(WORKER, "worker", "tcp://m1", {"slots": 1, "name": "m1", "host": "host1"}))
        if looked_at:
            self.look()

    def do(self, event: Event) -> list[tuple[int, m.Message]]:
        self.time += BATCH_SECONDS
        out = [*self.core.handle(event, self.time), *self.core.assign(self.time)]
        check(self.core)
        self.runs += [(peer, message) for peer, message in out if isinstance(message, m.Run)]
        self.sent += out
        return out

    def look(self, on: bool = True, viewer: int = VIEWER) -> list[tuple[int, m.Message]]:
        return self.do(Received(viewer, Subscribe(on)))

    def submit(self, number: int = 1, **fields: Any) -> m.Run | None:
        """Submit a task; returns its attempt, if it has begun."""
        task = m.Submit(number, "fit", 0, None, 0, None, [], [], False, {}, [b"call"])
        out = self.do(Received(CLIENT, task._replace(**fields)))
        return next((message for _, message in out if isinstance(message, m.Run)), None)

    def says(self, message: m.Message, worker: int = WORKER) -> list[tuple[int, m.Message]]:
        return self.do(Received(worker, message))

    def batches(self, viewer: int = VIEWER) -> list[Events]:
        return [message for peer, message in self.sent if peer == viewer and isinstance(message, Events)]

    def rows(self, kind: str = "", viewer: int = VIEWER) -> list[list[Any]]:
        """What was told, without the times."""
        self.do(Lagging(CLIENT, False))  # some time passes, so that the batch is due
        rows = [row for batch in self.batches(viewer) for row in unpack(batch.payload[0])]
        return [[row[0], *row[2:]] for row in rows if not kind or row[0] == kind]

    def log(self) -> list[str]:
        return [message.text for peer, message in self.sent if peer in (LOG, STORY) and isinstance(message, m.Notice)]


def test_nothing_is_told_and_no_worker_is_asked_while_nobody_looks() -> None:
    room = Room(looked_at=False)
    run = room.submit()
    assert run is not None
    room.says(m.Done(run.task, run.attempt, 0.1, [b"result"]))
    room.do(Tick())
    kinds = {type(message) for _, message in room.sent}
    assert not kinds & {Events, Subscribe}
    assert not room.core.stream._rows


def test_who_looks_first_gets_a_snapshot_with_what_runs() -> None:
    room = Room(looked_at=False)
    run = room.submit()
    room.submit(2)
    assert run is not None
    out = room.look()
    assert (WORKER, Subscribe(True)) in out
    snapshot, started = room.rows()[:2]
    assert snapshot[0] == "snapshot"
    assert [machine["name"] for machine in snapshot[1]["machines"]] == ["m1"]
    assert [(client["name"], client["queued"]) for client in snapshot[1]["clients"]] == [("sarah", 1), ("viewer", 0)]
    assert started == ["started", run.task, "fit", CLIENT, "tcp://m1", 1]


def test_a_task_is_told_from_its_submission_to_its_end() -> None:
    room = Room()
    run = room.submit()
    assert run is not None
    room.says(m.Done(run.task, run.attempt, 0.5, [b"result"]))
    assert room.rows()[1:] == [
        ["submitted", run.task, "fit", CLIENT, 0, 0],
        ["started", run.task, "fit", CLIENT, "tcp://m1", 1],
        ["ended", run.task, "fit", CLIENT, "tcp://m1", "done", 0.5, ""],
    ]


def test_a_task_that_raises_is_told_with_its_error() -> None:
    room = Room()
    run = room.submit()
    assert run is not None
    room.says(m.Failed(run.task, run.attempt, 0.5, "Traceback:\n  line\nValueError: no\n", [b"e"]))
    assert room.rows("ended") == [
        ["ended", run.task, "fit", CLIENT, "tcp://m1", "raised", 0.5, "ValueError: no"],
    ]


def test_a_task_whose_process_dies_thrice_is_told_and_logged_each_time() -> None:
    room = Room()
    run = room.submit()
    for _ in range(3):
        assert run is not None
        out = room.says(m.Died(run.task, run.attempt, "SIGKILL", "out of memory"))
        run = next((message for _, message in out if isinstance(message, m.Run)), None)
    again = room.rows("again")
    assert [row[5] for row in again] == ["died"] * 3
    assert all("SIGKILL (out of memory)" in row[6] for row in again)
    ((*_, how, _, text),) = room.rows("ended")
    assert how == "died" and "it was tried 3 times" in text
    deaths = [line for line in room.log() if "has lost its worker process" in line]
    assert [
        f"task 'fit' of client sarah has lost its worker process, death {n}: on m1 " in line
        for n, line in enumerate(deaths, 1)
    ] == [True] * 3
    assert [line for line in room.log() if "is lost" in line and "tried 3 times" in line]


def test_the_death_of_a_lease_is_told_and_its_tasks_are_not() -> None:
    room = Room()
    room.do(Received(CLIENT, m.OpenGroup(1, 2, [])))
    run = room.submit(lease=True, group=1)
    assert run is not None
    room.says(m.Died(run.task, run.attempt, "SIGSEGV", "a crash"))
    assert [row[0] for row in room.rows()] == ["snapshot", "again"]
    assert any("the lease for calls of 'fit'" in line for line in room.log())


def test_a_lease_that_runs_is_in_no_snapshot() -> None:
    room = Room(looked_at=False)
    room.do(Received(CLIENT, m.OpenGroup(1, 2, [])))
    assert room.submit(lease=True, group=1) is not None
    room.look()
    assert [row[0] for row in room.rows()] == ["snapshot"], "nothing would tell of its end"


def test_a_task_that_runs_too_long_is_logged() -> None:
    room = Room()
    run = room.submit(timeout=1.0)
    assert run is not None
    room.says(m.Stopped(run.task, run.attempt, m.Reason.TIMEOUT, "it ran longer than its time limit of 1 seconds"))
    ((*_, how, _, text),) = room.rows("ended")
    assert how == "stopped" and "time limit" in text
    assert any("task 'fit' of client sarah is lost: it ran longer" in line for line in room.log())


def test_a_cancelled_task_has_ended_once_its_worker_has_stopped_it() -> None:
    room = Room()
    run = room.submit()
    room.submit(2)
    assert run is not None
    room.do(Received(CLIENT, m.Cancel([1, 2], True)))
    assert [row[4:6] for row in room.rows("ended")] == [["", "cancelled"]]
    room.says(m.Stopped(run.task, run.attempt, m.Reason.CANCELLED, "it was cancelled"))
    assert [row[4:6] for row in room.rows("ended")] == [["", "cancelled"], ["tcp://m1", "cancelled"]]


def test_a_machine_is_told_when_it_joins_changes_and_leaves_with_the_true_reason() -> None:
    room = Room()
    room.submit()
    out = room.do(Joined(OTHER, "worker", "tcp://m2", {"slots": 4, "name": "m2", "host": "h", "python": "3.12.1"}))
    assert (OTHER, Subscribe(True)) in out
    room.says(m.Resized(2), OTHER)
    room.do(Left(WORKER, "its machine has not answered for 15 seconds", cut=True))
    told = [row for row in room.rows() if row[0].startswith("machine")]
    assert told == [
        ["machine", "tcp://m2", "m2", 4, "h", "3.12.1"],
        ["machine", "tcp://m2", "m2", 2, "h", "3.12.1"],
        ["machine-left", "tcp://m1", "m1", "its machine has not answered for 15 seconds", 1],
    ]
    again, started = room.rows("again"), room.rows("started")
    assert [row[4:6] for row in again] == [["tcp://m1", "lost"]]
    assert started[-1][4] == "tcp://m2"
    assert any("machine m1 is lost: its machine has not answered" in line for line in room.log())


def test_a_silent_machine_leaves_because_it_was_silent() -> None:
    room = Room()
    for _ in range(20):
        room.time += 1
        room.do(Tick())
    room.look()
    ((*_, reason, _),) = room.rows("machine-left")
    assert reason == "it was silent for 15 seconds"


def test_clients_are_told_but_not_those_of_slots() -> None:
    room = Room()
    room.do(Joined(5, "client", "c", {"name": "tom"}))
    room.do(Joined(6, "client", "d", {"name": "slot", "nested": True}))
    room.do(Left(6, "gone"))
    room.do(Left(5, "it closed the connection"))
    told = [row for row in room.rows() if row[0].startswith("client")]
    assert told == [["client", 5, "tom"], ["client-left", 5, "tom", "it closed the connection"]]


def test_counts_come_once_a_second() -> None:
    room = Room()
    room.submit()
    room.submit(2)
    room.do(Tick())
    ((_, clients, tasks),) = room.rows("counts")
    assert [(client["queued"], client["running"]) for client in clients if client["name"] == "sarah"] == [(1, 1)]
    assert tasks["queued"] == 1


def test_a_batch_comes_each_tenth_of_a_second_at_most() -> None:
    room = Room()
    before = len(room.batches())
    for number in range(100):
        room.time += -BATCH_SECONDS + BATCH_SECONDS / 50
        room.submit(number)
    assert 1 <= len(room.batches()) - before <= 3
    assert len(room.rows("submitted")) == 100


def test_what_a_viewer_does_not_read_is_left_out_and_counted() -> None:
    room = Room()
    room.do(Lagging(VIEWER, True))
    before = len(room.batches())
    for number in range(5):
        room.submit(number)
    assert len(room.batches()) == before
    room.do(Lagging(VIEWER, False))
    room.submit(5)
    room.rows()
    assert room.batches()[before].dropped >= 5


def test_too_many_events_at_once_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_ROWS", 3)
    room = Room()
    for number in range(10):
        room.time -= BATCH_SECONDS
        room.submit(number)
    room.rows()
    assert sum(batch.dropped for batch in room.batches()) == 11 - 3, "10 submitted, 1 started"


def test_all_viewers_are_told_and_workers_rest_when_the_last_one_leaves() -> None:
    room = Room()
    room.do(Joined(3, "client", "c", {"name": "second"}))
    out = room.look(viewer=3)
    assert (WORKER, Subscribe(True)) not in out, "it has been asked already"
    room.submit()
    assert [row[0] for row in room.rows(viewer=3)] == ["snapshot", "submitted", "started"]
    assert room.rows("submitted") == room.rows("submitted", viewer=3)
    out = room.look(on=False)
    assert (WORKER, Subscribe(False)) not in out
    out = room.do(Left(3, "it closed the connection"))
    assert (WORKER, Subscribe(False)) in out
    before = len(room.batches())
    room.submit(2)
    room.rows()
    assert len(room.batches()) == before


def test_who_looks_again_gets_another_snapshot() -> None:
    room = Room()
    room.submit()
    room.look()
    assert [row[0] for row in room.rows()] == ["snapshot", "submitted", "started", "snapshot", "started"]


def test_what_a_worker_tells_is_passed_on_as_it_is() -> None:
    room = Room()
    room.says(Activity([b"anything"]))
    assert room.rows("activity") == [["activity", "tcp://m1", b"anything"]]
    room.says(Activity([bytes(stream.MOST_BYTES + 1)]))
    assert len(room.rows("activity")) == 1
    assert sum(batch.dropped for batch in room.batches()) == 1


def test_workers_together_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_BYTES_AT_ONCE", 1000)
    room = Room()
    for _ in range(30):
        room.time -= BATCH_SECONDS
        room.says(Activity([bytes(100)]))
    assert len(room.rows("activity")) == 10


def test_large_data_that_a_machine_has_got_is_told_with_its_source() -> None:
    room = Room()
    room.do(Joined(OTHER, "worker", "tcp://m2", {"slots": 1, "name": "m2", "serves": "tcp://m2:1"}))
    blob = bytes(16)
    room.do(Received(CLIENT, m.OfferBlob(blob, 5000, "")))
    room.submit(1, blobs=[blob])
    room.submit(2, blobs=[blob])
    for peer, _ in list(room.runs):
        room.says(m.HaveBlob(blob), peer)
    told = {row[3]: row[4] for row in room.rows("fetched")}
    assert set(told) == {"tcp://m1", "tcp://m2"}
    assert "" in told.values(), "the first one has it from the client"


def test_a_snapshot_has_all_data_and_who_has_it() -> None:
    room = Room(looked_at=False)
    room.do(Joined(OTHER, "worker", "tcp://m2", {"slots": 1, "name": "m2", "place": "host:/store"}))
    large, shared, small = (bytes([n]) * 16 for n in range(3))
    payload: list[Any] = [b"bytes"]
    small = blob_id(payload)
    room.do(Received(CLIENT, m.OfferBlob(large, 5000, "")))
    room.do(Received(CLIENT, m.OfferBlob(shared, 4000, "host:/store")))
    room.do(Received(CLIENT, m.PutBlob(small, payload)))
    room.submit(1, blobs=[large, small], pin="tcp://m1")
    room.look()
    assert room.rows("data") == [
        ["data", large.hex(), 5000, []],
        ["data", shared.hex(), 4000, ["tcp://m2"]],
        ["data", small.hex(), 5, ["tcp://m1"]],
    ], "m1 has not said yet that it has it, and m2 shares the client's store"
    room.says(m.HaveBlob(large))
    room.look()
    assert room.rows("data")[3] == ["data", large.hex(), 5000, ["tcp://m1"]]


def test_what_runs_is_in_a_snapshot_with_the_time_since_when() -> None:
    room = Room(looked_at=False)
    room.submit()
    began = room.time
    room.time += 50
    room.look()
    (row,) = [row for row in unpack(room.batches()[-1].payload[0]) if row[0] == "started"]
    assert row[1] == began


# --- the story of a task ---


def story(room: Room, task: int, own: bool = True, peer: int = CLIENT) -> list[list[Any]]:
    """The answer to the question what has become of a task."""
    out = room.do(Received(peer, Explain(1, task, own)))
    (info,) = [message.info for _, message in out if isinstance(message, m.Answer)]
    assert info["now"] == room.time
    return [list(row) for row in info["rows"]]


def test_the_story_of_a_task_has_its_attempts_with_their_times_though_nobody_looked() -> None:
    room = Room(looked_at=False)
    run = room.submit()
    first = room.time
    assert run is not None
    room.says(m.Died(run.task, run.attempt, "SIGKILL", "out of memory"))
    second = room.time
    told = story(room, 1)
    assert [row[:2] for row in told] == [["started", first], ["again", second], ["started", second]]
    assert [row[6] for row in told] == [1, "died", 2]
    assert story(room, run.task, own=False, peer=VIEWER) == told, "others ask by the scheduler's number"
    room.says(m.Done(run.task, 2, 0.1, [b"result"]))
    assert [row[:2] for row in story(room, run.task, own=False)] == [["started", first], ["again", second]]


def test_a_client_asks_for_a_task_of_its_own_that_is_over() -> None:
    room = Room(looked_at=False)
    room.do(Joined(3, "client", "c", {"name": "ann", "keys": [7], "uid": "secret"}))
    room.do(Received(3, m.Submit(1, "fit", 0, None, 0, None, [], [], False, {}, [b"call"])))
    (_, run) = room.runs[-1]
    room.says(m.Died(run.task, run.attempt, "SIGKILL", "out of memory"))
    room.says(m.Done(run.task, 2, 0.1, [b"result"]))
    assert [row[0] for row in story(room, 1, peer=3)] == ["started", "again"]
    assert story(room, 1) == [], "another client's task of this number is another one"


def test_of_tasks_that_go_well_nothing_is_kept_and_of_others_not_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_KEPT", 3)
    room = Room(looked_at=False)
    numbers = []
    for number in range(1, 10):
        run = room.submit(number)
        assert run is not None
        if number % 2:
            room.says(m.Died(run.task, 1, "SIGKILL", "out of memory"))
            numbers.append(run.task)
        room.says(m.Done(run.task, 2 if number % 2 else 1, 0.1, [b"result"]))
    assert list(room.core.stream._kept) == numbers[-3:]


def test_tasks_that_nobody_could_run_are_one_line_of_the_log() -> None:
    room = Room(looked_at=False)
    room.do(Left(WORKER, "it closed the connection"))
    for number in range(3):
        room.submit(number)
    for _ in range(80):
        room.time += 1
        room.do(Tick())
    assert sum("client sarah has lost 3 tasks that had not begun" in line for line in room.log()) == 1


def test_whoever_shuts_the_cluster_down_is_named_in_the_log() -> None:
    room = Room(looked_at=False)
    room.core.allow_shutdown = True
    room.do(Received(CLIENT, m.Shutdown()))
    assert "client sarah shuts the cluster down" in room.log()


def test_all_that_is_told_can_be_packed() -> None:
    room = Room()
    run = room.submit(name="odd \udcff name")
    assert run is not None
    room.says(m.Failed(run.task, run.attempt, 0.5, "ValueError: \udcff", [b"e"]))
    assert room.rows("ended")[0][2] == "odd \udcff name"
    assert pack([1])
