"""`QueueTable`, effect by effect: lines, leases, deaths, and the end of queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from minidask.client import queued
from minidask.client.core import ClientCore, Settle
from minidask.client.outcomes import Lost, Returned
from minidask.client.queued import AskBack, CloseQueue, Drain, Put, PutAgain, Revoke, Withdraw
from minidask.errors import KilledWorker, MinidaskError
from minidask.wire import messages as m
from minidask.wire.packing import unpack
from minidask.wire.tickets import LEASES, LINES, TAKING, QueueFiles

FILES = QueueFiles("arena", "calls", "results")
DONE, BLOB = [b"1"], b"b" * 16


class Client:
    """A client with one queue, whose effects are looked at one by one.

    Args:
        limit: of the group.
        slots: of the cluster.
    """

    def __init__(self, limit: int = 0, slots: int = 2) -> None:
        self.core: ClientCore[int] = ClientCore("here")
        self.slots = slots
        self.group, _ = self.core.open_group(limit, [])
        self.core.queues.add(self.group, limit, FILES)

    @property
    def queue(self) -> queued.Queue:
        return self.core.queues[self.group]

    def submit(self, count: int = 1) -> list[Any]:
        effects: list[Any] = []
        for _ in range(count):
            number = self.core.next_task()
            message = m.Submit(number, "f", 0, None, self.group, None, [], [], False, {}, [b"call"])
            effects += self.core.submit(message, [], number, self.slots)
        return effects

    def over(self, put: Put) -> list[Any]:
        return [*self.core.call_returned(put.call.number, put.ticket, Returned(DONE, 0.0, "w"))]

    def lease_ends(self, lease: m.Submit) -> list[Any]:
        return [*self.core.receive(m.TaskDone(lease.task, 0.0, "w", DONE))]

    def lease_dies(self, lease: m.Submit, claim: int = 0) -> list[Any]:
        return [*self.core.receive(m.TaskLost(lease.task, m.Reason.KILLED, "its process ended"), claim)]


def of(kind: type[Any], effects: Sequence[Any]) -> list[Any]:
    """Those of one kind: named tuples of several kinds may be equal."""
    return [effect for effect in effects if type(effect) is kind]


def leases(effects: Sequence[Any]) -> list[m.Submit]:
    return [effect for effect in effects if isinstance(effect, m.Submit) and effect.lease]


def tasks(effects: Sequence[Any]) -> list[int]:
    return [effect.task for effect in effects if isinstance(effect, m.Submit) and not effect.lease]


def puts(effects: Sequence[Any]) -> list[Put]:
    return of(Put, effects)


def settled(effects: Sequence[Any]) -> list[int | None]:
    return [effect.handle for effect in effects if isinstance(effect, Settle)]


# --- lines and leases ---


def test_more_calls_than_lines_wait_and_all_are_run_in_order() -> None:
    client = Client()
    count = 3 * LINES + 7
    effects = client.submit(count)
    written = puts(effects)
    assert [put.call.number for put in written] == settled_numbers(effects, count)[:LINES]
    assert len({put.ticket % LINES for put in written}) == LINES
    order = []
    while written:
        put = written.pop(0)
        order.append(put.call.number)
        effects = client.over(put)
        assert settled(effects) == [put.call.number]
        written += puts(effects)
    assert order == sorted(order) and len(order) == count
    assert not len(client.queue)


def settled_numbers(effects: Sequence[Any], count: int) -> list[int]:
    """The numbers of so many calls: those of leases are in between."""
    taken = {lease.task for lease in leases(effects)}
    return [number for number in range(1, count + len(taken) + 1) if number not in taken]


@pytest.mark.parametrize(
    ("limit", "slots", "most"), [(0, 3, 3), (2, 5, 2), (9, 4, 4), (0, 2 * LEASES, LINES), (1, 1, 1)]
)
def test_there_are_no_more_leases_than_slots_limit_and_claims_allow(limit: int, slots: int, most: int) -> None:
    client = Client(limit, slots)
    asked = leases(client.submit(most + 5))
    assert len(asked) == most
    claims = [unpack(lease.payload[0])[3] for lease in asked]
    assert sorted(claims) == [*range(most)], "each has a claim of its own"
    again = leases(client.lease_ends(asked[most // 2]))
    assert [unpack(lease.payload[0])[3] for lease in again] == [claims[most // 2]]


def test_one_call_asks_for_one_lease() -> None:
    client = Client(slots=4)
    assert len(leases(client.submit())) == 1
    assert len(leases(client.submit())) == 1


def test_a_cluster_that_grows_gets_more_leases_also_while_all_lines_are_taken() -> None:
    client = Client(slots=1)
    client.submit(LINES + 5)
    client.slots = 2
    (lease,) = leases(client.submit())
    assert client.core.queues.lease(lease.task) == (client.group, 1)
    (again,) = leases(client.lease_ends(lease))
    assert client.core.queues.lease(again.task) == (client.group, 1)


def test_a_lease_names_no_blobs_that_were_released() -> None:
    client = Client(slots=1)
    client.core.hold([BLOB])
    number = client.core.next_task()
    message = m.Submit(number, "f", 0, None, client.group, None, [BLOB], [], False, {}, [b"call"])
    effects = [*client.submit(), *client.core.submit(message, [], number, 1)]
    assert client.core.release([BLOB]) == [], "the call holds it"
    assert m.ReleaseBlobs([BLOB]) in client.over(puts(effects)[-1])
    (again,) = leases(client.lease_ends(*leases(effects)))
    assert BLOB not in again.blobs


def test_a_lease_brings_along_what_its_first_call_needs() -> None:
    client = Client(slots=1)
    client.core.hold([BLOB])
    number = client.core.next_task()
    message = m.Submit(number, "f", 0, None, client.group, None, [BLOB], [], False, {}, [b"call"])
    (lease,) = leases(client.core.submit(message, [b"session"], number, 1))
    assert lease.blobs == [b"session", BLOB]


def test_calls_run_though_all_lines_are_those_of_cancelled_ones() -> None:
    client = Client(slots=2)
    effects = client.submit(LINES + 1)
    first, second = leases(effects)
    revoked = client.core.cancel([put.call.number for put in puts(effects)], False)
    assert sum(isinstance(effect, Revoke) for effect in revoked) == LINES
    assert client.lease_ends(first) == [], "a slot may still write into any line"
    effects = client.lease_ends(second)
    assert len(puts(effects)) == 1 and len(leases(effects)) == 1


def test_a_line_of_a_cancelled_call_is_not_used_while_a_slot_may_write_into_it() -> None:
    client = Client(slots=1)
    effects = client.submit(2)
    first, second = puts(effects)
    (lease,) = leases(effects)
    assert client.core.cancel([first.call.number], False) == [Revoke(client.group, first.ticket)]
    client.over(second)
    later = puts(client.submit(LINES - 1))
    assert first.ticket % LINES not in {put.ticket % LINES for put in later}
    client.lease_ends(lease)
    (last,) = puts(client.submit(1))
    assert last.ticket % LINES == first.ticket % LINES and last.ticket != first.ticket


def test_a_call_that_does_not_fit_is_a_task_and_so_are_all_that_have_no_line() -> None:
    client = Client(slots=2)
    effects = client.submit(LINES + 1)
    numbers = settled_numbers(effects, LINES + 1)
    first, second = leases(effects)
    written = puts(effects)
    large = written.pop()
    refused = [*client.core.queues.refused(*large)]
    assert tasks(refused) == numbers[-2:]
    assert of(AskBack, refused) == [(client.group, 2)]
    assert client.lease_ends(first) == [], "no lease is asked for any more"
    effects = client.lease_ends(second)
    assert [type(effect) for effect in effects] == [Drain, *[Withdraw] * (LINES - 1)]
    assert [effect.ticket for effect in of(Withdraw, effects)] == [put.ticket for put in written]


# --- deaths ---


def test_three_leases_in_a_row_that_die_without_a_call_turn_the_queue_off_and_calls_become_tasks() -> None:
    client = Client(slots=1)
    effects = client.submit(LINES + 2)
    numbers = settled_numbers(effects, LINES + 2)
    for _ in range(2):
        effects = client.lease_dies(*leases(effects))
        assert tasks(effects) == [] and not client.queue.off
    effects = client.lease_dies(*leases(effects))
    withdrawn = [effect.ticket for effect in effects if isinstance(effect, Withdraw)]
    assert client.queue.off and leases(effects) == [] and settled(effects) == []
    assert tasks(effects) == numbers[LINES:]
    assert len(withdrawn) == LINES
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Drain) < kinds.index(Withdraw)
    number = client.core.next_task()
    late = m.Submit(number, "f", 0, None, client.group, None, [], [], False, {}, [b"call"])
    assert client.core.submit(late, [], number, 1) == [late], "the next ones too"
    for task in numbers:
        assert settled(client.core.receive(m.TaskDone(task, 0.0, "w", DONE))) == [task]


def test_deaths_of_leases_without_a_call_are_forgotten_when_a_call_returns() -> None:
    client = Client(slots=1)
    effects = client.submit(20)
    written = puts(effects)
    for put in written:
        effects = client.lease_dies(*leases(effects))
        effects = client.lease_dies(*leases(effects))
        assert not client.queue.off
        client.over(put)


def test_a_call_whose_slot_dies_three_times_is_lost_and_the_story_told() -> None:
    client = Client(slots=1)
    effects = client.submit(2)
    first, second = puts(effects)
    for _ in range(2):
        effects = client.lease_dies(*leases(effects), claim=first.ticket)
        assert PutAgain(client.group, first.ticket) in effects and settled(effects) == []
    effects = client.lease_dies(*leases(effects), claim=first.ticket)
    (lost,) = [effect for effect in effects if isinstance(effect, Settle)]
    assert lost.handle == first.call.number and isinstance(lost.outcome, Lost)
    assert isinstance(lost.outcome.error, KilledWorker)
    assert "tried 3 times" in str(lost.outcome.error) and "its process ended" in str(lost.outcome.error)
    assert m.RanInline([], 1, 1) in effects
    assert len(leases(effects)) == 1
    assert settled(client.over(second)) == [second.call.number]


def test_when_a_ticket_may_be_gone_all_are_written_again_once_no_lease_is_left() -> None:
    client = Client(slots=2)
    effects = client.submit(3)
    written = puts(effects)
    first, second = leases(effects)
    assert client.lease_dies(first, TAKING) == [AskBack(client.group, 1)]
    assert leases(client.submit()) == [], "no lease may take a ticket meanwhile"
    client.over(written[0])
    effects = client.lease_ends(second)
    again = [effect.ticket for effect in effects if isinstance(effect, PutAgain)]
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Drain) < kinds.index(PutAgain)
    assert again[:2] == [put.ticket for put in written[1:]] and len(again) == 3
    assert len(leases(effects)) == 2


# --- the end of a queue ---


def test_a_queue_whose_group_is_closed_is_removed_with_its_last_call() -> None:
    client = Client()
    effects = client.submit(2)
    first, second = puts(effects)
    assert client.core.close_group(client.group) == []
    assert of(CloseQueue, client.over(first)) == []
    ended = client.over(second)
    assert [type(effect) for effect in ended] == [m.Cancel, CloseQueue, m.CloseGroup, Settle]
    assert ended[0].tasks == [lease.task for lease in leases(effects)]
    assert not client.core.queues


def test_a_queue_whose_group_is_closed_and_cancelled_is_removed_at_once() -> None:
    client = Client()
    numbers = [put.call.number for put in puts(client.submit(2))]
    client.core.close_group(client.group)
    effects = client.core.cancel(numbers, True)
    assert of(CloseQueue, effects) and of(m.CloseGroup, effects) == [(client.group,)]
    assert not client.core.queues


def test_calls_of_a_closed_group_become_tasks_before_it_is_forgotten() -> None:
    client = Client(slots=1)
    effects = client.submit()
    (put,) = puts(effects)
    client.core.close_group(client.group)
    effects = [*client.core.receive(m.TaskRaised(leases(effects)[0].task, 0.0, "w", "OSError", DONE))]
    assert [type(effect) for effect in effects][-4:] == [Drain, Withdraw, CloseQueue, m.CloseGroup]
    assert of(Withdraw, effects) == [(client.group, put.ticket)]
    assert settled(client.core.receive(m.TaskDone(put.call.number, 0.0, "w", DONE))) == [put.call.number]


def test_all_leases_end_when_all_is_cancelled_also_those_of_queues_without_calls() -> None:
    client = Client(slots=1)
    effects = client.submit()
    client.over(*puts(effects))
    client.core.close_group(client.group)
    (lease,) = leases(effects)
    stopped = [*client.core.cancel_all(False)]
    assert stopped[0] == m.Cancel([lease.task], True) and stopped[-1] == m.CancelAll(False)
    assert of(CloseQueue, stopped) and of(m.CloseGroup, stopped) == [(client.group,)]
    assert client.core.reuse_group(0) == 0, "nobody gets a queue that was closed"


def test_all_calls_are_lost_when_all_is_cancelled() -> None:
    client = Client(slots=1)
    effects = client.submit(LINES + 2)
    numbers = settled_numbers(effects, LINES + 2)
    stopped = client.core.cancel_all(False)
    assert settled(stopped) == numbers
    assert settled(client.over(puts(effects)[0])) == [], "its slot was faster than the stop"
    late = client.submit()
    assert len(tasks(late)) == 1 and puts(late) == [], "its files are gone"


def test_a_question_waits_for_leases_without_calls() -> None:
    client = Client(slots=2)
    effects = client.submit(2)
    assert of(m.Ask, client.core.ask(lambda info: None)) != [], "these have calls"
    for put in puts(effects):
        client.over(put)
    assert client.core.ask(lambda info: None) == [AskBack(client.group, 2)]
    assert client.core.ask(lambda info: None) == [], "they will leave for the first one"
    first, second = leases(effects)
    assert of(m.Ask, client.lease_ends(first)) == []
    assert len(of(m.Ask, client.lease_ends(second))) == 2


def test_a_question_is_asked_when_the_leases_that_it_waits_for_are_dropped() -> None:
    client = Client(slots=2)
    client.over(*puts(client.submit()))
    client.core.ask(lambda info: None)
    assert len(of(m.Ask, client.core.cancel_all(True))) == 1
    client = Client(slots=2)
    client.over(*puts(client.submit()))
    client.core.ask(lambda info: None)
    (put,) = puts(client.submit())
    assert len(of(m.Ask, client.core.cancel([put.call.number], True))) == 1


def test_a_question_can_be_asked_without_waiting_for_leases_any_longer() -> None:
    client = Client(slots=2)
    client.over(*puts(client.submit()))
    client.core.ask(lambda info: None)
    assert len(of(m.Ask, client.core.ask_anyway())) == 1
    assert client.core.ask_anyway() == []


def test_a_queue_that_nobody_can_use_is_not_kept_for_another_group() -> None:
    client = Client(slots=1)
    effects = client.submit()
    client.over(*puts(effects))
    assert client.core.close_group(client.group) == []
    effects = [*client.core.receive(m.TaskRaised(leases(effects)[0].task, 0.0, "w", "OSError", DONE))]
    assert [type(effect) for effect in effects][-2:] == [CloseQueue, m.CloseGroup]
    assert client.core.reuse_group(0) == 0


def test_a_lease_that_nobody_can_run_loses_the_calls_for_the_same_reason() -> None:
    core: ClientCore[int] = ClientCore("here")
    group, _ = core.open_group(0, [])
    core.queues.add(group, 0, FILES)
    effects = core.submit(m.Submit(core.next_task(), "f", 0, None, group, None, [], [], False, {}, [b"call"]), [], 1, 2)
    (lease,) = [effect for effect in effects if type(effect) is m.Submit]
    over = core.receive(m.TaskLost(lease.task, m.Reason.CANCELLED, "task 'f': it was cancelled"))
    (settle,) = [effect for effect in over if isinstance(effect, Settle)]
    assert settle.handle == 1 and isinstance(settle.outcome, Lost)
    assert isinstance(settle.outcome.error, MinidaskError) and "it was cancelled" in str(settle.outcome.error)
    assert CloseQueue(group) in over


def test_the_next_group_with_the_same_limit_gets_the_queue() -> None:
    core: ClientCore[int] = ClientCore("here")
    group, _ = core.open_group(2, [])
    core.queues.add(group, 2, FILES)
    assert core.close_group(group) == []
    assert core.reuse_group(3) == 0
    assert core.reuse_group(2) == group
    assert core.reuse_group(2) == 0


def test_of_several_queues_the_one_that_was_used_last_is_taken() -> None:
    core: ClientCore[int] = ClientCore("here")
    groups = []
    for _ in range(3):
        group, _ = core.open_group(2, [])
        core.queues.add(group, 2, FILES)
        groups.append(group)
    for group in (groups[0], groups[2], groups[1]):
        core.close_group(group)
    assert [core.reuse_group(2) for _ in range(3)] == [groups[1], groups[2], groups[0]]


def test_a_slot_that_joins_while_calls_wait_gets_a_lease() -> None:
    client = Client(limit=4, slots=2)
    assert len(leases(client.submit(3))) == 2
    assert len(leases(client.core.queues.slots_changed(3))) == 1
    assert leases(client.core.queues.slots_changed(5)) == [], "there is no call for it"
