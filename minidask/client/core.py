"""Keeps what a client waits for: tasks, groups, answers, blobs. Pure: no sockets, threads or clock.

    submit, cancel, open_group, ask …  ─►┌────────────┐─► messages to be sent, calls to be put into a queue
                                         │ ClientCore │
    messages of the scheduler          ─►└────────────┘─► `Settle` a task, `Tell` an answer

Its shell is `ClientShell`, which calls it under a lock and posts what it returns before it lets go of that lock. So
messages go out in the order in which they were decided.

1. A number is never used twice. An outcome for a number that nobody waits for is stale: it is dropped.
2. A task that nobody waits for any more, because it was cancelled or its future was dropped, is over here at once. The
   scheduler is told, and what it still says of that task is stale.
3. A blob is sent once and released once. Groups, handles, the session, and the tasks that will map it hold it, and
   `_blobs` counts them. A shell announces a blob first and has it counted then: a signal's handler that ends the shell
   in between leaves a blob that is sent twice, and none that is never sent.
4. The scheduler may die, and another one take its place that knows nothing. So what a scheduler has to know is kept
   here until it is over, and `resume` tells it again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from minidask.client.kept import KnownGroup, PendingTask, as_kept
from minidask.client.outcomes import Lost, Outcome, Returned, outcome_of
from minidask.client.queued import QueueEffect, QueueTable
from minidask.errors import KilledWorker, MinidaskError, ProtocolError, SchedulerLost, SerializationError
from minidask.host.texts import printable
from minidask.wire import messages as m
from minidask.wire.observing import Explain

HandleT = TypeVar("HandleT")
Question = m.Ask | m.Restart | Explain
OnAnswer = Callable[[dict[str, Any] | None], None]
"""Called with the scheduler's answer; with None if the connection ends before."""


class Settle(NamedTuple, Generic[HandleT]):
    """A task is over: its outcome goes to the future that the handle stands for.

    Attributes:
        handle: None if nobody waits for the task any more. The shell still takes the buffers out of the store.
        cut_off: the attempt that has submitted the task and has lost it with its scheduler; empty for none. Whatever
            that attempt makes of the error, it is to be tried again.
    """

    handle: HandleT | None
    outcome: Outcome
    cut_off: Sequence[int] = ()


class Tell(NamedTuple):
    """A question was answered; `info` is None if it never will be."""

    on_answer: OnAnswer
    info: dict[str, Any] | None


Effect = m.Message | QueueEffect | Settle[HandleT] | Tell
"""What a shell is to do: send a message, do something to a queue, settle a task, or pass on an answer."""


class ClientCore(Generic[HandleT]):
    """Decides for one client; the module's docstring says by what rules.

    Args:
        address: of the scheduler, for people.
        keeps: whether what the scheduler needs is kept, to tell another one.

    A task's handle is whatever the shell gives: it is only given back.
    """

    def __init__(self, address: str, *, keeps: bool = False) -> None:
        self._address = address
        self._keeps = keeps
        self.why_closed = ""
        """Why the connection has ended; empty while it lasts."""
        self.forked_from = 0
        """In a forked child: the number of the parent process, whose client this is; else 0."""
        self.idle: bool | None = None
        """Whether slots are idle; None as long as the scheduler has not told a new group."""
        self._tasks: dict[int, PendingTask[HandleT]] = {}
        self._groups: dict[int, KnownGroup] = {}  # open ones, and those with tasks if they are kept
        self._answers: dict[int, tuple[OnAnswer, Question]] = {}
        self._questions: list[m.Message] = []  # that wait for leases to end
        self._blobs: dict[bytes, int] = {}  # how many need each
        self._stored: set[bytes] = set()  # those of them that are in a store
        self._announced: dict[bytes, m.PutBlob | m.OfferBlob] = {}  # what announces each again, if they are kept
        self._was_closed = False  # by the user
        self._given_up: set[int] = set()  # tasks that the scheduler was told to cancel, and will tell of
        self.losses = 0  # of the scheduler, since a task had an outcome
        self._task_numbers, self._group_numbers, self._requests = (itertools.count(1) for _ in range(3))
        self.queues = QueueTable(self.next_task)

    # --- tasks ---

    def __len__(self) -> int:
        """Return how many tasks have no outcome yet."""
        return len(self._tasks)

    def next_task(self) -> int:
        """Return a fresh number for a task."""
        return next(self._task_numbers)

    def submit(
        self, message: m.Submit, session: Sequence[bytes], handle: HandleT, slots: int = 1
    ) -> Sequence[m.Message | QueueEffect]:
        """Note a task as pending, and return the messages that submit it.

        Args:
            message: submits the task, under a fresh number; its blobs are those that the call names.
            session: the blobs that describe this process, which go before those. They are held for all tasks.
            handle: stands for the task in `Settle`.
            slots: how many the cluster has.

        Raises:
            SchedulerLost: the connection has ended.
            MinidaskError: the group takes no more tasks.
            SerializationError: nobody holds one of the blobs, so the scheduler does not have it.
        """
        if self.why_closed or self.forked_from:
            self.check()
        group = self._groups.get(message.group)
        if message.group and not (group and group.takes):
            raise MinidaskError("the call that this task is of has ended")
        held: Sequence[bytes] = message.blobs
        if held:
            self.check_held(held, f"task {message.name!r}")
        queued = bool(self.queues) and self.queues.takes(message.group)
        submit = None if queued else message._replace(blobs=[*session, *message.blobs])
        if submit is not None and self._keeps:
            held = submit.blobs
        elif submit is not None:
            held = [blob for blob in held if blob in self._stored]  # the scheduler holds the others
        if held:
            self.hold(held)
        # First the task, then what runs it: Ctrl-C may come in between, and what is here can be cancelled.
        kept = as_kept(submit) if submit is not None and self._keeps else None
        self._tasks[message.task] = PendingTask(handle, message.name, message.group, held, message.parent, kept)
        if group is not None:
            group.pending += 1
        return self.queues.submit(message, session, slots) if submit is None else [submit]

    def keep(self, submit: m.Submit) -> None:
        """Note what submits a call of a queue that has become a task."""
        task = self._tasks.get(submit.task)
        if self._keeps and task is not None and task.submit is None:
            self._tasks[submit.task] = task._replace(submit=as_kept(submit))

    def handle_of(self, number: int) -> HandleT | None:
        """Return the handle of a task; None if nobody waits for the task."""
        task = self._tasks.get(number)
        return task.handle if task is not None else None

    def group_of(self, number: int) -> int:
        """Return the group of a task; 0 if it has none, or nobody waits for it."""
        task = self._tasks.get(number)
        return task.group if task is not None else 0

    def replace_handle(self, number: int, handle: HandleT) -> None:
        """Give a task another handle. Nothing happens if nobody waits for the task."""
        task = self._tasks.get(number)
        if task is not None:
            self._tasks[number] = task._replace(handle=handle)

    def handles(self, group: int | None = None) -> list[HandleT]:
        """Return the handles of pending tasks: those of a group, or all."""
        return [task.handle for task in list(self._tasks.values()) if group is None or task.group == group]

    def take_back(self, number: int) -> list[m.Message]:
        """Forget a task whose message was not sent."""
        task = self._forget(number)
        return self.release(task.held) if task is not None else []

    def _forget(self, number: int) -> PendingTask[HandleT] | None:
        """Forget a task, and its group if that is closed and has no other."""
        task = self._tasks.pop(number, None)
        group = self._groups.get(task.group) if task is not None else None
        if task is not None and group is not None:
            group.pending -= 1
            if group.closed and not group.pending:
                del self._groups[task.group]
        return task

    def cancel(self, numbers: Sequence[int], force: bool) -> list[m.Message | QueueEffect]:
        """Forget tasks that were cancelled, and tell the scheduler; with `force`, those that run are stopped too.

        Calls of a queue are stopped if all of the queue are cancelled: its leases are. Else those that run go on.
        """
        effects: list[m.Message | QueueEffect] = []
        others = numbers
        if self.queues:
            groups = {task.group for number in numbers if (task := self._tasks.get(number))}
            effects, queued = self.queues.cancel(groups, numbers, force)
            others = [number for number in numbers if number not in queued]
        if others:
            effects.append(m.Cancel([*others], force))
        for number in numbers:
            effects += self.take_back(number)
        return effects + self._ask_now()

    def cancel_all(self, force: bool) -> Sequence[Effect[HandleT]]:
        """Cancel all tasks; those that are submitted as such end by the scheduler's answers.

        With `force`, those that run are stopped too. Calls of a queue are stopped in any case: they are of `Parallel`
        calls, which end with the first one that is lost.
        """
        stopped = self.queues.stop_all()
        self._given_up = {*self._tasks}
        return [*stopped.effects, m.CancelAll(force), *self._lose(stopped.lost, None), *self._ask_now()]

    def drop(self, numbers: Iterable[int]) -> list[m.Message | QueueEffect]:
        """Forget tasks whose futures were dropped, and have them not begin; tasks that are over are ignored."""
        return self.cancel([number for number in numbers if number in self._tasks], force=False)

    # --- groups ---

    def open_group(self, limit: int, parent: list[int]) -> tuple[int, list[m.Message]]:
        """Open a group of which at most `limit` tasks run at once; return its number and the messages to send."""
        number = next(self._group_numbers)
        self._groups[number] = KnownGroup(limit, parent)
        return number, [m.OpenGroup(number, limit, parent)]

    def end_group(self, number: int) -> None:
        """Take no more tasks for a group; it stays open for those that were submitted."""
        if number in self._groups:
            self._groups[number].takes = False

    def close_group(self, number: int) -> list[m.Message | QueueEffect]:
        """Take no more tasks for a group, and have the scheduler forget it when those submitted are over.

        The queue of a group is kept for the next group of the same limit.
        """
        group = self._groups.get(number)
        known = group is not None and not group.closed
        if group is not None:
            group.takes, group.closed = False, True
            if not group.pending or not self._keeps:
                del self._groups[number]
        kept = self.queues.close(number)
        return ([m.CloseGroup(number)] if known else []) if kept is None else [*kept, *self._ask_now()]

    def reuse_group(self, limit: int) -> int:
        """Open a group again whose queue was kept, with this limit. Returns its number; 0 if there is none."""
        number = self.queues.reuse(limit)
        if number:
            self._groups[number] = KnownGroup(limit, [])
        return number

    # --- questions ---

    def ask(self, on_answer: OnAnswer) -> list[m.Message | QueueEffect]:
        """Ask for the scheduler's description of the cluster.

        A lease counts as a task that runs. So those without a call are given back first, and the question waits for
        that.
        """
        first = not self._questions
        self._questions.append(self.request(m.Ask, on_answer))
        return self._ask_now() or ([*self.queues.idle()] if first else [])

    def _ask_now(self) -> list[m.Message | QueueEffect]:
        """Ask the questions that wait, if no lease is without a call any more."""
        return self.ask_anyway() if self._questions and not self.queues.idle() else []

    def ask_anyway(self) -> list[m.Message | QueueEffect]:
        """Ask the questions that wait. Leases without a call are counted then."""
        questions, self._questions = self._questions, []
        return [*self.queues.counted(), *questions] if questions else []

    def request(self, kind: type[Question], on_answer: OnAnswer, *fields: Any) -> m.Message:
        """Return a message that is answered, made of a fresh number and these fields."""
        question = kind(next(self._requests), *fields)
        self._answers[question.request] = on_answer, question
        return question

    # --- blobs ---

    def lacking(self, blobs: Iterable[bytes]) -> list[bytes]:
        """Return those of these blobs that nobody holds: the scheduler does not have them."""
        return [blob for blob in blobs if blob not in self._blobs]

    def check_held(self, blobs: Iterable[bytes], what: str) -> None:
        """Check that each of these blobs has a holder, so that the scheduler has it.

        Raises:
            SerializationError: that is so; `what` names in it who takes them.
        """
        if not self._blobs.keys() >= set(blobs):
            raise SerializationError(
                f"{what} takes scattered data that this Client does not hold: the handle is another Client's, or was"
                " released; scatter the data with this one"
            )

    def announce(self, blobs: Mapping[bytes, m.Payload], offers: Mapping[bytes, m.OfferBlob]) -> list[m.Message]:
        """Return messages with those blobs that the scheduler lacks. Call `hold` when these are posted.

        Args:
            blobs: payloads by blob.
            offers: the messages for those that are in the store; all others are sent whole.
        """
        messages = {blob: offers.get(blob) or m.PutBlob(blob, blobs[blob]) for blob in self.lacking(blobs)}
        if self._keeps:
            for blob, message in messages.items():
                self._announced[blob] = as_kept(message) if isinstance(message, m.PutBlob) else message
        return [*messages.values()]

    def hold(self, blobs: Iterable[bytes], stored: Iterable[bytes] = ()) -> None:
        """Count one more need of each of these.

        Args:
            stored: blobs that are in the store from now on.
        """
        for blob in blobs:
            self._blobs[blob] = self._blobs.get(blob, 0) + 1
        self._stored.update(stored)

    def release(self, blobs: Iterable[bytes]) -> list[m.Message]:
        """Count one holder less of each blob; return the message that releases those without any."""
        gone = []
        for blob in blobs:
            count = self._blobs.get(blob, 0) - 1  # 0: a signal's handler has ended what would have counted it
            if count > 0:
                self._blobs[blob] = count
            elif self._blobs.pop(blob, 0):
                gone.append(blob)
                self._announced.pop(blob, None)
        self._stored.difference_update(gone)
        return [m.ReleaseBlobs(gone)] if gone else []

    def stored(self) -> list[bytes]:
        """Return the blobs that are held in the store."""
        return [*self._stored]

    # --- what the scheduler says ---

    def receive(self, message: m.Message, claim: int = 0) -> Sequence[Effect[HandleT]]:
        """Handle a message of the scheduler; return messages to send, futures to settle, and answers to pass on.

        Args:
            claim: of the lease that the message is about.

        Raises:
            ProtocolError: it is no message for a client.
        """
        match message:
            case m.TaskDone() | m.TaskRaised() | m.TaskLost():
                lease = self.queues.lease_over(message, claim) if self.queues else None
                if lease is not None:
                    return [*lease.effects, *self._lose(lease.lost, outcome_of(message)), *self._ask_now()]
                no_parent = isinstance(message, m.TaskLost) and message.reason == m.Reason.NO_PARENT
                return self._over(message.task, outcome_of(message), no_parent=no_parent)
            case m.Answer(request, info):
                asked = self._answers.pop(request, None)
                return [Tell(asked[0], info)] if asked is not None else []
            case m.IdleSlots(idle):
                self.idle = idle
                return []
            case m.Goodbye(reason):
                self.why_closed = f"the scheduler at {self._address} said goodbye: {printable(reason)}"
                return []
        raise ProtocolError(f"{type(message).__name__} is no message for a client")

    def call_returned(self, number: int, ticket: int, outcome: Returned) -> Sequence[Effect[HandleT]]:
        """Handle a result that a slot has given to a queue; as `receive`."""
        if self.queues.ticket(self.group_of(number), number) != ticket:
            return ()
        return self._over(number, outcome)

    def _over(self, number: int, outcome: Outcome, *, no_parent: bool = False) -> list[Effect[HandleT]]:
        """Settle a task. One that nobody waits for has no handle: the outcome may have left buffers in the store."""
        task = self._forget(number)
        if task is None:
            return [Settle(None, outcome)]
        self.losses = 0
        effects: list[Effect[HandleT]] = []
        if self.queues:
            effects += self.queues.over(task.group, number, failed=type(outcome) is not Returned)
        if task.held:
            effects += self.release(task.held)
        effects.append(Settle(task.handle, outcome, task.parent if no_parent else ()))
        return effects

    def _lose(self, calls: Mapping[int, str | None], outcome: Outcome | None) -> Iterator[m.Message | Settle[HandleT]]:
        """Settle calls of a queue that will not be run: as killed where there is a text, else with this outcome.

        Args:
            outcome: None if they were cancelled.
        """
        for number, text in calls.items():
            task = self._tasks[number]
            yield from self.take_back(number)
            what = f"task {task.name!r}"
            if text is not None:
                yield Settle(task.handle, Lost(KilledWorker(f"{what}: {text}")))
            else:
                yield Settle(task.handle, outcome or Lost(MinidaskError(f"{what}: it was cancelled")))

    # --- another scheduler, and the end ---

    def resume(self) -> list[Effect[HandleT]]:
        """Return what tells a scheduler all that it has to know: the last one is lost, and so are all leases."""
        self.losses += 1
        self.idle = None
        cancelled = self._lose(dict.fromkeys(self._given_up & self._tasks.keys()), None)
        settled = [effect for effect in cancelled if isinstance(effect, Settle)]
        queued = self.queues.groups()
        groups = {number: m.OpenGroup(number, group.limit, group.parent) for number, group in self._groups.items()}
        return [
            *settled,
            *{**groups, **queued}.values(),
            *(self._announced[blob] for blob in self._blobs),
            *(task.submit for task in self._tasks.values() if task.submit is not None),
            *(m.CloseGroup(number) for number, group in self._groups.items() if group.closed and number not in queued),
            *(question for _, question in self._answers.values() if question not in self._questions),
            *self.queues.restart(),
            m.Resubmitted(),
            *self._ask_now(),
        ]

    @property
    def closed(self) -> bool:
        """Whether this client was closed, has lost its scheduler, or is the parent process's."""
        return bool(self.why_closed or self.forked_from)

    @property
    def lost(self) -> bool:
        """Whether this client has lost its scheduler, and the user had not closed it."""
        return bool(self.why_closed) and not self._was_closed

    def check(self) -> None:
        """Check that this client can be used.

        Raises:
            SchedulerLost: there is no connection any more, and why.
            MinidaskError: it is the parent's process's.
        """
        if self.forked_from:
            whose = f"process {self.forked_from}, of which this one is a fork"
            raise MinidaskError(f"this Client belongs to {whose}: make a new Client here")
        if self.why_closed:
            raise SchedulerLost(f"this Client is of no more use: {self.why_closed}; close() it, and make a new one")

    def close(self) -> None:
        """Note that the user has closed the client: nothing is sent any more."""
        self._was_closed = True
        self.why_closed = self.why_closed or "the client was closed"

    def abandon(self, process: int) -> list[HandleT]:
        """Forget all, in a fork of the process that has connected. Returns the handles of the parent's tasks."""
        handles = self.handles()
        self.forked_from = process
        self._tasks, self._answers, self._blobs, self._stored = {}, {}, {}, set()
        self._announced = {}
        self.queues.clear()
        return handles

    def end(self, why: str) -> list[Settle[HandleT] | Tell]:
        """Note that the connection has ended; return an error for each task and question that is pending.

        Args:
            why: said where no other reason is known yet.
        """
        self.why_closed = self.why_closed or f"the connection to the scheduler at {self._address} is gone: {why}"
        tasks, self._tasks = self._tasks, {}
        answers, self._answers = self._answers, {}
        self.queues.clear()
        lost = [
            Settle(
                task.handle,
                Lost(SchedulerLost(f"task {task.name!r} was pending when {self.why_closed}")),
                task.parent if self.lost else (),
            )
            for task in tasks.values()
        ]
        return [*lost, *(Tell(on_answer, None) for on_answer, _ in answers.values())]
