"""What the scheduler knows: tasks and their states, groups, clients, workers, blobs.

A task's life is the table `TRANSITIONS`; every change of state goes through `TaskRecord.move`, which
refuses a step that the table does not have.

                     assign                 done, raised, stopped, fail
        ┌── Ready ───────────► Running ───────────────────────────────► Ended
        │     ▲                   │ │                                     ▲
        │     └───────────────────┘ │ abandon                    release  │
        │       died, lost, returned└────────────► Cancelled ─────────────┤
        └─────────────────────────────────────────────────────────────────┘
          cancel, fail                                (stop: Cancelled stays so)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from minidask.wire.messages import Payload


class Ready(NamedTuple):
    """Waits in the queue for a worker."""


class Running(NamedTuple):
    """Was sent to a worker, which runs it or has it next; `since` is the scheduler's clock then, in seconds.

    `direct`: a slot was free for it, and it needed no data that the worker did not have.
    """

    worker: WorkerRecord
    attempt: int
    since: float
    direct: bool = False


class Cancelled(NamedTuple):
    """Nobody wants the outcome any more, but the worker has not yet said that the attempt is over.

    It goes on, and may submit tasks of its own, unless it was `stopped`.
    """

    worker: WorkerRecord
    attempt: int
    stopped: bool = False


class Ended(NamedTuple):
    """Over, told to the client, and forgotten by the scheduler."""


State = Ready | Running | Cancelled | Ended

TRANSITIONS: dict[tuple[type[State], str], tuple[type[State], ...]] = {
    (Ready, "assign"): (Running,),
    (Ready, "cancel"): (Ended,),
    (Ready, "fail"): (Ended,),
    (Running, "done"): (Ended,),
    (Running, "raised"): (Ended,),
    (Running, "stopped"): (Ended,),
    (Running, "died"): (Ready, Ended),
    (Running, "lost"): (Ready, Ended),
    (Running, "returned"): (Ready,),
    (Running, "abandon"): (Cancelled,),
    (Cancelled, "stop"): (Cancelled,),
    (Cancelled, "release"): (Ended,),
}


ERROR_STEPS = {"raised", "stopped", "fail", "died", "lost"}
"""The steps to `Ended` that tell the client of an error."""


class IllegalTransition(Exception):
    """A bug of the scheduler's: the task cannot take this step from where it is."""


@dataclass(slots=True)
class TaskCounts:
    """How many tasks came in all, how many of those are over, and how many of those ended in an error."""

    submitted: int = 0
    finished: int = 0
    failed: int = 0

    @property
    def unfinished(self) -> int:
        return self.submitted - self.finished

    def add(self, finished: int, failed: int) -> None:
        """Count some that came and ended elsewhere."""
        self.submitted += finished
        self.finished += finished
        self.failed += failed


@dataclass(slots=True, eq=False)
class ClientRecord:
    """A connected client; `tasks` by the client's own numbers.

    A `nested` one is a task's, in its slot. Of any other, `counts` is about its own tasks, `within` about those that
    these have submitted, and so on. `seconds` is the smoothed duration of its tasks that belong to no group, by their
    name.

    Its tasks run on workers of its `python`, as "3.11"; "": on any. It was `served` if there has been one since it
    came; until then, what it submits is `refused` for this reason while there are others only. `starved_since` is when
    it was first seen to have tasks and no worker for them.
    """

    peer: int
    name: str
    forward_output: bool = True
    nested: bool = False
    python: str = ""
    served: bool = False
    refused: str = ""
    starved_since: float | None = None
    tasks: dict[int, TaskRecord] = field(default_factory=dict)
    groups: dict[int, GroupRecord] = field(default_factory=dict)
    blobs: set[bytes] = field(default_factory=set)
    task_blobs: list[bytes] = field(default_factory=list)  # of its last task: most have the same, and share the list
    seconds: dict[str, float] = field(default_factory=dict)
    counts: TaskCounts = field(default_factory=TaskCounts)
    within: TaskCounts = field(default_factory=TaskCounts)

    @property
    def unfinished(self) -> int:
        """How many tasks it has, with those within them."""
        return self.counts.unfinished + self.within.unfinished


@dataclass(slots=True, eq=False)
class GroupRecord:
    """The tasks of one `Parallel` or `map` call, of which `limit` may run at once (0: all).

    `seconds` is the smoothed duration of its finished tasks; None until the first has finished.
    """

    number: int
    limit: int
    running: int = 0
    parked: list[Any] = field(default_factory=list)
    seconds: float | None = None

    @property
    def full(self) -> bool:
        return 0 < self.limit <= self.running


@dataclass(slots=True, eq=False)
class WorkerRecord:
    """A connected worker daemon. `prefetch` is how many short tasks it may hold beyond its slots, at most.

    `round_trip` is how many seconds of an attempt with a free slot were not spent in the slot; None: not known yet.
    It is `congested` from when it gave a task back until it has finished another. Other workers fetch blobs at the
    address that it `serves`; its store is at `place`; `blobs` are those that it has or was told to get.
    Tasks in `delivering` have returned, and their clients fetch the results. `guests` are the numbers of those that run
    in lent slots, with the tasks whose slots those are. `versions` are of its Python and packages, `python` is the
    first as "3.11", or "" if it is unknown; its log was `told` of clients with these other ones.
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
    pinned: list[TaskRecord] = field(default_factory=list)
    blobs: set[bytes] = field(default_factory=set)
    delivering: set[int] = field(default_factory=set)
    guests: dict[int, TaskRecord] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    python: str = ""
    told: set[str] = field(default_factory=set)

    @property
    def free(self) -> int:
        """Slots without a task: one whose result is being fetched needs none, but only so many of those at a time."""
        free = self.slots - len(self.tasks) + len(self.guests)
        return free + min(len(self.delivering), self.slots) if self.delivering else free


@dataclass(slots=True, eq=False)
class Nest:
    """What a task has submitted: its live `children`, and those of them that have children too.

    While it `waits` for them, its slot runs one descendant after the other: the `guest`.
    """

    children: dict[int, TaskRecord] = field(default_factory=dict)
    parents: dict[int, TaskRecord] = field(default_factory=dict)
    waits: bool = False
    guest: TaskRecord | None = None

    @property
    def can_host(self) -> bool:
        """Whether the slot can take a guest: the task waits, and no guest runs there."""
        return self.waits and self.guest is None


@dataclass(slots=True, eq=False)
class TaskRecord:
    """One submitted call. `id` is the scheduler's number for it, and its place in the queue; `number` its client's.

    What another task has submitted has that for a `parent`; `root` is the client behind the outermost one; `counts` is
    where it is counted.
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
    story: tuple[str, ...] = ()
    deaths: int = 0
    last_worker: str | None = None
    parent: TaskRecord | None = None
    nest: Nest | None = None
    root: ClientRecord = field(init=False)
    counts: TaskCounts = field(init=False)

    def __post_init__(self) -> None:
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
