"""What holders of the secret may say to harm others, and what comes of it: counts, and no clocks."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import pytest

from minidask.errors import ProtocolError
from minidask.scheduler import holds, invariants, ready
from minidask.scheduler.core import Outbox, SchedulerCore
from minidask.scheduler.events import Joined, Lagging, Left, Received
from minidask.scheduler.ready import Line
from minidask.wire import messages as m
from minidask.wire.large import blob_id

KEY, OTHER_KEY = 5, 6
WORKER, VICTIM, LIAR, OTHER_LIAR = 1, 2, 3, 4


class Scheduler:
    """A core with one worker, whose state is checked after each event."""

    def __init__(self, slots: int = 4, limit: float = 1 << 30, **info: Any) -> None:
        self.core = SchedulerCore(memory_limit=limit)
        self.join(WORKER, "worker", slots=slots, uid="of the worker", **info)

    def join(self, peer: int, role: str, **info: Any) -> Outbox:
        return self._checked(self.core.handle(Joined(peer, role, f"tcp://h:{peer}", info), 0.0))

    def hear(self, peer: int, *messages: m.Message) -> Outbox:
        said: Outbox = []
        for message in messages:
            said += self.core.handle(Received(peer, message), 0.0)
        return self._checked(said)

    def _checked(self, said: Outbox) -> Outbox:
        said += self.core.assign(0.0)
        invariants.check(self.core)
        return said


def submit(number: int, **fields: Any) -> m.Submit:
    return m.Submit(number, "f", 0, None, 0, None, [], [], False, {}, [b"call"])._replace(**fields)


def runs(said: Outbox) -> list[m.Run]:
    return [message for _, message in said if isinstance(message, m.Run)]


# --- clients and their keys ---


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("keys", [(OTHER_KEY, KEY), (KEY,), (KEY, OTHER_KEY)])
def test_who_guesses_the_key_of_a_client_gets_neither_its_place_nor_its_results(
    cut: bool, keys: tuple[int, ...]
) -> None:
    scheduler = Scheduler()
    scheduler.join(VICTIM, "client", keys=[KEY], uid="secret", reconnect_timeout=60.0)
    (run,) = runs(scheduler.hear(VICTIM, submit(1)))
    if cut:
        scheduler.core.handle(Left(VICTIM, "silent", cut=True), 0.0)
    scheduler.join(LIAR, "client", keys=[*keys], uid="guess")
    stolen = runs(scheduler.hear(LIAR, submit(1), m.Resubmitted()))
    assert len(stolen) == 1 and stolen[0].task != run.task, "it gets an attempt of its own"
    came_back = VICTIM
    if cut:
        came_back = 9
        scheduler.join(came_back, "client", keys=[OTHER_KEY + 1, KEY], uid="secret", reconnect_timeout=60.0)
        assert scheduler.hear(came_back, submit(1)) == [(WORKER, m.Adopted(run.task, 1, came_back))]
    outcome = (came_back, m.TaskDone(1, 0.1, "tcp://h:1", [b"result"]))
    assert scheduler.hear(WORKER, m.Done(run.task, 1, 0.1, [b"result"])) == [outcome]
    assert runs(scheduler.hear(came_back, submit(2)))


def test_a_client_that_comes_back_takes_its_own_place() -> None:
    scheduler = Scheduler()
    scheduler.join(VICTIM, "client", keys=[KEY], uid="secret", reconnect_timeout=60.0)
    (run,) = runs(scheduler.hear(VICTIM, submit(1)))
    scheduler.join(9, "client", keys=[OTHER_KEY, KEY], uid="secret", reconnect_timeout=60.0)
    assert scheduler.hear(9, submit(1)) == [(WORKER, m.Adopted(run.task, 1, 9))]


# --- parts of blobs and results ---


def test_parts_go_to_a_worker_only_from_the_client_that_was_asked() -> None:
    scheduler = Scheduler()
    blob = b"b" * 16
    for client in (VICTIM, LIAR):
        scheduler.join(client, "client")
    scheduler.hear(VICTIM, m.OfferBlob(blob, 1 << 20, ""), submit(1, blobs=[blob]))
    assert scheduler.hear(WORKER, m.FetchChunk(blob, 0, 1 << 20, 0)) == [
        (VICTIM, m.FetchChunk(blob, 0, 1 << 20, WORKER))
    ]
    wrong = m.Chunk(blob, 0, WORKER, [bytes(1 << 20)])
    assert scheduler.hear(LIAR, wrong, m.NoBlob(blob, WORKER, "no")) == []
    scheduler.hear(LIAR, m.OfferBlob(blob, 1 << 20, ""))
    assert scheduler.hear(LIAR, wrong, m.NoBlob(blob, WORKER, "no")) == [], "another one was asked"
    assert scheduler.hear(VICTIM, wrong) == [(WORKER, wrong._replace(peer=0))]


def test_a_worker_cannot_fill_a_client_with_parts_that_it_has_not_asked_for() -> None:
    scheduler = Scheduler()
    scheduler.join(VICTIM, "client")
    part = m.Chunk(b"r" * 16, 0, VICTIM, [bytes(1000)])
    assert scheduler.hear(WORKER, *[part] * 10) == []
    scheduler.hear(VICTIM, *[m.FetchChunk(part.blob, 0, 1000, WORKER)] * 3)
    assert len(scheduler.hear(WORKER, *[part] * 10)) == 3
    scheduler.hear(VICTIM, *[m.FetchChunk(part.blob, 0, 1000, WORKER)] * 3)
    refusal = m.NoBlob(part.blob, VICTIM, "gone")
    assert len(scheduler.hear(WORKER, refusal, part, part)) == 3, "a refusal answers one request"


# --- what one message makes others hear, or the scheduler keep ---


def test_clients_hear_the_last_word_of_a_worker_that_changes_all_the_time() -> None:
    scheduler = Scheduler()
    for client in (VICTIM, OTHER_LIAR):
        scheduler.join(client, "client")
    scheduler.core.handle(Lagging(OTHER_LIAR, True), 0.0)
    said = scheduler.hear(WORKER, *(m.Resized(slots % 7) for slots in range(1000)))
    assert [(peer, message.slots) for peer, message in said if isinstance(message, m.WorkerChanged)] == [
        (VICTIM, 999 % 7)
    ]
    scheduler.hear(WORKER, m.Resized(3))
    scheduler.core.handle(Lagging(OTHER_LIAR, False), 0.0)
    said = scheduler.hear(WORKER, m.Heartbeat(0))
    assert [(peer, message.slots) for peer, message in said if isinstance(message, m.WorkerChanged)] == [
        (OTHER_LIAR, 3)
    ]


def test_what_runs_for_nobody_just_now_cannot_say_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "EARLY_BYTES", 100_000)
    task = KEY * m.OUTLIVES + 1
    scheduler = Scheduler(holds=[[task, 1], [task + 1, 1]])
    said = [scheduler.hear(WORKER, m.TaskMessage(task, 1, "x", [bytes(1000)])) for _ in range(200)]
    assert [message for words in said for message in words] == [(WORKER, m.Stop(task, 1))]
    scheduler.hear(WORKER, m.Done(task + 1, 1, 0.1, [b"result"]))
    scheduler.join(VICTIM, "client", keys=[OTHER_KEY, KEY])
    assert len(runs(scheduler.hear(VICTIM, submit(1)))) == 1, "it is run again"
    assert (VICTIM, m.TaskDone(2, 0.1, "tcp://h:1", [b"result"])) in scheduler.hear(VICTIM, submit(2))


def test_groups_are_kept_within_the_limit() -> None:
    scheduler = Scheduler(limit=100_000)
    scheduler.join(LIAR, "client")
    groups = [m.OpenGroup(number, 0, []) for number in range(1, 1000)]
    with pytest.raises(ProtocolError, match="--memory-limit"):
        scheduler.hear(LIAR, *groups)
    opened = len(scheduler.core.clients[LIAR].groups)
    assert 50 < opened < 100
    scheduler.hear(LIAR, m.CloseGroup(1), m.CloseGroup(1))
    scheduler.hear(LIAR, m.OpenGroup(1, 0, []))
    scheduler.core.handle(Left(LIAR, "gone"), 0.0)
    invariants.check(scheduler.core)
    assert not scheduler.core.quota.total


def test_cancelled_tasks_are_not_kept_behind_one_that_waits() -> None:
    scheduler = Scheduler(slots=0)
    scheduler.join(LIAR, "client")
    for priority in range(20):
        first = 1000 * priority + 1
        scheduler.hear(LIAR, *(submit(number, priority=priority) for number in range(first, first + 60)))
        scheduler.hear(LIAR, m.Cancel([*range(first + 1, first + 60)], False))
    kept = sum(len(line.tasks) for lines in scheduler.core.ready._lines.values() for line in lines.values())
    assert kept <= 2 * len(scheduler.core.attempts.tasks) == 40


def test_a_stale_word_of_a_death_counts_for_nothing() -> None:
    scheduler = Scheduler(slots=1)
    scheduler.join(VICTIM, "client")
    scheduler.join(LIAR, "client", nested=True, slot_of="of the worker")
    (run,) = runs(scheduler.hear(VICTIM, submit(1)))
    scheduler.hear(LIAR, submit(1, parent=[run.task, 1]))
    scheduler.hear(WORKER, m.Waiting(run.task, 1))
    scheduler.hear(WORKER, *[m.Stopped(run.task, 2, m.GUEST_DIED, "x" * 1000)] * 100)
    nest = scheduler.core.attempts.tasks[run.task].nest
    assert nest is not None and not nest.deaths


# --- work that grows with what others have said ---


class Counted(bytes):
    """The name of a blob that counts how often it is compared."""

    compared: ClassVar[Counter[str]] = Counter()
    __hash__ = bytes.__hash__

    def __eq__(self, other: object) -> bool:
        self.compared["=="] += 1
        return bytes.__eq__(self, other)


def test_a_lease_that_wants_many_blobs_costs_as_many_steps() -> None:
    scheduler = Scheduler(slots=1)
    scheduler.join(VICTIM, "client")
    contents = [[number.to_bytes(4, "little")] for number in range(1000)]
    blobs = [Counted(blob_id(content)) for content in contents]
    scheduler.hear(VICTIM, *(m.PutBlob(*pair) for pair in zip(blobs, contents, strict=True)))
    (run,) = runs(scheduler.hear(VICTIM, submit(1, lease=True)))
    Counted.compared.clear()
    for _ in range(2):
        scheduler.core.handle(Received(WORKER, m.WantBlobs(run.task, 1, [Counted(blob) for blob in blobs])), 0.0)
    assert Counted.compared["=="] < 50 * len(blobs)


def test_a_task_that_is_given_back_again_and_again_costs_no_look_at_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler(slots=1)
    scheduler.join(LIAR, "client")
    (run,) = runs(scheduler.hear(LIAR, submit(1, priority=9), submit(2, priority=9)))
    scheduler.hear(LIAR, *(submit(number, priority=-number) for number in range(10, 500)))
    seen: list[Line] = []
    entry = Line.entry.fget
    assert entry is not None
    monkeypatch.setattr(Line, "entry", property(lambda line: (seen.append(line), entry(line))[1]))
    for _ in range(300):
        (run,) = runs(scheduler.hear(WORKER, m.GaveBack(run.task, run.attempt)))
    assert len(seen) < 300 * 20, "and not 300 times 490"
    assert len(scheduler.core.ready._heaps[LIAR]) < 3 * 490


def test_a_client_that_says_again_that_it_has_said_all_makes_no_work() -> None:
    scheduler = Scheduler(slots=100)
    scheduler.join(VICTIM, "client", keys=[KEY], uid="secret", reconnect_timeout=1e9)
    scheduler.hear(VICTIM, *(submit(number) for number in range(1, 101)))
    scheduler.core.handle(Left(VICTIM, "silent", cut=True), 0.0)
    scheduler.join(LIAR, "client", keys=[OTHER_KEY], uid="guess")
    scheduler.hear(LIAR, m.Resubmitted())
    table = scheduler.core.holds
    kept, table._holds = table._holds, None  # type: ignore[assignment]
    assert scheduler.core.handle(Received(LIAR, m.Resubmitted()), 0.0) == [], "it does not look at holds"
    table._holds = kept
    assert len(kept) == 100


def test_lines_that_no_free_worker_can_run_are_not_looked_at_for_the_tasks_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduler = Scheduler(slots=1, python="3.11.1")
    scheduler.join(OTHER_LIAR, "worker", slots=0, python="3.9.1")
    scheduler.hear(OTHER_LIAR, m.Resized(1))
    scheduler.join(LIAR, "client", python="3.9.2")
    scheduler.join(VICTIM, "client", python="3.11.2")
    scheduler.hear(LIAR, *(submit(number, priority=-number) for number in range(1, 500)))
    seen: list[str] = []
    looked = ready.fits
    monkeypatch.setattr(ready, "fits", lambda python, own: bool(seen.append(python)) or looked(python, own))
    for number in range(1, 50):
        (run,) = runs(scheduler.hear(VICTIM, submit(number)))
        scheduler.hear(WORKER, m.Done(run.task, 1, 0.1, [b"result"]))
    assert len(seen) < 49 * 20, "and not 49 times 499"
