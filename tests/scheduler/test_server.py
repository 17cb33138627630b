"""The scheduler's shell without sockets: bad messages and errors of ours end one peer, and every task is settled."""

from __future__ import annotations

from typing import Any

import pytest

from minidask.errors import ProtocolError
from minidask.net.access import Access
from minidask.net.credentials import Credentials
from minidask.scheduler import attempts
from minidask.scheduler.core import SchedulerCore
from minidask.scheduler.events import Left, Received, Tick
from minidask.scheduler.server import SchedulerServer
from minidask.wire import messages as m
from minidask.wire.codec import encode
from minidask.wire.large import blob_id
from tests.links import Peer

SECRET = b"s" * 32


class Scheduler:
    """A server with a core, and no sockets; its peers take the place of those that came over one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("minidask.scheduler.server.MessageLink", Peer)
        self.server = SchedulerServer(SchedulerCore(), Credentials(Access(SECRET)))
        self.core = self.server.core

    def join(self, role: str, **info: Any) -> tuple[int, Peer]:
        link = Peer()
        return self.server.attach(link, role, f"tcp://{role}:{len(self.server._links)}", info), link

    def say(self, peer: int, *messages: m.Message) -> None:
        self.server.post(*(Received(peer, message) for message in messages))

    def leave(self, peer: int) -> None:
        del self.server._links[peer]
        self.server.post(Left(peer, "it was told to go"))

    def submit(self, client: int, task: int, name: str = "f") -> None:
        self.say(client, m.Submit(task, name, 0, None, 0, None, [], [], False, {}, [b"call"]))


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    return Scheduler(monkeypatch)


def test_a_worker_with_an_unknown_reason_goes_and_its_task_runs_elsewhere(scheduler: Scheduler) -> None:
    client, to_client = scheduler.join("client")
    bad, to_bad = scheduler.join("worker", slots=1)
    scheduler.submit(client, 1)
    (run,) = to_bad.of(m.Run)
    scheduler.say(bad, m.Stopped(run.task, run.attempt, "bored", ""), m.Done(run.task, run.attempt, 0.1, [b"r"]))
    (goodbye,) = to_bad.of(m.Goodbye)
    assert "reason 'bored'" in goodbye.reason and to_bad.closed
    assert not to_client.of(m.TaskDone), "what comes after a mistake counts no more"
    scheduler.leave(bad)
    good, to_good = scheduler.join("worker", slots=1)
    (again,) = to_good.of(m.Run)
    scheduler.say(good, m.Done(again.task, again.attempt, 0.1, [b"r"]))
    assert [done.task for done in to_client.of(m.TaskDone)] == [1]


def test_an_error_of_ours_ends_the_peer_whose_message_it_was(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And the task that it has cut loose is told to be lost."""
    client, to_client = scheduler.join("client")
    worker, to_worker = scheduler.join("worker", slots=2, prefetch=1)
    scheduler.submit(client, 1)
    scheduler.submit(client, 2)
    run, other = to_worker.of(m.Run)
    monkeypatch.setattr(attempts, "record_duration", lambda *_: 1 / 0)
    scheduler.say(worker, m.Done(run.task, run.attempt, 0.1, [b"result"]))
    (goodbye,) = to_worker.of(m.Goodbye)
    assert "ZeroDivisionError" in goodbye.reason
    assert [(lost.task, lost.reason) for lost in to_client.of(m.TaskLost)] == [(1, "internal")]
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    scheduler.leave(worker)
    another, to_another = scheduler.join("worker", slots=2)
    (again,) = to_another.of(m.Run)
    scheduler.say(another, m.Done(again.task, again.attempt, 0.1, [b"result"]))
    assert [done.task for done in to_client.of(m.TaskDone)] == [2]
    assert not scheduler.core.attempts.tasks and not to_client.closed
    assert other.task == again.task


def test_an_error_of_ours_in_placing_a_task_loses_that_one(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client, to_client = scheduler.join("client")
    worker, to_worker = scheduler.join("worker", slots=1)
    with monkeypatch.context() as patch:
        patch.setattr(scheduler.core.data, "give", lambda *_: 1 / 0)
        scheduler.submit(client, 1)
    assert [(lost.task, lost.reason) for lost in to_client.of(m.TaskLost)] == [(1, "internal")]
    scheduler.submit(client, 2)
    (run,) = to_worker.of(m.Run)
    scheduler.say(worker, m.Done(run.task, run.attempt, 0.1, [b"result"]))
    assert [done.task for done in to_client.of(m.TaskDone)] == [2]
    assert not scheduler.server.stopped.is_set()
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("where", ["assign", "leave", "tick"])
def test_where_nothing_can_be_relied_on_every_peer_is_told(
    where: str, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client, to_client = scheduler.join("client")
    _, to_other = scheduler.join("client")
    worker, to_worker = scheduler.join("worker", slots=1)
    if where == "assign":
        monkeypatch.setattr(scheduler.core.attempts, "assign_ready", lambda now: 1 / 0)
        scheduler.submit(client, 1)
    elif where == "leave":
        monkeypatch.setattr(scheduler.core, "_lose_worker", lambda *_: 1 / 0)
        scheduler.leave(worker)
    else:
        monkeypatch.setattr(scheduler.core, "_tick", lambda *_: 1 / 0)
        scheduler.server.post(Tick())
    assert scheduler.server.stopped.is_set()
    for peer in (to_client, to_other, *([to_worker] if where != "leave" else [])):
        assert "an error inside the scheduler" in peer.of(m.Goodbye)[0].reason and peer.closed
    assert "ZeroDivisionError" in caplog.text


def test_what_cannot_be_sent_ends_what_it_is_about_and_no_connection(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run, an outcome, an answer, the data of a task."""
    client, to_client = scheduler.join("client")
    worker, to_worker = scheduler.join("worker", slots=1)
    too_long: set[type] = set()

    def check(message: m.Message) -> list[Any]:
        if type(message) in too_long:
            raise ProtocolError("a frame is over the limit")
        return encode(message)

    monkeypatch.setattr("tests.links.encode", check)
    too_long.add(m.Run)
    scheduler.submit(client, 1)
    (lost,) = to_client.of(m.TaskLost)
    assert (lost.task, lost.reason) == (1, "serialization") and "over the limit" in lost.text
    too_long.clear()
    scheduler.submit(client, 2)
    (run,) = to_worker.of(m.Run)
    too_long.add(m.TaskDone)
    scheduler.say(worker, m.Done(run.task, run.attempt, 0.1, [b"r"]))
    assert [lost.task for lost in to_client.of(m.TaskLost)] == [1, 2]
    too_long.add(m.PutBlob)
    blob = blob_id([b"data"])
    scheduler.say(client, m.PutBlob(blob, [b"data"]))
    scheduler.say(client, m.Submit(3, "f", 0, None, 0, None, [blob], [], False, {}, [b"call"]))
    assert [lost.blob for lost in to_worker.of(m.BlobLost)] == [blob]
    scheduler.core.info["odd"] = 1 << 70  # no msgpack can hold it
    scheduler.say(client, m.Ask(1))
    (answer,) = to_client.of(m.Answer)
    assert "cannot be sent" in answer.info["error"]
    assert not to_client.closed and not to_worker.closed
    assert not to_client.of(m.Goodbye) and not to_worker.of(m.Goodbye)


def test_whoever_joins_is_told_of_thousands_of_workers_in_messages_that_can_be_sent(scheduler: Scheduler) -> None:
    for _ in range(2500):
        scheduler.join("worker", slots=0, packages={f"package{i}": "1" * 64 for i in range(40)})
    _, to_client = scheduler.join("client")
    assert len(to_client.of(m.Workers)[0].workers) + len(to_client.of(m.WorkerChanged)) == 2500
    assert not to_client.closed


def test_a_worker_can_send_parts_of_results_to_clients_only(scheduler: Scheduler) -> None:
    worker, to_worker = scheduler.join("worker", slots=1)
    other, to_other = scheduler.join("worker", slots=1)
    client, to_client = scheduler.join("client")
    before = len(to_other.came)
    for target in (other, worker, 0, -1, 1 << 40):
        scheduler.say(worker, m.Chunk(b"n" * 16, 0, target, [b"x"]), m.NoBlob(b"n" * 16, target, ""))
    assert len(to_other.came) == before and not to_worker.closed
    scheduler.say(worker, m.Chunk(b"n" * 16, 0, client, [b"x"]))
    assert not to_client.of(m.Chunk), "it was not asked for"
    scheduler.say(client, m.FetchChunk(b"n" * 16, 0, 1, worker))
    for _ in range(3):
        scheduler.say(worker, m.Chunk(b"n" * 16, 0, client, [b"x"]))
    assert to_client.of(m.Chunk) == [m.Chunk(b"n" * 16, 0, worker, [b"x"])]


@pytest.mark.parametrize(
    "info",
    [{}, {"slots": -1}, {"slots": True}, {"slots": 1 << 40}, {"slots": "2"}, {"slots": 1, "prefetch": -1}],
    ids=str,
)
def test_a_worker_with_no_sensible_slots_is_turned_away(info: dict[str, Any], scheduler: Scheduler) -> None:
    _, link = scheduler.join("worker", **info)
    assert link.of(m.Goodbye) and link.closed
    assert not scheduler.core.workers


NESTED: list[Any] = []
for _ in range(1000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("role", "info"),
    [
        ("worker", {"slots": 1, "name": 7}),
        ("worker", {"slots": 1, "name": "n" * 5000}),
        ("worker", {"slots": 1, "python": 311}),
        ("worker", {"slots": 1, "serves": ["x"]}),
        ("worker", {"slots": 1, "packages": {"numpy": 2}}),
        ("worker", {"slots": 1, "packages": {4: "numpy"}}),
        ("worker", {"slots": 1, "packages": NESTED}),
        ("worker", {"slots": 1, "holds": [[1, 1, 1]]}),
        ("worker", {"slots": 1, "holds": [[0, 1]]}),
        ("worker", {"slots": 1, "pid": -1}),
        ("client", {"keys": [0]}),
        ("client", {"keys": [True]}),
        ("client", {"keys": [1] * 65}),
        ("client", {"nested": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_who_describes_itself_otherwise_than_declared_is_turned_away(
    role: str, info: dict[str, Any], scheduler: Scheduler
) -> None:
    client, to_client = scheduler.join("client")
    _, link = scheduler.join(role, **info)
    assert "description of itself is malformed" in link.of(m.Goodbye)[0].reason and link.closed
    scheduler.say(client, m.Ask(1))
    assert not to_client.of(m.Answer)[0].info["machines"] and not to_client.closed


def test_what_a_peer_adds_to_its_description_reaches_others_in_a_form_that_can_be_sent_and_shown(
    scheduler: Scheduler,
) -> None:
    client, to_client = scheduler.join("client")
    odd = {"deep": NESTED, "\x1b[2J": "\x1b]0;title\x07", "long": "x" * 5000, "name": "\x1b[31mred\nline"}
    scheduler.join("worker", slots=1, uid="secret", **odd, **{str(i): i for i in range(5000)})
    scheduler.say(client, m.Ask(1))
    (machine,) = to_client.of(m.Answer)[0].info["machines"]
    assert machine["name"] == r"\x1b[31mred\nline" and machine[r"\x1b[2J"] == r"\x1b]0;title\x07"
    assert "deep" not in machine and "long" not in machine and len(machine) < 60
    assert "uid" not in machine, "with that, anybody could take the worker's place"
    assert to_client.of(m.WorkerChanged)[0].name == r"\x1b[31mred\nline"


def test_nobody_submits_in_the_name_of_a_task_of_another_worker(scheduler: Scheduler) -> None:
    """What it prints would go to the terminal of somebody else, and its place in the queue be theirs."""
    client, to_client = scheduler.join("client")
    _, to_worker = scheduler.join("worker", slots=2, uid="secret")
    scheduler.submit(client, 1)
    (run,) = to_worker.of(m.Run)
    for info in ({}, {"nested": True}, {"slot_of": "another"}, {"name": "secret"}):
        liar, to_liar = scheduler.join("client", **info)
        scheduler.say(liar, m.OpenGroup(1, 0, [run.task, run.attempt]), m.RanInline([run.task, run.attempt], 9, 9))
        scheduler.say(liar, m.Submit(1, "f", 0, None, 1, None, [], [run.task, run.attempt], False, {}, [b"call"]))
        assert [lost.reason for lost in to_liar.of(m.TaskLost)] == ["no-parent"]
    assert to_worker.of(m.Run) == [run]
    scheduler.say(client, m.Ask(1))
    assert to_client.of(m.Answer)[0].info["clients"][0]["nested"]["failed"] == 0
    slot, _ = scheduler.join("client", nested=True, slot_of="secret")
    scheduler.say(slot, m.Submit(1, "f", 0, None, 0, None, [], [run.task, run.attempt], False, {}, [b"call"]))
    assert [run.client for run in to_worker.of(m.Run)] == [client, client]
