"""What the scheduler knows: tasks and their states, groups, clients and workers.

The table `TRANSITIONS` is the life of a task. Every change of state is a call of `TaskRecord.move`, which refuses a
step that the table does not have. What the steps mean is told at the top of `core.py`.

            died, lost, gave_back: it is tried again
        ┌─────────────────┬──────────────────────┐
        ▼                 │                      │
      Ready ─ assign ─► Running ── offer ─► Delivering
        │                 │  │                   │
        │                 │  │ cancel            │
        │                 │  ▼                   │
        │      done,      │ Cancelled ◄─┐        │ cancel, done,
        │ cancel, raised, │  │  └ stop ─┘        │ raised, stopped;
        │ fail stopped;   │  │                   │ died, lost:
        │   died, lost:   │  │ end               │ often enough
        │   often enough  │  │                   │
        ▼                 ▼  ▼                   ▼
      Ended: the client was told, and the scheduler has forgotten the task

A Running task also ends, `held`, when its client is cut off. The attempt goes on: see `holds.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from minidask.wire.messages import Payload

Amounts = dict[str, int]  # resources by name, in millionths: see `amounts.py`
Needs = tuple[tuple[str, int], ...]  # those of a task, in order


class Ready(NamedTuple):
    """The task waits for a worker."""


class Running(NamedTuple):
    """The current attempt was sent to `worker`, which runs it, or keeps it until a slot is free.

    `sent_at` is the scheduler's clock then, in seconds, if the attempt could start as soon as it arrived: see
    `placement.is_direct`. Otherwise, and for workers that do not prefetch, it is None. `since` is always that clock.
    """

    worker: WorkerRecord
    sent_at: float | None = None
    since: float = 0.0


class Delivering(NamedTuple):
    """The attempt has returned, and the client fetches large buffers of its result from `worker`.

    The task has left its slot and its group, and the tasks within it are over. `done` follows when all is fetched.
    """

    worker: WorkerRecord


class Cancelled(NamedTuple):
    """The client does not want the outcome any more, but `worker` has not said yet that the attempt is over.

    The attempt goes on, and may submit tasks of its own, unless the worker was told to stop it: `stopped`.
    """

    worker: WorkerRecord
    stopped: bool = False


class Ended(NamedTuple):
    """The task is over and its client was told; the scheduler has forgotten it."""


State = Ready | Running | Delivering | Cancelled | Ended

TRANSITIONS: dict[tuple[type[State], str], tuple[type[State], ...]] = {
    (Ready, "assign"): (Running,),
    (Ready, "cancel"): (Ended,),
    (Ready, "fail"): (Ended,),
    (Running, "done"): (Ended,),
    (Running, "raised"): (Ended,),
    (Running, "stopped"): (Ended,),
    (Running, "died"): (Ready, Ended),
    (Running, "lost"): (Ready, Ended),
    (Running, "gave_back"): (Ready,),
    (Running, "cancel"): (Cancelled,),
    (Running, "offer"): (Delivering,),
    (Running, "moved"): (Running,),
    (Running, "held"): (Ended,),
    (Delivering, "done"): (Ended,),
    (Delivering, "raised"): (Ended,),
    (Delivering, "stopped"): (Ended,),
    (Delivering, "died"): (Ready, Ended),
    (Delivering, "lost"): (Ready, Ended),
    (Delivering, "gave_back"): (Ready,),
    (Delivering, "cancel"): (Ended,),
    (Cancelled, "stop"): (Cancelled,),
    (Cancelled, "end"): (Ended,),
}


ERROR_STEPS = {"raised", "stopped", "fail", "died", "lost"}
"""The steps to `Ended` that tell the client of an error."""


class IllegalTransition(Exception):
    """A bug of the scheduler: the table does not have this step for a task in this state."""


@dataclass(slots=True)
class TaskCounts:
    """How many tasks were submitted, how many of those are over, and how many of those ended in an error."""

    submitted: int = 0
    finished: int = 0
    failed: int = 0

    @property
    def unfinished(self) -> int:
        """How many tasks are not over yet."""
        return self.submitted - self.finished

    def add(self, finished: int, failed: int) -> None:
        """Count tasks that were neither submitted nor run through this scheduler."""
        self.submitted += finished
        self.finished += finished
        self.failed += failed


@dataclass(slots=True, eq=False)
class ClientRecord:
    """A connected client; `tasks` by the client's own numbers.

    A `nested` client belongs to a slot, and submits for the tasks that run there. Of any other client, `counts` counts
    its own tasks and `within` all tasks within those. `seconds` is the smoothed duration, by name, of its tasks that
    have no group.

    Its tasks run on workers of its `python`, as "3.11"; on any worker if that is "". It is `served` if there has been
    such a worker since it joined. Until then `refused` is why its tasks are lost at once, or "". `starved_since` is
    when the scheduler first saw that it has tasks and no worker for them.

    `keys` are those that it has drawn, its present one first: see `holds.py`; who names them must know its `uid`.
    It is `settled` once it has submitted all again that it wants. If cut off, it comes back within `returns_within` s.

    `slot_of` is the `uid` of the worker in whose slot it runs: it submits only for tasks of that worker. It
    `lags` while it reads more slowly than messages for it come.
    `awaited` are blobs that it has not announced: the leases that need each, with their attempts, and how many ticks
    ago the first one asked.
    """

    peer: int
    name: str
    forward_output: bool = True
    nested: bool = False
    python: str = ""
    served: bool = False
    refused: str = ""
    starved_since: float | None = None
    lags: bool = False
    tasks: dict[int, TaskRecord] = field(default_factory=dict)
    groups: dict[int, GroupRecord] = field(default_factory=dict)
    blobs: set[bytes] = field(default_factory=set)
    keys: tuple[int, ...] = ()
    uid: str = ""
    slot_of: str = ""
    settled: bool = False
    returns_within: float = 0.0
    awaited: dict[bytes, tuple[list[tuple[TaskRecord, int]], int]] = field(default_factory=dict)
    task_blobs: list[bytes] = field(default_factory=list)  # of its last task: most have the same, and share the list
    seconds: dict[str, float] = field(default_factory=dict)
    counts: TaskCounts = field(default_factory=TaskCounts)
    within: TaskCounts = field(default_factory=TaskCounts)

    @property
    def unfinished(self) -> int:
        """How many of its tasks, and of the tasks within those, are not over yet."""
        return self.counts.unfinished + self.within.unfinished


@dataclass(slots=True, eq=False)
class GroupRecord:
    """The tasks of one `Parallel` or `map` call, of which `limit` may run at once (0: all).

    Lines of the queue wait in `parked` while the group is full, and in `parked_children` for slots that are lent.
    `seconds` is the smoothed duration of its finished tasks; None until the first one has finished.
    """

    number: int
    limit: int
    running: int = 0
    parked: list[Any] = field(default_factory=list)
    parked_children: list[Any] = field(default_factory=list)
    seconds: float | None = None

    @property
    def full(self) -> bool:
        """Whether as many of its tasks run as may at once."""
        return 0 < self.limit <= self.running


@dataclass(slots=True, eq=False)
class WorkerRecord:
    """A connected worker daemon. `prefetch` is how many short tasks it may have beyond its slots, at most.

    `tasks` are those whose attempts it was sent and has not reported; `delivering` is how many of them are Delivering.
    `guests` maps the numbers of those that run in lent slots to the tasks that own the slots.

    `round_trip` is how many seconds of an attempt were not spent in the slot; None: not measured yet. The worker is
    `congested` from when it gave a task back until it has finished another one. Other workers fetch blobs at the
    address that it `serves`; its store is at `place`; `blobs` are those that it has or was told to get.

    `versions` are those of its Python and packages; `python` is the first as "3.11", or "" if it is unknown. Its log
    has a line about clients of each of the `noted_pythons`. `uid` is the same each time that the daemon joins. It
    `lags` as a client may, and gets no tasks then. `held` are the slots of attempts without a task here, by task and
    attempt, with what each needs (None: nobody knows). Those that were stopped are `ending`: see `holds.py`.
    """

    peer: int
    address: str
    name: str
    slots: int
    prefetch: int
    info: dict[str, Any]
    seen: float
    serves: str = ""
    place: str = ""
    memory: int = 0
    congested: bool = False
    round_trip: float | None = None
    tasks: dict[int, TaskRecord] = field(default_factory=dict)
    blobs: set[bytes] = field(default_factory=set)
    delivering: int = 0
    guests: dict[int, TaskRecord] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    python: str = ""
    noted_pythons: set[str] = field(default_factory=set)
    uid: str = ""
    held: dict[tuple[int, int], Needs | None] = field(default_factory=dict)
    ending: dict[tuple[int, int], Needs | None] = field(default_factory=dict)
    lags: bool = False
    resources: Amounts = field(default_factory=dict)

    @property
    def free(self) -> int:
        """How many slots have no task; below 0, how many tasks it has in advance.

        A Delivering task needs no slot any more. Only as many of those as there are slots count, so that results do
        not pile up at the worker.
        """
        return self.slots - len(self.held) - len(self.tasks) + len(self.guests) + min(self.delivering, self.slots)


@dataclass(slots=True, eq=False)
class Nest:
    """What a task has submitted: its live `children`, and those `parents` among them that have children too.

    While the task `waits` for its children, its slot runs one descendant after the other: the `guest`. `depth` is how
    many tasks there are above the task. An outermost task notes the `deaths` of guests within, by their content.
    """

    depth: int
    children: dict[int, TaskRecord] = field(default_factory=dict)
    parents: dict[int, TaskRecord] = field(default_factory=dict)
    waits: bool = False
    guest: TaskRecord | None = None
    deaths: dict[bytes, tuple[str, ...]] = field(default_factory=dict)

    @property
    def can_host(self) -> bool:
        """Whether the slot can take a guest: the task waits, and no guest runs there."""
        return self.waits and self.guest is None


@dataclass(slots=True, eq=False)
class TaskRecord:
    """One submitted task. `id` is the scheduler's number for it, `number` its client's; `order` is its age.

    `attempt` is the number of the current attempt, 0 before the first; `newest` is the highest one given. A task within
    another one has that as its `parent`; `root` is the client of the outermost task. `counts` is where the task is
    counted. A `lease` stands for calls of a queue: see `leases.py`. `kept` is for `quota.py`, `needs` for `amounts.py`.
    """

    id: int
    client: ClientRecord
    number: int
    name: str
    priority: int
    timeout: float | None
    group: GroupRecord | None
    pin: str | None
    blobs: list[bytes]
    payload: Payload
    state: State = Ready()
    attempt: int = 0
    newest: int = 0
    story: tuple[str, ...] = ()
    deaths: int = 0
    last_worker: str | None = None
    parent: TaskRecord | None = None
    lease: bool = False
    needs: Needs = ()
    order: int = 0
    kept: int = 0
    nest: Nest | None = None
    root: ClientRecord = field(init=False)
    counts: TaskCounts = field(init=False)

    def __post_init__(self) -> None:
        self.order = self.order or self.id
        self.root = self.client if self.parent is None else self.parent.root
        self.counts = self.client.counts if self.parent is None else self.root.within

    def move(self, step: str, state: State) -> None:
        """Take one step of the table.

        Raises:
            IllegalTransition: the table does not have it.
        """
        if type(state) not in TRANSITIONS.get((type(self.state), step), ()):
            raise IllegalTransition(f"{self!r} cannot {step} to {type(state).__name__}; its story: {self.story}")
        self.state = state

    def __repr__(self) -> str:
        return f"<task {self.id} {self.name!r} {type(self.state).__name__} attempt {self.attempt}>"


LetGo = tuple[WorkerRecord, TaskRecord, list[bytes]]
"""An attempt that goes on without its client: its worker, its task, and the blobs that it needs."""

Assignment = tuple[TaskRecord, WorkerRecord, TaskRecord | None]
"""A task, the worker that shall run it, and the host whose slot it shall run in; None: a slot of its own."""


def current_attempt(tasks: Mapping[int, TaskRecord], task: int, attempt: int) -> TaskRecord | None:
    """The task that a message names, if it is among these and the attempt is its last one.

    None means that the message is stale: the caller drops it. This is the one place of that rule.

    Args:
        tasks: those of the worker that sent the message, or all tasks for a message of a client.
        task: the scheduler's number of the task.
    """
    record = tasks.get(task)
    return record if record is not None and record.attempt == attempt else None
