"""What workers bring along from a lost scheduler, and what becomes of it: see scheduler/holds.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from minidask.errors import ProtocolError
from minidask.scheduler import invariants
from minidask.scheduler.core import Outbox, SchedulerCore
from minidask.scheduler.events import Event, Joined, Left, Received, Tick
from minidask.scheduler.holds import HOLD_SECONDS, number_of
from minidask.scheduler.stream import LOG
from minidask.wire import messages as m
from minidask.wire.fields import MAX_KEY

OLD, NEW = 5, 6
"""Keys of a client: that of the connection which it has lost, and that of its present one."""


class Scheduler:
    """A core that knows nothing yet; its state is checked after each event."""

    def __init__(self) -> None:
        self.core = SchedulerCore()
        self.now = 0.0

    def do(self, event: Event) -> Outbox:
        """Give the core an event; returns what it sends for that."""
        sent = [*self.core.handle(event, self.now), *self.core.assign(self.now)]
        invariants.check(self.core)
        return sent

    def worker(self, peer: int, *holds: tuple[int, int], slots: int = 1, uid: str = "") -> Outbox:
        """A worker joins, and brings these attempts along."""
        info = {"name": f"w{peer}", "slots": slots, "uid": uid, "holds": [[*hold] for hold in holds]}
        return self.do(Joined(peer, "worker", f"tcp://w:{peer}", info))

    def client(self, peer: int, *keys: int) -> Outbox:
        return self.do(Joined(peer, "client", f"tcp://c:{peer}", {"keys": [*keys]}))

    def submit(self, peer: int, number: int, group: int = 0) -> Outbox:
        return self.hear(peer, m.Submit(number, "f", 0, None, group, None, [], [], False, {}, [b"call"]))

    def hear(self, peer: int, message: m.Message) -> Outbox:
        return self.do(Received(peer, message))

    def pass_time(self, seconds: float) -> Outbox:
        """Let time pass, in which all workers send heartbeats."""
        sent: Outbox = []
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 1.0, end)
            for worker in list(self.core.workers):
                sent += self.hear(worker, m.Heartbeat(0))
            sent += self.do(Tick())
        return sent


def about(sent: Outbox, *kinds: type[Any]) -> Outbox:
    return [(peer, message) for peer, message in sent if type(message) in kinds]


def runs(sent: Outbox) -> list[tuple[int, int]]:
    return [(message.task, message.attempt) for _, message in sent if isinstance(message, m.Run)]


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()


# --- adopted ---


def test_what_a_worker_brings_along_is_adopted_when_its_client_submits_it_again(scheduler: Scheduler) -> None:
    task = number_of(OLD, 1)
    assert not about(scheduler.worker(1, (task, 3)), m.Stop, m.Run)
    scheduler.client(2, NEW, OLD)
    assert scheduler.submit(2, 1) == [(1, m.Adopted(task, 3, 2))], "and no Run"
    assert scheduler.hear(1, m.Done(task, 3, 0.5, [b"result"])) == [(2, m.TaskDone(1, 0.5, "w1", [b"result"]))]
    assert not scheduler.core.attempts.tasks


def test_the_slot_of_what_was_brought_along_is_taken(scheduler: Scheduler) -> None:
    scheduler.worker(1, (number_of(OLD, 1), 1))
    scheduler.client(2, NEW, OLD)
    assert runs(scheduler.submit(2, 2)) == []
    assert runs(scheduler.submit(2, 1)) == []
    assert runs(scheduler.hear(1, m.Done(number_of(OLD, 1), 1, 0.5, [b"result"]))) == [(number_of(NEW, 2), 1)]


@pytest.mark.parametrize("last", [True, False])
def test_what_was_reported_before_the_client_came_counts_then(scheduler: Scheduler, last: bool) -> None:
    task = number_of(OLD, 1)
    scheduler.worker(1, (task, 1))
    told = m.TaskMessage(task, 1, "channel", [b"x"])
    done = m.Done(task, 1, 0.5, [b"result"])
    for report in (told, done) if last else (told,):
        assert scheduler.hear(1, report) == []
    scheduler.client(2, NEW, OLD)
    expected: Outbox = [(1, m.Adopted(task, 1, 2)), (2, m.CallerMessage("channel", [b"x"]))]
    outcome = (2, m.TaskDone(1, 0.5, "w1", [b"result"]))
    assert scheduler.submit(2, 1) == [*expected, outcome] if last else expected
    assert not last or not scheduler.core.attempts.tasks


def test_a_large_result_may_be_offered_before_the_client_comes(scheduler: Scheduler) -> None:
    task = number_of(OLD, 1)
    scheduler.worker(1, (task, 1))
    scheduler.hear(1, m.OfferResult(task, 1, b"b" * 16, 100))
    scheduler.client(2, NEW, OLD)
    assert (2, m.ResultOffered(1, b"b" * 16, 100, 1)) in scheduler.submit(2, 1)
    assert scheduler.hear(2, m.ResultTaken(b"b" * 16, 1)) == [(1, m.ResultTaken(b"b" * 16, 0))]
    assert about(scheduler.hear(1, m.Done(task, 1, 0.5, [b"result"])), m.TaskDone)


def test_an_attempt_that_died_before_the_client_came_is_followed_by_the_next_one(scheduler: Scheduler) -> None:
    task = number_of(OLD, 1)
    scheduler.worker(1, (task, 1))
    scheduler.hear(1, m.Died(task, 1, "SIGKILL", "?"))
    scheduler.client(2, NEW, OLD)
    ((number, attempt),) = runs(scheduler.submit(2, 1))
    assert number == task and attempt > 1


def test_of_two_clients_with_one_key_only_the_first_has_it(scheduler: Scheduler) -> None:
    scheduler.worker(1, slots=2)
    for client in (2, 3):
        scheduler.client(client, NEW)
    first, second = runs(scheduler.submit(2, 1)), runs(scheduler.submit(3, 1))
    assert first == [(number_of(NEW, 1), 1)]
    assert second != first and second[0][0] < m.OUTLIVES


# --- stopped ---


def test_what_was_not_submitted_again_is_stopped_when_all_else_was(scheduler: Scheduler) -> None:
    kept, gone, others = number_of(OLD, 1), number_of(OLD, 2), number_of(9, 2)
    scheduler.worker(1, (kept, 1), (gone, 1), (others, 1), slots=3)
    scheduler.client(2, NEW, OLD)
    scheduler.submit(2, 1)
    assert scheduler.hear(2, m.Resubmitted()) == [(1, m.Stop(gone, 1))]
    assert scheduler.core.workers[1].free == 1


def test_nothing_of_a_client_is_stopped_while_it_waits_for_its_workers(scheduler: Scheduler) -> None:
    """It joins first, waits, and says what it wants after that."""
    task = number_of(OLD, 1)
    scheduler.client(2, NEW, OLD)
    assert not about(scheduler.worker(1, (task, 1)), m.Stop)
    assert scheduler.submit(2, 1) == [(1, m.Adopted(task, 1, 2))]
    scheduler.hear(2, m.Resubmitted())
    assert about(scheduler.worker(3, (number_of(OLD, 2), 1)), m.Stop) == [(3, m.Stop(number_of(OLD, 2), 1))], "too late"


def test_what_a_client_wants_no_more_under_its_present_key_is_stopped_at_once(scheduler: Scheduler) -> None:
    scheduler.client(2, NEW)
    late = number_of(NEW, 1)
    assert about(scheduler.worker(1, (late, 1)), m.Stop) == [(1, m.Stop(late, 1))]


def test_what_nobody_submits_again_is_stopped_after_a_while(scheduler: Scheduler) -> None:
    task = number_of(OLD, 1)
    scheduler.worker(1, (task, 1))
    assert not about(scheduler.pass_time(HOLD_SECONDS), m.Stop)
    assert about(scheduler.pass_time(2.0), m.Stop) == [(1, m.Stop(task, 1))]
    assert scheduler.core.workers[1].free == 1


def test_what_has_no_number_that_outlives_a_scheduler_is_stopped(scheduler: Scheduler) -> None:
    assert about(scheduler.worker(1, (7, 1)), m.Stop) == [(1, m.Stop(7, 1))]


def test_of_two_attempts_of_one_task_the_later_one_goes_on(scheduler: Scheduler) -> None:
    task = number_of(OLD, 1)
    scheduler.worker(1, (task, 2))
    assert about(scheduler.worker(2, (task, 1)), m.Stop) == [(2, m.Stop(task, 1))]
    assert about(scheduler.worker(3, (task, 3)), m.Stop) == [(1, m.Stop(task, 2))]
    assert [worker.free for worker in scheduler.core.workers.values()] == [1, 1, 0]
    scheduler.client(4, NEW, OLD)
    assert scheduler.submit(4, 1) == [(3, m.Adopted(task, 3, 4))]
    assert not scheduler.hear(1, m.Done(task, 2, 0.5, [b"stale"]))
    assert not about(scheduler.hear(2, m.Stopped(task, 1, m.Reason.CANCELLED, "")), m.TaskLost)


def test_another_attempt_of_a_task_that_was_adopted_is_stopped(scheduler: Scheduler) -> None:
    task = number_of(OLD, 1)
    scheduler.worker(1, (task, 1))
    scheduler.client(3, NEW, OLD)
    scheduler.submit(3, 1)
    assert about(scheduler.worker(2, (task, 2)), m.Stop) == [(2, m.Stop(task, 2))]


def test_an_attempt_has_no_number_that_one_of_a_lost_scheduler_may_have(scheduler: Scheduler) -> None:
    """Else the end of that one, on the same worker, would be taken for the end of this one."""
    task = number_of(OLD, 1)
    scheduler.worker(1, (task, 1))
    scheduler.client(3, NEW, OLD)
    scheduler.submit(3, 1)
    scheduler.worker(2, (task, 2))
    ((number, attempt),) = runs(scheduler.hear(1, m.Died(task, 1, "SIGKILL", "?")))
    assert number == task
    assert scheduler.hear(2, m.Stopped(task, 2, m.Reason.CANCELLED, "it was cancelled")) == []
    done = m.Done(task, attempt, 0.5, [b"result"])
    assert about(scheduler.hear(2, done), m.TaskDone) == [(3, m.TaskDone(1, 0.5, "w2", [b"result"]))]


# --- tasks within tasks ---


@pytest.mark.parametrize("opens_group", [True, False])
@pytest.mark.parametrize("held", [True, False])
def test_a_task_whose_client_is_not_back_yet_is_cut_off_when_it_submits(
    scheduler: Scheduler, held: bool, opens_group: bool
) -> None:
    """Its user would else be told that it has ended, which nobody knows; cut off, it is tried again."""
    parent = number_of(OLD, 1)
    if held:
        scheduler.worker(1, (parent, 1))
    scheduler.client(2, NEW, OLD)
    scheduler.do(Joined(3, "client", "tcp://slot:1", {"nested": True}))
    opens, submits = (
        m.OpenGroup(1, 0, [parent, 1]),
        m.Submit(1, "f", 0, None, 0, None, [], [parent, 1], False, {}, [b"x"]),
    )
    if opens_group:
        scheduler.hear(3, opens)
        submits = submits._replace(group=1)
    ((peer, said),) = scheduler.hear(3, submits)
    assert peer == 3 and isinstance(said, m.TaskLost) and said.reason == m.Reason.NO_PARENT
    if held:
        scheduler.hear(1, m.Stopped(parent, 1, m.CUT_OFF, ""))
        ((number, attempt),) = runs(scheduler.submit(2, 1))
        assert number == parent and attempt > 1


def test_an_attempt_that_was_given_up_with_its_worker_is_cut_off_when_it_submits(scheduler: Scheduler) -> None:
    scheduler.client(2, NEW)
    scheduler.worker(1)
    scheduler.worker(4)
    ((parent, _),) = runs(scheduler.submit(2, 1))
    scheduler.do(Joined(3, "client", "tcp://slot:1", {"nested": True}))
    assert runs(scheduler.do(Left(1, "gone"))) == [(parent, 2)]
    ((_, said),) = scheduler.hear(3, m.Submit(1, "f", 0, None, 0, None, [], [parent, 1], False, {}, [b"x"]))
    assert isinstance(said, m.TaskLost) and said.reason == m.Reason.NO_PARENT


def test_a_task_that_is_over_for_sure_is_told_so_when_it_submits(scheduler: Scheduler) -> None:
    scheduler.client(2, NEW, OLD)
    scheduler.hear(2, m.Resubmitted())
    scheduler.do(Joined(3, "client", "tcp://slot:1", {"nested": True}))
    for key in (OLD, NEW):
        parent = [number_of(key, 1), 1]
        ((_, said),) = scheduler.hear(3, m.Submit(1, "f", 0, None, 0, None, [], parent, False, {}, [b"x"]))
        assert isinstance(said, m.TaskLost) and said.reason == m.Reason.NO_PARENT


def test_the_client_of_a_slot_is_sent_away_when_the_scheduler_has_lost_its_worker(scheduler: Scheduler) -> None:
    """The call would raise that its tasks were cancelled, and the worker bring that error to the next scheduler."""
    scheduler.client(1, NEW)
    scheduler.worker(2)
    scheduler.submit(1, 1)
    scheduler.do(Joined(3, "client", "tcp://slot:1", {"nested": True}))
    scheduler.hear(3, m.Submit(1, "f", 0, None, 0, None, [], [number_of(NEW, 1), 1], False, {}, [b"x"]))
    told = [message for peer, message in scheduler.do(Left(2, "gone")) if peer == 3]
    assert isinstance(told[0], m.Goodbye)


# --- workers that leave, and come again ---


@pytest.mark.parametrize("adopted", [True, False])
def test_what_a_lost_worker_has_brought_along_is_tried_again(scheduler: Scheduler, adopted: bool) -> None:
    task = number_of(OLD, 1)
    scheduler.worker(1, (task, 1))
    scheduler.client(2, NEW, OLD)
    if adopted:
        scheduler.submit(2, 1)
    scheduler.do(Left(1, "gone"))
    if not adopted:
        scheduler.submit(2, 1)
    ((number, _),) = runs(scheduler.worker(3))
    assert number == (task if adopted else number_of(NEW, 1))


def test_a_worker_that_joins_again_takes_over_what_it_still_has(scheduler: Scheduler) -> None:
    scheduler.client(1, NEW)
    scheduler.worker(2, slots=2, uid="same")
    tasks = [number_of(NEW, number) for number in (1, 2)]
    assert runs([*scheduler.submit(1, 1), *scheduler.submit(1, 2)]) == [(task, 1) for task in tasks]
    sent = scheduler.worker(3, (tasks[0], 1), slots=2, uid="same")
    assert runs(sent) == [(tasks[1], 2)], "the other one was lost with the connection"
    assert not about(sent, m.Stop)
    assert [*scheduler.core.workers] == [3]
    outcome = scheduler.hear(3, m.Done(tasks[0], 1, 0.5, [b"result"]))
    assert outcome == [(1, m.TaskDone(1, 0.5, "w3", [b"result"]))]


def begun(scheduler: Scheduler) -> int:
    """Have a task run on a worker that will join again; returns its number."""
    scheduler.client(1, NEW)
    scheduler.worker(2, uid="same")
    scheduler.submit(1, 1)
    return number_of(NEW, 1)


def within(parent: int) -> m.Submit:
    """What submits a task within another one."""
    return m.Submit(1, "f", 0, None, 0, None, [], [parent, 1], False, {}, [b"call"])


def test_a_task_that_waits_goes_on_to_wait_at_the_worker_that_has_joined_again(scheduler: Scheduler) -> None:
    """What was said of its waiting may be lost with the connection: the child would never run."""
    parent = begun(scheduler)
    scheduler.do(Joined(3, "client", "tcp://slot:1", {"nested": True, "slot_of": "same"}))
    child = within(parent)
    assert not runs(scheduler.hear(3, child)), "no slot is free"
    sent = scheduler.worker(4, (parent, 1), uid="same")
    assert not about(sent, m.Stop, m.Run)
    ((_, run),) = about(scheduler.hear(4, m.Waiting(parent, 1)), m.Run)
    assert isinstance(run, m.Run) and run.host == parent


def test_a_task_that_waits_no_more_is_not_taken_for_one_that_does(scheduler: Scheduler) -> None:
    parent = begun(scheduler)
    scheduler.hear(2, m.Waiting(parent, 1))
    assert not about(scheduler.worker(4, (parent, 1), uid="same"), m.Stop, m.Run)
    scheduler.do(Joined(3, "client", "tcp://slot:1", {"nested": True, "slot_of": "same"}))
    child = within(parent)
    assert not runs(scheduler.hear(3, child)), "what said that it waits no more is lost"


def test_a_task_whose_slot_has_a_guest_is_tried_again_when_its_worker_joins_again(scheduler: Scheduler) -> None:
    parent = begun(scheduler)
    scheduler.do(Joined(3, "client", "tcp://slot:1", {"nested": True, "slot_of": "same"}))
    scheduler.hear(2, m.Waiting(parent, 1))
    assert runs(scheduler.hear(3, within(parent)))
    sent = scheduler.worker(4, (parent, 1), uid="same")
    assert (4, m.Stop(parent, 1)) in sent and runs(sent) == [(parent, 2)]


def test_a_worker_that_joins_again_stops_what_was_cancelled(scheduler: Scheduler) -> None:
    scheduler.client(1, NEW)
    scheduler.worker(2, uid="same")
    scheduler.submit(1, 1)
    scheduler.hear(1, m.Cancel([1], True))
    task = number_of(NEW, 1)
    assert about(scheduler.worker(3, (task, 1), uid="same"), m.Stop) == [(3, m.Stop(task, 1))]
    assert not scheduler.core.attempts.tasks and scheduler.core.workers[3].free == 1


def test_a_worker_that_joins_again_brings_its_holds_along_once_more(scheduler: Scheduler) -> None:
    task = number_of(OLD, 1)
    scheduler.worker(1, (task, 1), uid="same")
    assert not about(scheduler.worker(2, (task, 1), uid="same"), m.Stop)
    assert scheduler.core.workers[2].free == 0
    scheduler.client(3, NEW, OLD)
    assert scheduler.submit(3, 1) == [(2, m.Adopted(task, 1, 3))]


def test_a_group_may_be_over_its_limit_by_what_was_adopted(scheduler: Scheduler) -> None:
    tasks = [number_of(OLD, number) for number in (1, 2)]
    scheduler.worker(1, *((task, 1) for task in tasks), slots=4)
    scheduler.client(2, NEW, OLD)
    scheduler.hear(2, m.OpenGroup(1, 1, []))
    sent = [scheduler.submit(2, number, group=1) for number in (1, 2, 3)]
    assert [[type(message) for _, message in each] for each in sent] == [[m.Adopted], [m.Adopted], []]
    assert not runs(scheduler.hear(1, m.Done(tasks[0], 1, 0.5, [b"result"]))), "one of them still runs"
    assert runs(scheduler.hear(1, m.Done(tasks[1], 1, 0.5, [b"result"])))


# --- handshakes ---


@pytest.mark.parametrize("keys", [None, 7, [0], ["5"], [True], [MAX_KEY + 1], {5: 5}])
def test_a_client_whose_keys_are_none_is_refused(scheduler: Scheduler, keys: Any) -> None:
    with pytest.raises(ProtocolError, match="keys"):
        scheduler.do(Joined(1, "client", "a", {"keys": keys}))
    assert not scheduler.core.clients


def holds_that_are_none() -> Iterable[Any]:
    return [None, 7, [7], [[7]], [[7, 1, 1]], [[7, 0]], [[-7, 1]], [["7", 1]], [[7, 1.0]], {7: 1}]


@pytest.mark.parametrize("holds", holds_that_are_none())
def test_a_worker_whose_holds_are_none_is_refused(scheduler: Scheduler, holds: Any) -> None:
    with pytest.raises(ProtocolError, match="hold"):
        scheduler.do(Joined(1, "worker", "a", {"slots": 1, "holds": holds}))
    assert not scheduler.core.workers


# --- outcomes of attempts that were given up ---


def lost_and_run_elsewhere(scheduler: Scheduler) -> int:
    """A task runs on one worker, whose connection is cut, and then on another one. Returns its number."""
    scheduler.client(1, NEW)
    scheduler.worker(2)
    scheduler.submit(1, 1)
    scheduler.worker(3)
    task = number_of(NEW, 1)
    assert runs(scheduler.do(Left(2, "it was silent"))) == [(task, 2)]
    return task


def back(scheduler: Scheduler, peer: int, task: int, attempt: int) -> Outbox:
    """A worker joins that has the outcome of an attempt."""
    pair = [task, attempt]
    return scheduler.do(Joined(peer, "worker", "w", {"name": "w", "slots": 1, "holds": [pair], "ended": [pair]}))


def test_an_outcome_counts_though_its_task_runs_elsewhere_meanwhile(scheduler: Scheduler) -> None:
    task = lost_and_run_elsewhere(scheduler)
    sent = back(scheduler, 4, task, 1)
    assert about(sent, m.Stop, m.Adopted) == [(3, m.Stop(task, 2)), (4, m.Adopted(task, 1, 1))]
    assert scheduler.hear(4, m.Done(task, 1, 0.5, [b"result"])) == [(1, m.TaskDone(1, 0.5, "w", [b"result"]))]
    assert not scheduler.hear(3, m.Stopped(task, 2, m.Reason.CANCELLED, "")), "nobody waits for that one"
    assert [worker.free for worker in scheduler.core.workers.values()] == [1, 1]


def test_what_still_runs_is_stopped_if_its_task_runs_elsewhere_meanwhile(scheduler: Scheduler) -> None:
    task = lost_and_run_elsewhere(scheduler)
    sent = scheduler.worker(4, (task, 1))
    assert about(sent, m.Stop, m.Adopted) == [(4, m.Stop(task, 1))]
    assert notices(sent) == ["machine w4 is back; stopped there, as it runs elsewhere: 1 task"]


def test_an_attempt_after_one_that_took_the_place_of_another_has_a_number_of_its_own(scheduler: Scheduler) -> None:
    """Else the end of the one that was stopped would be taken for its end."""
    task = lost_and_run_elsewhere(scheduler)
    back(scheduler, 4, task, 1)
    assert runs(scheduler.do(Left(4, "gone"))) == [(task, 3)]


def test_an_outcome_that_somebody_else_has_delivered_is_dropped(scheduler: Scheduler) -> None:
    task = lost_and_run_elsewhere(scheduler)
    scheduler.hear(3, m.Done(task, 2, 0.5, [b"result"]))
    assert about(back(scheduler, 4, task, 1), m.Adopted, m.TaskDone) == []
    assert not scheduler.hear(4, m.Done(task, 1, 0.5, [b"result"]))


# --- a client that is cut off ---

STAYS = 30.0


def notices(sent: Outbox) -> list[str]:
    return [message.text for peer, message in sent if peer == LOG and isinstance(message, m.Notice)]


def returning(scheduler: Scheduler, peer: int, *keys: int, stays: float = STAYS) -> Outbox:
    """A client joins that tries to come back for so long when it is cut off."""
    return scheduler.do(Joined(peer, "client", "c", {"name": "user", "keys": [*keys], "reconnect_timeout": stays}))


def cut_off(scheduler: Scheduler, stays: float = STAYS) -> Outbox:
    """A client with three tasks, of which two run, is cut off."""
    scheduler.worker(1, slots=2)
    returning(scheduler, 2, OLD, stays=stays)
    scheduler.hear(2, m.PutBlob(b"b" * 16, [b"data"]))
    for number in (1, 2, 3):
        scheduler.hear(2, m.Submit(number, "f", 0, None, 0, None, [b"b" * 16], [], False, {}, [b"call"]))
    return scheduler.do(Left(2, "its machine has not answered for 15 seconds", cut=True))


def test_what_runs_for_a_client_that_is_cut_off_goes_on_and_the_log_tells(scheduler: Scheduler) -> None:
    sent = cut_off(scheduler)
    assert not about(sent, m.Stop, m.ReleaseBlobs), "what has not begun to load needs its data"
    assert notices(sent) == [
        "client user is cut off, as its machine has not answered for 15 seconds;"
        " tasks that go on for 30 seconds at most: 2, that are cancelled: 1"
    ]
    assert scheduler.core.workers[1].free == 0


def test_a_client_that_is_back_finds_what_runs_and_what_has_ended_meanwhile(scheduler: Scheduler) -> None:
    cut_off(scheduler)
    tasks = [number_of(OLD, number) for number in (1, 2)]
    assert not scheduler.hear(1, m.Done(tasks[0], 1, 0.5, [b"result"]))
    returning(scheduler, 3, NEW, OLD)
    assert scheduler.submit(3, 1) == [(1, m.Adopted(tasks[0], 1, 3)), (3, m.TaskDone(1, 0.5, "w1", [b"result"]))]
    assert scheduler.submit(3, 2) == [(1, m.Adopted(tasks[1], 1, 3)), (1, m.ReleaseBlobs([b"b" * 16]))]
    assert runs(scheduler.submit(3, 3)) == [(number_of(NEW, 3), 1)]
    assert not about(scheduler.hear(3, m.Resubmitted()), m.Stop)
    scheduler.hear(1, m.Done(tasks[1], 1, 0.5, [b"result"]))
    scheduler.hear(1, m.Done(number_of(NEW, 3), 1, 0.5, [b"result"]))
    assert not scheduler.core.blobs.records and scheduler.core.workers[1].free == 2


def test_what_runs_for_a_client_that_does_not_come_back_is_stopped(scheduler: Scheduler) -> None:
    cut_off(scheduler)
    assert not about(scheduler.pass_time(STAYS), m.Stop)
    sent = scheduler.pass_time(2.0)
    assert about(sent, m.Stop) == [(1, m.Stop(number_of(OLD, number), 1)) for number in (1, 2)]
    assert about(sent, m.ReleaseBlobs) and not scheduler.core.blobs.records


def test_what_has_not_begun_may_be_given_back_meanwhile(scheduler: Scheduler) -> None:
    cut_off(scheduler)
    task = number_of(OLD, 1)
    assert not about(scheduler.hear(1, m.GaveBack(task, 1)), m.Run)
    returning(scheduler, 3, NEW, OLD)
    assert runs(scheduler.submit(3, 1)) == [(number_of(NEW, 1), 1)]


@pytest.mark.parametrize("cut", [True, False])
def test_what_runs_for_a_client_that_has_ended_or_would_not_come_back_is_stopped_at_once(
    scheduler: Scheduler, cut: bool
) -> None:
    if cut:
        sent = cut_off(scheduler, stays=0.0)
    else:
        scheduler.worker(1)
        returning(scheduler, 2, OLD)
        scheduler.submit(2, 1)
        sent = scheduler.do(Left(2, "it closed the connection"))
        assert not notices(sent)
    assert (1, m.Stop(number_of(OLD, 1), 1)) in sent


def test_a_client_that_is_back_before_it_was_missed_takes_its_own_place(scheduler: Scheduler) -> None:
    """It notices the silence first. What it has sent over the old connection may come late, and is void."""
    scheduler.worker(1)
    returning(scheduler, 2, OLD)
    scheduler.submit(2, 1)
    sent = returning(scheduler, 3, NEW, OLD)
    assert [*scheduler.core.clients] == [3] and not about(sent, m.Stop)
    assert scheduler.submit(2, 9) == []
    assert scheduler.submit(3, 1) == [(1, m.Adopted(number_of(OLD, 1), 1, 3))]
    assert not scheduler.do(Left(2, "it closed the connection"))
    with pytest.raises(ProtocolError, match="not joined"):
        scheduler.submit(2, 9)


def test_a_task_with_tasks_of_its_own_is_started_anew_when_its_client_is_back(scheduler: Scheduler) -> None:
    scheduler.worker(1)
    returning(scheduler, 2, OLD)
    scheduler.submit(2, 1)
    parent = number_of(OLD, 1)
    scheduler.do(Joined(3, "client", "tcp://slot:1", {"nested": True}))
    scheduler.hear(3, within(parent))
    assert (1, m.Stop(parent, 1)) in scheduler.do(Left(2, "cut", cut=True))


def test_the_log_tells_how_many_tasks_of_a_lost_machine_go_elsewhere(scheduler: Scheduler) -> None:
    scheduler.client(1, NEW)
    scheduler.worker(2, slots=2)
    for number in (1, 2):
        scheduler.submit(1, number)
    assert notices(scheduler.do(Left(2, "it reset the connection"))) == [
        "machine w2 is lost: it reset the connection; to be run elsewhere: 2 tasks"
    ]
