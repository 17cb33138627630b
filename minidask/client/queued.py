"""What a client knows of its call queues: which calls are where, and which leases serve them. Pure.

    add ─► waiting ─► in a line (a ticket in the pipe, or in a slot's hands) ─► over
               a line is free ─┘

`minidask/data/callqueue.py` tells what tickets, lines and claims are, `worker/slot/lease.py` what a lease is. The
client asks for a lease for each call in a line, up to the queue's limit, and again when a lease is over while such
calls are left. Every call so has an end: while there is one, a lease is there or was asked for, and the scheduler tells
how each lease has ended."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import NamedTuple

from minidask.wire import messages as m
from minidask.wire.tickets import LEASES, LINES, TAKING, QueuedCall, QueueFiles

MAX_DEATHS = 3
MAX_IDLE = 8


class Put(NamedTuple):
    """Write a call into a queue. If there is no memory for it, `Queue.refused` is to be called."""

    group: int
    ticket: int
    call: QueuedCall


class PutAgain(NamedTuple):
    """Write a ticket into a queue's pipe whose call is in its line already."""

    group: int
    ticket: int


class Free(NamedTuple):
    """Remove what the call of a ticket has beside its line: the call is over."""

    group: int
    ticket: int


class Revoke(NamedTuple):
    """Have no slot begin the call of a ticket."""

    group: int
    ticket: int


class AskBack(NamedTuple):
    """Have all leases of a queue end as soon as they have no call in hand."""

    group: int
    leases: int


class Drain(NamedTuple):
    """Take all tickets out of a queue's pipe."""

    group: int


class Withdraw(NamedTuple):
    """Submit the call in the line of a ticket as a task of its own."""

    group: int
    ticket: int


class CloseQueue(NamedTuple):
    """Remove a queue."""

    group: int


QueueEffect = Put | PutAgain | Free | Revoke | AskBack | Drain | Withdraw | CloseQueue


class Death(NamedTuple):
    """A call's slot has died under it, often enough for the call to be lost; `story` tells of each time."""

    number: int
    story: list[str]


def as_task(group: int, call: QueuedCall) -> m.Submit:
    """What submits a call of a group as a task of its own."""
    return m.Submit(call.number, call.name, 0, None, group, None, call.blobs, [], False, {}, call.payload)


class Queue:
    """One queue: the calls of one group that are not over.

    Args:
        group: the number of the group; it has a limit, and its tasks are the leases.
        limit: the group's; 0 for none.
        files: where the queue is.
        next_task: gives a fresh number for a lease.

    Attributes:
        most: how many leases there may be at once.
        off: whether calls are to be submitted as tasks from now on.
        closing: whether the queue is to be closed when its calls are over.
        leases: by number, which line of claims each has.
        beside: the tickets whose calls are too large for their lines.
    """

    def __init__(self, group: int, limit: int, files: QueueFiles, next_task: Callable[[], int]) -> None:
        self.group = group
        self.limit = limit
        self.most = 1
        self.off = False
        self.closing = False
        self.leases: dict[int, int] = {}
        self.beside: set[int] = set()
        self._files = files
        self._next_task = next_task
        self._tickets: dict[int, int] = {}  # by call, for those in a line
        self._waiting: collections.deque[QueuedCall] = collections.deque()
        self._stories: dict[int, list[str]] = {}
        self._free = list(range(LINES - 1, -1, -1))
        self._stuck: list[int] = []  # lines of cancelled calls: a slot may still write a result there
        self._uses = 0
        self._recount = False
        self._idle_deaths = 0  # of leases without a call in hand, since the last outcome
        self._name = ""

    def __len__(self) -> int:
        """How many calls are not over."""
        return len(self._tickets) + len(self._waiting)

    # --- calls ---

    def add(self, call: QueuedCall) -> list[QueueEffect | m.Submit]:
        """Take in a call."""
        self._name = call.name
        if self._free and not self._waiting:
            effects: list[QueueEffect | m.Submit] = [self._put(call)]
        else:
            self._waiting.append(call)
            effects = []
        if len(self.leases) < self.most:
            effects += self.more_leases(call.blobs)
        return effects

    def _put(self, call: QueuedCall) -> Put:
        self._uses += 1
        ticket = self._uses * LINES + self._free.pop()
        self._tickets[call.number] = ticket
        return Put(self.group, ticket, call)

    def over(self, number: int) -> list[QueueEffect]:
        """Note that the outcome of a call is there, or that nobody wants it any more."""
        ticket = self._tickets.pop(number, None)
        if ticket is None:
            return []
        self._stories.pop(number, None)
        self._idle_deaths = 0
        self._free.append(ticket % LINES)
        effects: list[QueueEffect] = []
        if ticket in self.beside:
            self.beside.discard(ticket)
            effects.append(Free(self.group, ticket))
        if self._waiting:
            effects.append(self._put(self._waiting.popleft()))
        return effects

    def cancel(self, number: int) -> list[QueueEffect]:
        """Have a call not begin. One that runs goes on, and its outcome is dropped."""
        ticket = self._tickets.get(number)
        if ticket is None:
            self._waiting = collections.deque(call for call in self._waiting if call.number != number)
            return []
        del self._tickets[number]
        self.beside.discard(ticket)
        self._stuck.append(ticket % LINES)
        return [Revoke(self.group, ticket)]

    def refused(self, ticket: int, call: QueuedCall) -> list[QueueEffect | m.Submit]:
        """There is no memory for a call: it is to be a task, and so are all later ones of this queue."""
        del self._tickets[call.number]
        self._free.append(ticket % LINES)
        return [as_task(self.group, call), *self.turn_off()]

    def turn_off(self) -> list[QueueEffect | m.Submit]:
        """Use the queue no more; calls in lines are run by the leases that there are, and others become tasks."""
        self.off = True
        waiting, self._waiting = self._waiting, collections.deque()
        tasks: list[QueueEffect | m.Submit] = [as_task(self.group, call) for call in waiting]
        return [*tasks, AskBack(self.group, len(self.leases))] if self.leases else tasks

    def clear(self) -> list[m.Message]:
        """Drop all calls and leases, and use the queue no more. Returns what stops the calls that run."""
        self.off = True
        stop: list[m.Message] = [m.Cancel([*self.leases], True)] if self.leases else []
        self.leases, self._tickets, self._waiting, self.beside = {}, {}, collections.deque(), set()
        return stop

    def ticket(self, number: int) -> int:
        """The ticket of a call; 0 if it is not in a line."""
        return self._tickets.get(number, 0)

    def numbers(self) -> list[int]:
        """The calls that are not over."""
        return [*self._tickets, *(call.number for call in self._waiting)]

    # --- leases ---

    def set_most(self, slots: int) -> None:
        """Note how many slots the cluster has."""
        self.most = max(min(self.limit or slots, slots, LEASES), 1)

    def more_leases(self, blobs: list[bytes]) -> list[QueueEffect | m.Submit]:
        """What asks for leases, as many as there are calls in lines for.

        Args:
            blobs: of a call that has just come, so that most slots have all from the start; slots ask for what they
                lack. Those of an earlier call may have been released.
        """
        asked: list[QueueEffect | m.Submit] = []
        while not self._recount and not self.off and len(self.leases) < min(self.most, len(self._tickets)):
            claims = set(self.leases.values())
            lease = next(number for number in range(len(claims) + 1) if number not in claims)
            number = self._next_task()
            self.leases[number] = lease
            payload: m.Payload = [self._files.pack(lease)]
            asked.append(m.Submit(number, self._name, 0, None, self.group, None, blobs, [], True, {}, payload))
        return asked

    def lease_over(self, number: int) -> list[QueueEffect | m.Submit]:
        """A lease has ended in its own way."""
        del self.leases[number]
        effects: list[QueueEffect | m.Submit] = []
        if not self.leases:
            self._free += self._stuck
            self._stuck.clear()
        if self.off and not self.leases:
            effects = [Drain(self.group), *(Withdraw(self.group, ticket) for ticket in self._tickets.values())]
            self._tickets.clear()
        elif self._recount and not self.leases:
            self._recount = False
            effects = [Drain(self.group), *(PutAgain(self.group, ticket) for ticket in self._tickets.values())]
        while self._waiting and self._free:
            effects.append(self._put(self._waiting.popleft()))
        return effects + self.more_leases([])

    def restart(self) -> list[QueueEffect | m.Submit]:
        """All leases are lost with their scheduler: nobody has a call in hand. Put all calls again."""
        leases, self.leases = self.leases, {}
        if not leases:
            return []
        number = next(iter(leases))
        self.leases = {number: leases[number]}
        self._recount = bool(self._tickets)
        return self.lease_over(number)

    def lease_died(self, number: int, claim: int, story: str) -> tuple[list[QueueEffect | m.Submit], Death | None]:
        """A lease's slot has died.

        Args:
            claim: the ticket that the lease had in hand; 0 for none, `TAKING` if that is not known.
            story: of the death.

        Returns:
            What is to be done, and the call that is lost, if one is.
        """
        effects: list[QueueEffect | m.Submit] = []
        lost: Death | None = None
        if claim in (0, TAKING):
            self._idle_deaths += 1
            if self._idle_deaths >= MAX_DEATHS:  # leases do not even begin: as tasks, calls have a limit of attempts
                effects += self.turn_off()
        if claim == TAKING and not self._recount:
            self._recount = True
            if len(self.leases) > 1:
                effects.append(AskBack(self.group, len(self.leases) - 1))
        for call, ticket in list(self._tickets.items()):
            if ticket == claim:
                stories = self._stories.setdefault(call, [])
                stories.append(story)
                if len(stories) >= MAX_DEATHS:
                    lost = Death(call, stories)
                    effects += self.over(call)
                else:
                    effects.append(PutAgain(self.group, ticket))
        return effects + self.lease_over(number), lost


class LeaseOver(NamedTuple):
    """What follows from the end of a lease.

    Attributes:
        effects: what is to be sent and done.
        lost: the calls that will not be run, each with the text that says why; None: the reason that the lease had.
    """

    effects: list[QueueEffect | m.Message]
    lost: dict[int, str | None]


class QueueTable:
    """All queues of a client, by group.

    Args:
        next_task: gives fresh numbers for leases.
    """

    def __init__(self, next_task: Callable[[], int]) -> None:
        self._next_task = next_task
        self._queues: dict[int, Queue] = {}
        self._idle: list[Queue] = []
        self._leases: dict[int, Queue] = {}
        self._finished = self._failed = 0  # calls, of which the scheduler was not told

    def __len__(self) -> int:
        return len(self._queues)

    def __getitem__(self, group: int) -> Queue:
        return self._queues[group]

    # --- groups ---

    def reuse(self, limit: int) -> int:
        """Take a queue with this limit that nobody uses. Returns its group; 0 if there is none.

        Of several, the one that was used last: it may have its leases still.
        """
        for queue in reversed(self._idle):
            if queue.limit == limit:
                self._idle.remove(queue)
                return queue.group
        return 0

    def add(self, group: int, limit: int, files: QueueFiles) -> None:
        """Have the calls of a new group go through a queue."""
        self._queues[group] = Queue(group, limit, files, self._next_task)

    def close(self, group: int) -> list[QueueEffect | m.Message] | None:
        """Take no more calls for a group, and keep the queue for another one. Returns None if the group has none."""
        queue = self._queues.get(group)
        if queue is None:
            return None
        if not len(queue) and not queue.off and len(self._idle) < MAX_IDLE:
            self._idle.append(queue)
            return []
        queue.closing = True
        return self._ended(queue)

    def _stop(self, queue: Queue) -> list[QueueEffect | m.Message]:
        """Drop all calls of a queue, and stop those that run."""
        for lease in queue.leases:
            self._leases.pop(lease, None)  # Ctrl-C may have come before it was noted
        return [*queue.clear(), CloseQueue(queue.group)]

    def _ended(self, queue: Queue) -> list[QueueEffect | m.Message]:
        """Remove a queue that is to be closed, if its calls are over, or that can serve no other group."""
        if queue.off and queue in self._idle:
            self._idle.remove(queue)
            queue.closing = True
        if not queue.closing or len(queue):
            return []
        del self._queues[queue.group]
        return [*self._stop(queue), m.CloseGroup(queue.group)]

    def clear(self) -> None:
        """Forget all queues: the connection is gone."""
        self._queues, self._leases, self._idle = {}, {}, []

    # --- calls ---

    def takes(self, group: int) -> bool:
        """Whether the tasks of a group are to go through a queue."""
        queue = self._queues.get(group)
        return queue is not None and not queue.off

    def submit(self, message: m.Submit, session: Sequence[bytes], slots: int) -> Sequence[QueueEffect | m.Message]:
        """Put a task's call into the queue of its group, which takes it.

        Args:
            message: what would submit it.
            session: blobs that go before those of the message.
            slots: how many the cluster has.
        """
        queue = self._queues[message.group]
        queue.set_most(slots)
        effects = queue.add(QueuedCall(message.task, message.name, [*session, *message.blobs], message.payload))
        return effects if len(effects) == 1 and type(effects[0]) is Put else self._noted(queue, effects)

    def slots_changed(self, slots: int) -> list[QueueEffect | m.Message]:
        """The cluster has this many slots now: ask for leases that calls in lines may have there."""
        effects: list[QueueEffect | m.Message] = []
        for queue in self._queues.values():
            queue.set_most(slots)
            effects += self._noted(queue, queue.more_leases([]))
        return effects

    def refused(self, group: int, ticket: int, call: QueuedCall) -> Sequence[QueueEffect | m.Message]:
        """A call did not fit into its line."""
        return self._queues[group].refused(ticket, call)

    def over(self, group: int, number: int, *, failed: bool) -> list[QueueEffect | m.Message]:
        """Note that the outcome of a call is there."""
        queue = self._queues.get(group)
        if queue is None or not queue.ticket(number):
            return []
        self._finished += 1
        self._failed += failed
        effects: list[QueueEffect | m.Message] = [*queue.over(number)]
        return effects + self._ended(queue) if queue.closing else effects

    def cancel(
        self, groups: set[int], numbers: Sequence[int], force: bool
    ) -> tuple[list[QueueEffect | m.Message], set[int]]:
        """Have calls not begin. With `force`, those that run are stopped if all calls of their queue are cancelled.

        Returns:
            What is to be done, and those of the numbers that were in a queue.
        """
        effects: list[QueueEffect | m.Message] = []
        found: set[int] = set()
        for queue in [queue for group, queue in self._queues.items() if group in groups]:
            cancelled = set(queue.numbers()).intersection(numbers)
            found |= cancelled
            if force and cancelled and len(cancelled) == len(queue):
                effects += self._stop(queue)
            for number in cancelled:
                effects += queue.cancel(number)
            effects += self._ended(queue)
        return effects, found

    def stop_all(self) -> LeaseOver:
        """Drop all calls, and stop those that run."""
        effects: list[QueueEffect | m.Message] = []
        lost: dict[int, str | None] = {}
        for queue in list(self._queues.values()):
            if len(queue) or queue.leases:
                lost.update(dict.fromkeys(queue.numbers()))
                effects += [*self._stop(queue), *self._ended(queue)]
        return LeaseOver(effects, lost)

    def ticket(self, group: int, number: int) -> int:
        """The ticket of a call; 0 if it is in no line."""
        queue = self._queues.get(group)
        return queue.ticket(number) if queue is not None else 0

    # --- leases ---

    def leases(self) -> list[int]:
        """The numbers of all leases."""
        return [*self._leases]

    def lease(self, number: int) -> tuple[int, int] | None:
        """The group and the line of claims of a lease; None if the task is none."""
        queue = self._leases.get(number)
        return (queue.group, queue.leases[number]) if queue is not None else None

    def _noted(self, queue: Queue, effects: Sequence[QueueEffect | m.Message]) -> Sequence[QueueEffect | m.Message]:
        for effect in effects:
            if type(effect) is m.Submit and effect.lease:
                self._leases[effect.task] = queue
        return effects

    def lease_over(self, message: m.TaskDone | m.TaskRaised | m.TaskLost, claim: int) -> LeaseOver | None:
        """A task is over. Returns what follows if that was a lease, else None.

        Args:
            claim: what the lease had in hand.
        """
        queue = self._leases.pop(message.task, None) if self._leases else None
        if queue is None:
            return None
        lost: dict[int, str | None] = {}
        effects: Sequence[QueueEffect | m.Message]
        if type(message) is m.TaskLost and message.reason == m.Reason.KILLED:
            effects, death = queue.lease_died(message.task, claim, message.text)
            if death is not None:
                story = "; ".join(f"attempt {number}: {line}" for number, line in enumerate(death.story, 1))
                lost[death.number] = f"it was tried {len(death.story)} times, and each attempt died: {story}"
                self._finished, self._failed = self._finished + 1, self._failed + 1
        elif type(message) is m.TaskLost:
            lost = dict.fromkeys(queue.numbers())
            del queue.leases[message.task]
            effects = self._stop(queue)
        else:
            off = queue.turn_off() if type(message) is m.TaskRaised else []
            effects = [*off, *queue.lease_over(message.task)]
        return LeaseOver([*self.counted(), *self._noted(queue, effects), *self._ended(queue)], lost)

    def groups(self) -> dict[int, m.OpenGroup]:
        """What opens again the groups that have a queue, also a kept one."""
        return {group: m.OpenGroup(group, queue.limit, []) for group, queue in self._queues.items()}

    def restart(self) -> list[QueueEffect | m.Message]:
        """All leases are lost with their scheduler. Returns what has the calls run again."""
        self._leases.clear()
        effects: list[QueueEffect | m.Message] = []
        for queue in list(self._queues.values()):
            effects += [*self._noted(queue, queue.restart()), *self._ended(queue)]
        return effects

    def idle(self) -> list[QueueEffect]:
        """What ends the leases of queues without calls, which would end in a moment anyway."""
        return [
            AskBack(queue.group, len(queue.leases)) for queue in self._queues.values() if queue.leases and not queue
        ]

    def counted(self) -> list[m.Message]:
        """Tell the scheduler how many calls are over."""
        if not self._finished:
            return []
        finished, failed, self._finished, self._failed = self._finished, self._failed, 0, 0
        return [m.RanInline([], finished, failed)]
