"""Leases: who may have one back and when, how they end, and what their calls say: on the core, without clocks."""

from __future__ import annotations

from typing import Any

import pytest

from minidask.errors import ProtocolError
from minidask.scheduler.core import Outbox, SchedulerCore
from minidask.scheduler.events import Event, Joined, Left, Received, Tick
from minidask.scheduler.invariants import check
from minidask.scheduler.leases import SLICE_SECONDS
from minidask.wire import messages as m

CLIENT, OTHER, SLOT, WORKER = 1, 2, 3, 11
BLOB, NOBODYS = b"b" * 16, b"n" * 16


class Cluster:
    """A core with two users' clients, that of the slots, and one worker; tasks have one number for all."""

    def __init__(self, slots: int) -> None:
        self.core = SchedulerCore()
        self.runs: dict[int, m.Run] = {}
        self.tasks = 0
        self.groups = 0
        self.now(Joined(CLIENT, "client", "c", {}))
        self.now(Joined(OTHER, "client", "o", {}))
        self.now(Joined(SLOT, "client", "s", {"nested": True}))
        self.now(Joined(WORKER, "worker", "w", {"slots": slots}))

    def now(self, event: Event) -> Outbox:
        out = [*self.core.handle(event, 0.0), *self.core.assign(0.0)]
        check(self.core)
        self.runs.update({message.task: message for _, message in out if isinstance(message, m.Run)})
        return out

    def client_says(self, message: m.Message, client: int = CLIENT) -> list[m.Message]:
        return [sent for _, sent in self.now(Received(client, message))]

    def worker_says(self, message: m.Message) -> list[m.Message]:
        return [sent for _, sent in self.now(Received(WORKER, message))]

    def ticks(self) -> list[m.Message]:
        """What is sent at the next two ticks."""
        return [sent for _ in range(2) for _, sent in self.now(Tick())]

    def group(self, client: int = CLIENT, limit: int = 0) -> int:
        self.groups += 1
        self.client_says(m.OpenGroup(self.groups, limit, []), client)
        return self.groups

    def task(
        self, client: int = CLIENT, *, group: int = 0, priority: int = 0, pin: str | None = None, parent: int = 0
    ) -> list[m.Message]:
        self.tasks += 1
        above = [parent, self.runs[parent].attempt] if parent else []
        submit = m.Submit(self.tasks, "f", priority, None, group, pin, [], above, False, {}, [b"call"])
        return self.client_says(submit, SLOT if parent else client)

    def lease(
        self, group: int, client: int = CLIENT, *, priority: int = 0, blobs: tuple[bytes, ...] = ()
    ) -> list[m.Message]:
        self.tasks += 1
        submit = m.Submit(self.tasks, "f", priority, None, group, None, [*blobs], [], True, {}, [b"queue"])
        return self.client_says(submit, client)

    def done(self, task: int) -> list[m.Message]:
        return self.worker_says(m.Done(task, self.runs[task].attempt, 0.1, [b"r"]))

    def counts(self, client: int = CLIENT) -> tuple[int, int, int]:
        counts = self.core.clients[client].counts
        return counts.submitted, counts.finished, counts.failed


def yields(sent: list[m.Message]) -> list[tuple[int, float]]:
    return [(message.task, message.after) for message in sent if isinstance(message, m.Yield)]


def runs(sent: list[m.Message]) -> list[int]:
    return [message.task for message in sent if isinstance(message, m.Run)]


# --- who may have a lease back ---


@pytest.mark.parametrize("client", [CLIENT, OTHER])
def test_a_task_that_waits_has_a_lease_asked_back_at_once(client: int) -> None:
    cluster = Cluster(2)
    group = cluster.group()
    cluster.lease(group)
    cluster.lease(group)
    assert yields(cluster.task(client)) == [(1, 0.0)]
    assert runs(cluster.done(1)) == [3]


def test_nobody_asks_where_a_slot_is_free() -> None:
    cluster = Cluster(2)
    cluster.lease(cluster.group())
    assert yields(cluster.task(OTHER)) == []


def test_a_task_of_the_same_client_has_a_lease_asked_back_though_leases_wait_before_it() -> None:
    cluster = Cluster(2)
    for group in (cluster.group(), cluster.group()):
        cluster.lease(group)
        cluster.lease(group)
    assert runs(cluster.done(2)) == [3], "now each group has one that runs and one that waits"
    cluster.lease(1)
    asked = dict(yields(cluster.task()))
    assert asked and set(asked.values()) == {0.0}
    left = cluster.tasks
    for _ in range(4):  # whatever comes first, with a lease submitted again for each that ends
        ended = next(iter(asked))
        sent = cluster.done(ended)
        if left in runs(sent):
            return
        asked.pop(ended)
        asked.update(yields(sent))
        sent = cluster.lease(cluster.group())
        asked.update(yields(sent))
    raise AssertionError("the task does not get a slot")


def test_a_task_within_a_call_of_the_same_group_asks_for_none() -> None:
    cluster = Cluster(2)
    first = cluster.group()
    cluster.lease(first)
    cluster.lease(first)
    assert yields(cluster.task(parent=1)) == []
    second = cluster.group(OTHER)
    cluster.client_says(m.Cancel([3], False), SLOT)
    cluster.done(2)
    cluster.lease(second, OTHER)
    assert yields(cluster.task(parent=1)) == [(4, 0.0)], "another group's it may have"


def test_a_task_two_levels_within_a_call_of_the_same_group_asks_for_none() -> None:
    cluster = Cluster(2)
    group = cluster.group()
    cluster.lease(group)
    cluster.task(parent=1)
    cluster.task(parent=2)
    cluster.done(2)
    cluster.lease(group)
    cluster.task(parent=1)
    assert yields(cluster.task(parent=1)) == []


def test_a_task_of_the_same_client_and_lower_priority_asks_for_none() -> None:
    cluster = Cluster(1)
    cluster.lease(cluster.group(), priority=1)
    assert yields(cluster.task(priority=0)) == []
    assert yields(cluster.task(OTHER, priority=-5)) == [(1, 0.0)], "priorities are among the tasks of one client"


def test_a_pinned_task_that_waits_has_a_lease_asked_back_at_once() -> None:
    cluster = Cluster(2)
    group = cluster.group()
    cluster.lease(group)
    cluster.lease(group)
    assert yields(cluster.task(OTHER, pin="w")) == [(1, 0.0)]
    assert runs(cluster.done(1)) == [3]


def test_a_task_of_a_full_group_asks_for_none() -> None:
    cluster = Cluster(2)
    limited = cluster.group(OTHER, limit=1)
    cluster.task(OTHER, group=limited)
    cluster.lease(cluster.group())
    assert yields(cluster.task(OTHER, group=limited)) == []


# --- groups share ---


def test_a_group_gives_back_to_one_with_fewer_when_a_slice_is_over() -> None:
    cluster = Cluster(2)
    first, second = cluster.group(), cluster.group(OTHER)
    cluster.lease(first)
    cluster.lease(first)
    assert yields(cluster.lease(second, OTHER)) == [(1, SLICE_SECONDS)]
    sent = cluster.done(1)
    assert runs(sent) == [3]
    assert yields(cluster.lease(first)) == [], "each has one"
    assert yields(cluster.lease(second, OTHER)) == []


@pytest.mark.parametrize("client", [CLIENT, OTHER])
def test_the_group_with_the_most_gives_back(client: int) -> None:
    cluster = Cluster(3)
    first, second, third = cluster.group(), cluster.group(), cluster.group(client)
    cluster.lease(first)
    cluster.lease(second)
    cluster.lease(second)
    assert yields(cluster.lease(third, client)) == [(2, SLICE_SECONDS)]


def test_one_slot_is_shared_by_two_groups_in_turns() -> None:
    cluster = Cluster(1)
    groups = [cluster.group(), cluster.group(OTHER)]
    cluster.lease(groups[0])
    turn = 1
    assert yields(cluster.lease(groups[turn], OTHER)) == [(1, SLICE_SECONDS)]
    for ended in range(1, 8):
        assert runs(cluster.done(ended)) == [ended + 1]
        turn = 1 - turn
        assert yields(cluster.lease(groups[turn], (CLIENT, OTHER)[turn])) == [(ended + 1, SLICE_SECONDS)]


def test_no_more_leases_are_asked_for_than_tasks_wait() -> None:
    cluster = Cluster(4)
    group = cluster.group()
    for _ in range(4):
        cluster.lease(group)
    assert len(yields(cluster.task(OTHER))) == 1
    assert len(yields(cluster.task(OTHER))) == 1
    assert yields(cluster.client_says(m.Ask(1))) == [], "once is enough"
    cluster.task(OTHER)
    cluster.task(OTHER)
    assert yields(cluster.task(OTHER)) == [], "all were asked for"


@pytest.mark.parametrize(("client", "priority"), [(CLIENT, 0), (OTHER, 0), (OTHER, 1)])
def test_a_lease_that_was_to_end_with_its_slice_is_to_end_at_once_when_a_task_comes(client: int, priority: int) -> None:
    cluster = Cluster(1)
    cluster.lease(cluster.group())
    assert yields(cluster.lease(cluster.group(OTHER), OTHER)) == [(1, SLICE_SECONDS)]
    assert yields(cluster.task(client, priority=priority)) == [(1, 0.0)]


def test_a_lease_is_to_end_sooner_rather_than_one_more() -> None:
    cluster = Cluster(3)
    first, second, third = cluster.group(), cluster.group(), cluster.group(OTHER)
    cluster.lease(second)
    cluster.lease(first)
    cluster.lease(first)
    assert yields(cluster.lease(third, OTHER)) == [(2, SLICE_SECONDS)]
    assert runs(cluster.done(3)) == [4]
    assert yields(cluster.task(OTHER)) == [(2, 0.0)]


def test_no_more_leases_are_asked_for_than_tasks_of_a_group_may_run() -> None:
    cluster = Cluster(4)
    group = cluster.group()
    for _ in range(4):
        cluster.lease(group)
    limited = cluster.group(OTHER, limit=1)
    asked = [*yields(cluster.task(OTHER, group=limited)), *yields(cluster.task(OTHER, group=limited))]
    assert asked == [(1, 0.0)]


# --- how leases end ---


def test_the_death_of_a_lease_is_told_at_once_and_it_is_not_tried_again() -> None:
    cluster = Cluster(1)
    cluster.lease(cluster.group())
    line, lost = cluster.worker_says(m.Died(1, 1, "SIGKILL", "out of memory"))
    assert isinstance(line, m.Notice) and "SIGKILL" in line.text
    assert isinstance(lost, m.TaskLost) and lost[:2] == (1, m.Reason.KILLED)
    assert "SIGKILL" in lost.text and "out of memory" in lost.text
    assert not cluster.core.attempts.tasks
    assert cluster.counts() == (0, 0, 0)
    assert cluster.core.attempts.finished == 0
    assert yields(cluster.task(OTHER)) == []


def test_leases_of_a_worker_that_leaves_are_lost_at_once() -> None:
    cluster = Cluster(2)
    group = cluster.group()
    cluster.lease(group)
    cluster.lease(group)
    lost = [message for _, message in cluster.now(Left(WORKER, "gone")) if isinstance(message, m.TaskLost)]
    assert [message[:2] for message in lost] == [(1, m.Reason.KILLED), (2, m.Reason.KILLED)]
    assert not cluster.core.attempts.tasks


def test_leases_are_not_counted_and_the_calls_that_were_are_those_that_the_client_tells_of() -> None:
    cluster = Cluster(2)
    group = cluster.group()
    cluster.lease(group)
    cluster.lease(group)
    assert cluster.counts() == (2, 0, 0), "each stands for a call that runs"
    cluster.client_says(m.RanInline([], 5, 2))
    assert cluster.counts() == (7, 5, 2)
    cluster.done(1)
    cluster.worker_says(m.Failed(2, 1, 0.1, "traceback", [b"error"]))
    assert cluster.counts() == (5, 5, 2)
    assert cluster.core.attempts.finished == 5


def test_a_lease_that_is_cancelled_before_it_begins_is_counted_nowhere() -> None:
    cluster = Cluster(1)
    cluster.task(OTHER)
    cluster.lease(cluster.group())
    cluster.client_says(m.Cancel([2], True))
    assert cluster.counts() == (0, 0, 0)
    assert runs(cluster.done(1)) == []


def test_a_lease_that_waits_for_the_end_of_its_stop_is_not_asked_for() -> None:
    cluster = Cluster(1)
    cluster.lease(cluster.group())
    assert cluster.client_says(m.Cancel([1], True)) == [m.Stop(1, 1)]
    assert yields(cluster.task(OTHER)) == []
    assert runs(cluster.worker_says(m.Stopped(1, 1, "cancelled", "it was cancelled"))) == [2]


# --- what their calls say ---


def test_outcomes_of_calls_are_passed_on_and_the_lease_goes_on() -> None:
    cluster = Cluster(1)
    cluster.lease(cluster.group())
    assert cluster.worker_says(m.CallDone(1, 1, 77, 0.5, [b"r"])) == [m.TaskDone(77, 0.5, "w", [b"r"])]
    failed = m.CallFailed(1, 1, 78, 0.5, "traceback", [b"e"])
    assert cluster.worker_says(failed) == [m.TaskRaised(78, 0.5, "w", "traceback", [b"e"])]
    assert cluster.counts() == (1, 0, 0)
    assert cluster.done(1) == [m.TaskDone(1, 0.1, "w", [b"r"])]


@pytest.mark.parametrize(
    "message",
    [m.CallDone(1, 1, 77, 0.5, [b"r"]), m.CallFailed(1, 1, 77, 0.5, "traceback", [b"e"]), m.WantBlobs(1, 1, [BLOB])],
)
def test_what_calls_say_is_dropped_when_their_lease_is_over(message: Any) -> None:
    cluster = Cluster(2)
    assert cluster.worker_says(message) == [], "before it began"
    cluster.lease(cluster.group())
    assert cluster.worker_says(message._replace(attempt=2)) == []
    cluster.client_says(m.Cancel([1], True))
    assert cluster.worker_says(message) == [], "while it is stopped"
    cluster.worker_says(m.Stopped(1, 1, "cancelled", ""))
    assert cluster.worker_says(message) == []
    cluster.task()
    assert cluster.worker_says(message._replace(task=2)) == [], "that is no lease"


def test_a_call_gets_the_blobs_that_its_client_holds_and_is_told_which_it_cannot_have() -> None:
    cluster = Cluster(1)
    cluster.client_says(m.PutBlob(BLOB, [b"data"]))
    cluster.lease(cluster.group())
    assert cluster.worker_says(m.WantBlobs(1, 1, [BLOB, NOBODYS])) == [m.PutBlob(BLOB, [b"data"])]
    (lost,) = cluster.ticks()
    assert isinstance(lost, m.BlobLost) and lost.blob == NOBODYS and NOBODYS.hex() in lost.text


def test_a_call_does_not_get_what_another_client_holds() -> None:
    cluster = Cluster(1)
    cluster.client_says(m.PutBlob(BLOB, [b"data"]), OTHER)
    cluster.lease(cluster.group())
    assert cluster.worker_says(m.WantBlobs(1, 1, [BLOB])) == []
    assert [type(sent) for sent in cluster.ticks()] == [m.BlobLost]


def test_the_blobs_of_its_calls_stay_while_a_lease_runs() -> None:
    cluster = Cluster(2)
    group = cluster.group()
    cluster.client_says(m.PutBlob(BLOB, [b"data"]))
    cluster.lease(group)
    cluster.lease(group)
    assert cluster.worker_says(m.WantBlobs(1, 1, [BLOB])) == [m.PutBlob(BLOB, [b"data"])]
    assert cluster.worker_says(m.WantBlobs(1, 1, [BLOB])) == []
    assert cluster.worker_says(m.WantBlobs(2, 1, [BLOB])) == [], "that worker has it"
    assert cluster.client_says(m.ReleaseBlobs([BLOB])) == []
    cluster.done(1)
    assert m.ReleaseBlobs([BLOB]) in cluster.done(2)
    assert not cluster.core.blobs.records


def test_a_blob_that_is_wanted_twice_at_once_is_counted_once() -> None:
    cluster = Cluster(1)
    cluster.client_says(m.PutBlob(BLOB, [b"data"]))
    cluster.lease(cluster.group())
    cluster.worker_says(m.WantBlobs(1, 1, [BLOB, BLOB]))
    cluster.client_says(m.ReleaseBlobs([BLOB]))
    cluster.done(1)
    assert not cluster.core.blobs.records


# --- what nobody may submit ---


@pytest.mark.parametrize(("peer", "change"), [(CLIENT, {"pin": "w"}), (CLIENT, {"parent": [1, 1]}), (SLOT, {})])
def test_a_lease_has_neither_pin_nor_parent_and_is_no_slots(peer: int, change: dict[str, Any]) -> None:
    cluster = Cluster(2)
    cluster.task()
    submit = m.Submit(9, "f", 0, None, 0, None, [], [], True, {}, [b"queue"])._replace(**change)
    with pytest.raises(ProtocolError, match="lease"):
        cluster.core.handle(Received(peer, submit), 0.0)
