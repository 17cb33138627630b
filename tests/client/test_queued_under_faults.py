"""`QueueTable` with slots that are played: whatever is killed, each call ends once, and runs in one slot at a time."""

from __future__ import annotations

import collections
import random
from collections.abc import Sequence
from typing import Any

import pytest

from minidask.client import queued
from minidask.client.core import ClientCore, Settle, Tell
from minidask.client.outcomes import Lost, Returned
from minidask.client.queued import AskBack, CloseQueue, Drain, Put, PutAgain, Revoke, Withdraw, as_task
from minidask.errors import KilledWorker
from minidask.wire import messages as m
from minidask.wire.packing import unpack
from minidask.wire.tickets import LEASES, LEAVE, LINES, TAKING, QueuedCall, QueueFiles

FILES = QueueFiles("arena", "calls", "results")
DONE, BLOB = [b"1"], b"b" * 16


class Files:
    """The pipe and the memory of a queue, as `minidask/data/callqueue.py` makes them."""

    def __init__(self) -> None:
        self.pipe: collections.deque[int] = collections.deque()
        self.lines: dict[int, tuple[int, QueuedCall]] = {}
        self.claims: collections.defaultdict[int, int] = collections.defaultdict(int)


class Slot:
    """A slot that serves a lease, and how far it is: a ticket that it has read, the call that it runs, a result."""

    def __init__(self, lease: int, files: Files, place: int) -> None:
        self.lease = lease
        self.files = files
        self.place = place
        self.taken = 0  # a ticket that it has read and not claimed
        self.call: QueuedCall | None = None
        self.given = False  # the result of its call, and the claim is still there

    @property
    def claim(self) -> int:
        return self.files.claims[self.place]

    @claim.setter
    def claim(self, ticket: int) -> None:
        self.files.claims[self.place] = ticket


class Play:
    """A client, its queues, the mail from the scheduler, and up to four slots that may die between any two steps."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.core: ClientCore[int] = ClientCore("here", keeps=True)
        self.n_slots = self.chance.randint(1, 4)
        self.limits: dict[int, int] = {}  # by group
        self.files: dict[int, Files] = {}  # by group, those that were not removed
        self.removed: set[int] = set()
        self.closed: set[int] = set()  # groups that take no calls any more
        self.forgotten: collections.Counter[int] = collections.Counter()  # groups, by the scheduler
        self.asked: dict[int, tuple[int, int]] = {}  # leases that no slot has begun: group and line of claims
        self.slots: list[Slot] = []
        self.results: list[tuple[int, int]] = []  # in the pipe: calls and tickets
        self.mail: collections.deque[m.Message] = collections.deque()  # from the scheduler
        self.tasks: dict[int, m.Submit] = {}  # calls that became tasks
        self.were_tasks: set[int] = set()
        self.outcomes: dict[int, object] = {}
        self.submitted: dict[int, int] = {}  # the group of each call
        self.cancelled: set[int] = set()
        self.deaths: collections.Counter[int] = collections.Counter()
        self.ran: collections.Counter[int] = collections.Counter()  # how often a call's function came to its end
        self.lost_runs: collections.Counter[int] = collections.Counter()  # how often that was lost with the scheduler
        self.given: set[int] = set()  # calls whose result a slot has written, or told the daemon
        self.counted = 0
        self.questions = self.answers = 0
        self.released: set[bytes] = set()  # blobs that the scheduler has forgotten
        self.open_group()

    # --- the client's shell ---

    def open_group(self) -> None:
        limit = self.chance.randrange(4)
        self.group = self.core.reuse_group(limit)
        if not self.group:
            self.group, _ = self.core.open_group(limit, [])
            self.core.queues.add(self.group, limit, FILES)
            self.limits[self.group], self.files[self.group] = limit, Files()
        assert self.limits[self.group] == limit and not self.forgotten[self.group]
        self.closed.discard(self.group)

    def carry_out(self, effects: Sequence[Any]) -> None:
        for effect in effects:
            match effect:
                case Put(group, ticket, call):
                    if call.name == "large":
                        self.carry_out(self.core.queues.refused(group, ticket, call))
                        continue
                    self.put(self.files[group], ticket, call)
                case PutAgain(group, ticket):
                    there, call = self.files[group].lines[ticket % queued.LINES]
                    assert there != ticket or call.number not in self.given, "its result was given"
                    self.files[group].pipe.append(ticket)
                case Revoke(group, ticket):
                    lines = self.files[group].lines
                    lines[ticket % queued.LINES] = LEAVE, lines[ticket % queued.LINES][1]
                case AskBack(group, leases):
                    self.files[group].pipe.extend([LEAVE] * leases)
                case Drain(group):
                    self.files[group].pipe.clear()
                case Withdraw(group, ticket):
                    there, call = self.files[group].lines[ticket % queued.LINES]
                    assert there == ticket and call.number not in self.given, "its result was given"
                    self.carry_out([as_task(group, call)])
                case CloseQueue(group):
                    self.files.pop(group, None)
                    self.removed.add(group)
                case m.OpenGroup(group):
                    self.forgotten.pop(group, None)
                case m.CloseGroup(group):
                    self.forgotten[group] += 1
                case m.PutBlob(blob):
                    self.released.discard(blob)
                case m.ReleaseBlobs(blobs):
                    self.released.update(blobs)
                case m.Submit() if effect.lease:
                    assert self.released.isdisjoint(effect.blobs), "it would be refused"
                    assert not self.forgotten[effect.group]
                    self.asked[effect.task] = effect.group, unpack(effect.payload[0])[3]
                case m.Submit():
                    assert self.released.isdisjoint(effect.blobs), "it would be refused"
                    assert effect.task not in self.tasks and not self.forgotten[effect.group]
                    self.tasks[effect.task] = effect
                    self.core.keep(effect)
                    self.were_tasks.add(effect.task)
                case m.Cancel(tasks, force):
                    self.stop({*tasks}, force)
                case m.CancelAll():
                    ended = [*self.tasks, *self.asked, *(slot.lease for slot in self.slots)]
                    self.cancelled.update(self.tasks)
                    self.mail.extend(m.TaskLost(number, m.Reason.CANCELLED, "it was cancelled") for number in ended)
                    self.stop({*ended}, True)
                case m.Ask(request):
                    assert not self.core.queues.idle(), "leases without calls count as tasks that run"
                    self.mail.append(m.Answer(request, {}))
                case Tell():
                    self.answers += 1
                case m.RanInline(_, finished, failed):
                    assert 0 <= failed <= finished
                    self.counted += finished
                case Settle(handle, outcome):
                    if handle is not None:
                        assert handle not in self.outcomes, f"call {handle} has ended twice"
                        assert handle not in self.cancelled or isinstance(outcome, Lost), "it was cancelled"
                        self.outcomes[handle] = outcome

    def put(self, files: Files, ticket: int, call: QueuedCall) -> None:
        line = ticket % queued.LINES
        running = [slot for slot in self.slots if slot.files is files and slot.call and not slot.given]
        assert all(slot.claim % queued.LINES != line for slot in running), "a slot may still write into that line"
        assert len(files.pipe) < queued.LINES + LEASES
        files.lines[line] = ticket, call
        files.pipe.append(ticket)

    def stop(self, numbers: set[int], force: bool) -> None:
        """Cancel leases and tasks at the scheduler. Slots that are stopped may still give what they have in hand."""
        for number in numbers:
            self.tasks.pop(number, None)
            self.asked.pop(number, None)
        for slot in [slot for slot in self.slots if slot.lease in numbers and force]:
            self.slots.remove(slot)
            if slot.call is not None and not slot.given and self.chance.random() < 0.5:
                self.results.append((slot.call.number, slot.claim))

    def results_given(self) -> list[Any]:
        effects: list[Any] = []
        while self.results:
            effects += self.core.call_returned(*self.results.pop(0), Returned(DONE, 0.0, "w"))
        return effects

    def claim_of(self, lease: int) -> int:
        found = self.core.queues.lease(lease)
        return self.files[found[0]].claims.pop(found[1], 0) if found is not None else 0

    def read_mail(self) -> None:
        """As `ClientShell._decide` does: results that were given before a lease ended are read before its end."""
        message: Any = self.mail.popleft()
        if isinstance(message, m.Answer):
            self.carry_out(self.core.receive(message))
            return
        if self.core.queues.lease(message.task):
            self.carry_out(self.results_given())
        self.carry_out(self.core.receive(message, self.claim_of(message.task)))

    def read_result(self) -> None:
        self.carry_out(self.core.call_returned(*self.results.pop(0), Returned(DONE, 0.0, "w")))

    # --- the user ---

    def submit(self) -> None:
        for _ in range(self.chance.choice([1, 1, 2, 3, 4, 12])):
            name = self.chance.choices(["f", "large", "deadly"], [97, 1, 2])[0]
            number = self.core.next_task()
            blobs = [number.to_bytes(16)] if self.chance.random() < 0.3 else []
            message = m.Submit(number, name, 0, None, self.group, None, blobs, [], False, {}, [b"call"])
            self.submitted[number] = self.group
            self.carry_out(self.core.announce({blob: [blob] for blob in blobs}, {}))
            self.core.hold(blobs)
            self.carry_out(self.core.submit(message, [], number, self.n_slots))
            self.carry_out(self.core.release(blobs))  # the array is gone: the task alone holds its blob

    def cancel_some(self) -> None:
        pending = sorted(self.submitted.keys() - self.outcomes.keys() - self.cancelled)
        if pending:
            numbers = self.chance.sample(pending, min(len(pending), self.chance.choice([1, 1, 2, 5])))
            self.cancelled.update(numbers)
            self.carry_out(self.core.cancel(numbers, self.chance.random() < 0.3))

    def close_group(self) -> None:
        if self.chance.random() < 0.5:
            self.core.end_group(self.group)
        self.closed.add(self.group)
        self.carry_out(self.core.close_group(self.group))
        self.open_group()

    def abort(self) -> None:
        group, numbers = self.group, self.core.handles(self.group)
        self.core.end_group(group)
        self.cancelled.update(numbers)
        self.carry_out(self.core.cancel(numbers, True))
        self.close_group()

    def cancel_all(self) -> None:
        in_queues = self.submitted.keys() - self.outcomes.keys() - self.cancelled - self.were_tasks
        self.carry_out(self.core.cancel_all(self.chance.random() < 0.5))
        for number in in_queues:
            assert isinstance(self.outcomes[number], Lost)
        self.cancelled.update(in_queues)

    def ask(self) -> None:
        self.questions += 1
        self.carry_out(self.core.ask(lambda info: None))

    # --- slots ---

    def go_on(self) -> None:
        """One slot takes its next step, or a lease or task begins, or the client reads."""
        what = self.chance.random()
        if what < 0.15 and self.results:
            self.read_result()
        elif what < 0.3 and self.mail:
            self.read_mail()
        elif what < 0.45 and self.asked and len(self.slots) < self.n_slots:
            self.begin_lease()
        elif what < 0.5 and self.tasks:
            self.run_task()
        elif self.slots:
            self.step(self.chance.choice(self.slots))

    def run_task(self) -> None:
        number = next(iter(self.tasks))
        del self.tasks[number]
        self.ran[number] += 1
        self.mail.append(m.TaskDone(number, 0.0, "w", DONE))

    def begin_lease(self) -> None:
        lease = self.chance.choice([*self.asked])
        group, place = self.asked.pop(lease)
        files = self.files[group]
        assert all(slot.place != place for slot in self.slots if slot.files is files), "two leases have one claim"
        self.slots.append(Slot(lease, files, place))

    def end_lease(self, slot: Slot) -> None:
        self.slots.remove(slot)
        slot.claim = 0
        self.mail.append(m.TaskDone(slot.lease, 0.0, "w", DONE))

    def yield_lease(self) -> None:
        """Others need the slot."""
        for slot in self.slots:
            if slot.call is None and not slot.taken:
                self.end_lease(slot)
                return

    def die(self) -> None:
        if self.slots:
            self.kill(self.chance.choice(self.slots))

    def kill(self, slot: Slot) -> None:
        if slot.call is not None and not slot.given:
            self.deaths[slot.call.number] += 1
            self.ran[slot.call.number] += self.chance.random() < 0.3  # it was about to write the result
        self.slots.remove(slot)
        self.mail.append(m.TaskLost(slot.lease, m.Reason.KILLED, "its process ended"))

    def lose_scheduler(self) -> None:
        """The node is killed, and its slots with it. Another one is told by the client what there is to do."""
        for slot in self.slots:
            if slot.call is not None and not slot.given:
                self.lost_runs[slot.call.number] += 1
                self.ran[slot.call.number] += self.chance.random() < 0.3
        for message in self.mail:
            self.lost_runs[message[0]] += 1
            self.given.discard(message[0])
        for here in (self.slots, self.asked, self.tasks, self.mail):
            here.clear()
        effects = self.results_given()
        self.cancelled.update(self.core._given_up & {*self.core.handles()})
        for lease in self.core.queues.leases():
            self.claim_of(lease)
        self.carry_out([*effects, *self.core.resume()])

    def lease_cannot_begin(self) -> None:
        if self.asked:
            lease = next(iter(self.asked))
            del self.asked[lease]
            self.mail.append(m.TaskRaised(lease, 0.0, "w", "OSError", DONE))

    def step(self, slot: Slot) -> None:
        """The next thing that a slot does; it may die before and after."""
        if slot.given:
            slot.call, slot.given, slot.claim = None, False, 0
        elif slot.call is not None and slot.call.name == "deadly" and self.chance.random() < 0.9:
            self.kill(slot)
        elif slot.call is not None:
            self.give(slot, slot.call.number)
        elif slot.taken == LEAVE:
            self.end_lease(slot)
        elif slot.taken:
            slot.claim, slot.taken = slot.taken, 0
            ticket, call = slot.files.lines[slot.claim % queued.LINES]
            if ticket != slot.claim:
                slot.claim = 0
                return
            running = [other.call.number for other in self.slots if other.call is not None]
            assert call.number not in running, "it runs twice at once"
            assert call.number not in self.given, "it runs again, though its result was given"
            excused = self.deaths[call.number] + self.lost_runs[call.number]
            assert self.ran[call.number] <= excused, "it came to its end, and its slot did not die"
            slot.call = call
        elif slot.files.pipe:
            slot.claim, slot.taken = TAKING, slot.files.pipe.popleft()
        else:
            self.end_lease(slot)

    def give(self, slot: Slot, number: int) -> None:
        self.ran[number] += 1
        self.given.add(number)
        slot.given = True
        if self.chance.random() < 0.8:
            self.results.append((number, slot.claim))
        else:
            self.mail.append(m.TaskDone(number, 0.0, "w", DONE))

    # --- what holds ---

    def check(self) -> None:
        served: collections.Counter[int] = collections.Counter(group for group, _ in self.asked.values())
        group_of = {id(files): group for group, files in self.files.items()}
        served.update(group_of[id(slot.files)] for slot in self.slots)
        ended = {message.task for message in self.mail if isinstance(message, m.TaskDone | m.TaskLost | m.TaskRaised)}
        for group in self.files:
            queue = self.core.queues[group]
            most = min(self.limits[group] or self.n_slots, self.n_slots)
            assert served[group] <= len(queue.leases) <= most, "more leases than the limit allows"
            assert not len(queue) or served[group] or ended & queue.leases.keys(), "calls wait, and no lease comes"
        for group in self.forgotten:
            assert self.forgotten[group] == 1 and group in self.removed and group in self.closed

    def end(self) -> None:
        for _ in range(3000):  # from now on only calls kill slots
            if not (self.results or self.mail or self.tasks or self.asked or self.slots):
                break
            self.finish_one_step()
        else:
            raise AssertionError("it goes on and on")
        assert self.answers == self.questions, "a question was not answered"
        self.carry_out(self.core.queues.counted())
        for number in self.submitted.keys() - self.cancelled:
            outcome = self.outcomes.get(number)
            assert outcome is not None, f"call {number} has no outcome"
            if isinstance(outcome, Lost):
                assert isinstance(outcome.error, KilledWorker) and self.deaths[number] >= 3
            else:
                assert isinstance(outcome, Returned) and self.ran[number] >= 1
        ended = [n for n, outcome in self.outcomes.items() if isinstance(outcome, Returned) or n not in self.cancelled]
        assert self.counted == len(set(ended) - self.were_tasks), "the scheduler is told of each call"
        for group in self.closed:
            kept = group in self.files
            assert kept == (group not in self.removed) == (self.forgotten[group] == 0), f"group {group} was not removed"

    def finish_one_step(self) -> None:
        if self.results:
            self.read_result()
        elif self.mail:
            self.read_mail()
        elif self.tasks:
            self.run_task()
        elif self.asked and len(self.slots) < self.n_slots:
            self.begin_lease()
        else:
            for slot in list(self.slots):
                self.step(slot)


STEPS = {
    Play.submit: 10,
    Play.go_on: 120,
    Play.die: 8,
    Play.lose_scheduler: 1,
    Play.cancel_some: 1,
    Play.yield_lease: 2,
    Play.lease_cannot_begin: 0.3,
    Play.close_group: 1,
    Play.abort: 0.4,
    Play.cancel_all: 0.2,
    Play.ask: 1,
}


@pytest.mark.parametrize("lines", [3, LINES])
def test_whatever_slots_do_each_call_ends_once_and_runs_in_one_slot_at_a_time(
    lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued, "LINES", lines)
    seen: collections.Counter[str] = collections.Counter()
    for seed in range(400):
        play = Play(seed)
        try:
            for step in play.chance.choices([*STEPS], [*STEPS.values()], k=200):
                step(play)
                play.check()
            play.end()
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        seen.update(
            deaths=sum(play.deaths.values()),
            lost=sum(count >= 3 for count in play.deaths.values()),
            tasks=len(play.were_tasks),
            removed=play.forgotten.total(),
        )
    assert seen["deaths"] > 300 and min(seen.values()) > 10, seen
