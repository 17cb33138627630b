"""The life of a task that has children, or whose result is fetched: on the core, without clocks or sockets."""

from __future__ import annotations

import pytest

from minidask.scheduler.core import Outbox, SchedulerCore
from minidask.scheduler.events import Event, Joined, Left, Received, Tick
from minidask.scheduler.invariants import check
from minidask.scheduler.tasks import Delivering
from minidask.wire import messages as m

CLIENT, SLOT, WORKER = 1, 2, 11
OFFER = m.OfferResult(1, 1, b"r" * 16, 9)


def cluster(slots: int) -> SchedulerCore:
    """A core with a user's client, that of the slots, and one worker."""
    core = SchedulerCore()
    core.handle(Joined(WORKER, "worker", "w", {"slots": slots}), 0.0)
    core.handle(Joined(CLIENT, "client", "c", {}), 0.0)
    core.handle(Joined(SLOT, "client", "s", {"nested": True}), 0.0)
    return core


def do(core: SchedulerCore, event: Event) -> Outbox:
    out = [*core.handle(event, 0.0), *core.assign(0.0)]
    check(core)
    return out


def submit(core: SchedulerCore, number: int, parent: int = 0) -> Outbox:
    above = [parent, 1] if parent else []
    return do(
        core,
        Received(SLOT if parent else CLIENT, m.Submit(number, "f", 0, None, 0, None, [], above, False, {}, [b"f"])),
    )


def kinds(out: Outbox) -> list[type[m.Message]]:
    return [type(message) for _, message in out]


def test_a_task_whose_result_is_fetched_needs_no_slot() -> None:
    core = cluster(1)
    assert kinds(submit(core, 1)) == [m.Run]
    assert kinds(submit(core, 2)) == []
    assert kinds(do(core, Received(WORKER, OFFER))) == [m.ResultOffered, m.Run]
    assert isinstance(core.attempts.tasks[1].state, Delivering)
    assert kinds(submit(core, 3)) == []
    assert kinds(do(core, Received(WORKER, m.OfferResult(2, 1, b"q" * 16, 9)))) == [m.ResultOffered], (
        "they would pile up"
    )
    assert kinds(do(core, Received(WORKER, m.Done(1, 1, 0.1, [b"r"])))) == [m.TaskDone, m.Run]


def test_tasks_within_a_task_end_when_it_has_returned_though_its_result_is_still_to_be_fetched() -> None:
    core = cluster(2)
    submit(core, 1)
    submit(core, 2, parent=1)
    out = do(core, Received(WORKER, OFFER))
    assert out[0] == (SLOT, m.TaskLost(2, m.Reason.CANCELLED, "task 'f': its parent has ended"))
    assert kinds(out) == [m.TaskLost, m.Stop, m.ResultOffered]
    (refused,) = submit(core, 3, parent=1)
    assert refused == (
        SLOT,
        m.TaskLost(3, m.Reason.NO_PARENT, "task 'f': the task that has submitted it has ended, or is not known yet"),
    )


def test_a_result_that_is_not_wanted_any_more_is_removed_and_not_waited_for() -> None:
    core = cluster(1)
    submit(core, 1)
    do(core, Received(WORKER, OFFER))
    assert do(core, Received(CLIENT, m.Cancel([1], False))) == [(WORKER, m.Stop(1, 1))]
    assert not core.attempts.tasks
    assert do(core, Received(WORKER, m.Stopped(1, 1, "cancelled", "it was cancelled"))) == [], "that is stale"
    assert do(core, Received(WORKER, OFFER)) == [(WORKER, m.ResultTaken(b"r" * 16, 0))]


def test_a_lost_worker_takes_results_and_the_tasks_within_along() -> None:
    core = cluster(2)
    submit(core, 1)
    submit(core, 2, parent=1)
    do(core, Received(WORKER, OFFER._replace(task=2)))
    do(core, Left(WORKER, "gone"))
    assert list(core.attempts.tasks) == [1], "it is tried again, and will submit its own"


def test_a_parents_end_ends_a_nest_of_any_depth_with_one_word_for_each_task() -> None:
    depth = 2000
    core = cluster(depth)
    for number in range(1, depth + 1):
        parent = [number - 1, 1] if number > 1 else []
        core.handle(Received(SLOT, m.Submit(number, "f", 0, None, 0, None, [], parent, False, {}, [b"f"])), 0.0)
        core.assign(0.0)
    stops = [message for _, message in core.handle(Received(SLOT, m.Cancel([1], True)), 1.0) if type(message) is m.Stop]
    assert [stop.task for stop in stops] == list(range(depth, 0, -1)), "the innermost first"
    assert core.assign(1.0) == []
    for number in range(1, depth + 1):
        assert core.handle(Received(WORKER, m.Stopped(number, 1, "cancelled", "")), 2.0) == []
    check(core)
    assert not core.attempts.tasks


# --- who is to blame for a death ---


def submit_within(core: SchedulerCore, parent: int, attempt: int, number: int, payload: bytes) -> Outbox:
    child = m.Submit(number, "f", 0, None, 0, None, [], [parent, attempt], False, {}, [payload])
    return do(core, Received(SLOT, child))


def all_at_once(core: SchedulerCore, *messages: m.Message) -> Outbox:
    """What a worker says in one breath: tasks are assigned afterwards."""
    out = [told for message in messages for told in core.handle(Received(WORKER, message), 0.0)]
    return [*out, *core.assign(0.0)]


def guest_dies(core: SchedulerCore, stack: list[tuple[int, int]], *, left: bool) -> Outbox:
    """The innermost of a stack of attempts ends their slot's process. Its client may leave before that is told."""
    told: list[m.Message] = [m.Stopped(*call, m.GUEST_DIED, "they died") for call in stack[:-1]]
    told.append(m.Died(*stack[-1], "SIGKILL", ""))
    if left:
        do(core, Left(SLOT, "it is gone"))
        told[1:] = [m.Stopped(*call, m.Reason.CANCELLED, "") for call in stack[1:]]
    out = all_at_once(core, *told)
    if left:
        do(core, Joined(SLOT, "client", "s", {"nested": True}))
    check(core)
    return out


@pytest.mark.parametrize("left", [False, True])
def test_a_guest_that_kills_its_slot_is_lost_after_three_deaths_and_its_hosts_are_not(left: bool) -> None:
    core = cluster(1)
    submit(core, 1)
    for attempt in range(1, 4):
        assert core.attempts.tasks[1].attempt == attempt
        assert kinds(do(core, Received(WORKER, m.Waiting(1, attempt)))) == []
        middle = submit_within(core, 1, attempt, 10 * attempt, b"middle")[0][1]
        assert isinstance(middle, m.Run)
        do(core, Received(WORKER, m.Waiting(middle.task, 1)))
        poison = submit_within(core, middle.task, 1, 10 * attempt + 1, b"poison")[0][1]
        assert isinstance(poison, m.Run) and poison.host == middle.task
        again = guest_dies(core, [(1, attempt), (middle.task, 1), (poison.task, 1)], left=left)[-1][1]
        assert isinstance(again, m.Run) and (again.task, again.attempt) == (1, attempt + 1)
    submit_within(core, 1, 4, 50, b"middle")
    do(core, Received(WORKER, m.Waiting(1, 4)))
    (middle_run,) = [task for task in core.attempts.tasks.values() if task.number == 50]
    ((to, lost),) = submit_within(core, middle_run.id, middle_run.attempt, 51, b"poison")
    assert to == SLOT and isinstance(lost, m.TaskLost) and lost.reason == m.Reason.KILLED
    assert lost.text.count("they died") == 3
    assert core.attempts.tasks[1].deaths == middle_run.deaths == 0
    assert kinds(submit_within(core, middle_run.id, middle_run.attempt, 52, b"another")) == []


# --- blobs that the calls of a lease need ---

BLOB = b"b" * 16


def lease_that_wants(blob: bytes) -> tuple[SchedulerCore, Outbox]:
    """A core with a lease whose call has overtaken the blob that it needs, and what came of its asking."""
    core = cluster(slots=1)
    do(core, Received(CLIENT, m.Submit(1, "f", 0, None, 0, None, [], [], True, {}, [b"queue"])))
    return core, do(core, Received(WORKER, m.WantBlobs(1, 1, [blob])))


def test_a_blob_that_a_call_has_overtaken_is_waited_for() -> None:
    core, asked = lease_that_wants(BLOB)
    assert not asked
    do(core, Tick())
    assert do(core, Received(CLIENT, m.PutBlob(BLOB, [b"data"]))) == [(WORKER, m.PutBlob(BLOB, [b"data"]))]
    assert not do(core, Tick()) + do(core, Tick())


def test_a_blob_that_does_not_come_is_given_up() -> None:
    core, asked = lease_that_wants(BLOB)
    assert not asked + do(core, Tick())
    assert do(core, Tick()) == [(WORKER, m.BlobLost(BLOB, f"its client does not hold blob {BLOB.hex()}"))]
    assert not do(core, Tick())


def test_a_lease_that_is_over_gets_no_blob() -> None:
    core, _ = lease_that_wants(BLOB)
    do(core, Received(WORKER, m.Done(1, 1, 0.1, [b"None"])))
    assert not do(core, Received(CLIENT, m.PutBlob(BLOB, [b"data"])))
