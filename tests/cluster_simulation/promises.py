"""What a cluster promises, whatever happens to it; each promise is checked when it could be broken."""

from __future__ import annotations

from dataclasses import dataclass, field

from minidask.wire import messages as m

from .world import World

MAX_DEATHS = 3


@dataclass(eq=False)
class Task:
    """One task of a user, and what became of it.

    Attributes:
        key: its name in the trace, which its payload and its result hold.
        seconds: how long it runs.
        kind: how it ends: "returns", "raises", "large" (with a large result), "kills" (its slot, each time) or
            "kills once".
        deaf: whether it goes on when it is interrupted.
        starts: the attempts that have begun.
        excuses: why it may have begun more than once.
        reported: the connection by which its report was sent.
        needs: whether it needs the one GPU of its machine.
    """

    key: str
    number: int
    seconds: float
    kind: str
    timeout: float | None
    limited: bool
    deaf: bool
    children: int = 0
    parent: Task | None = None
    starts: list[tuple[int, int]] = field(default_factory=list)
    excuses: list[str] = field(default_factory=list)
    deaths: int = 0
    losses: int = 0
    reported: object = None
    cancelled: bool = False
    given_up: bool = False
    outcome: str = ""
    needs: bool = False


class Promises:
    """Notes what happens, and raises `AssertionError` at a broken promise."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.tasks: dict[str, Task] = {}
        self.faults = 0
        self._attempts: set[tuple[int, int, int]] = set()

    def children_of(self, task: Task) -> list[Task]:
        """What a task submits: the same tasks each time."""
        rng = self._world.rng
        for number in range(1, task.children + 1):
            key = f"{task.key}/{number}"
            if key not in self.tasks:
                deep = task.parent is None and rng.random() < 0.25
                kind = rng.choice(["returns", "returns", "returns", "raises", "kills once", "large"])
                self.tasks[key] = Task(
                    key, number, task.seconds / 2, kind, None, True, rng.random() < 0.2, 2 * deep, task
                )  # fmt: skip
        return [self.tasks[f"{task.key}/{number}"] for number in range(1, task.children + 1)]

    def work(self) -> float:
        """How long one slot takes for all tasks, with those that kill it."""
        return sum(task.seconds for task in self.tasks.values()) * MAX_DEATHS

    def begins(self, task: Task, run: m.Run, scheduler: int) -> None:
        """A slot begins an attempt, which a scheduler of this number has sent."""
        where = scheduler if run.task < m.OUTLIVES else 0  # other numbers mean the same to all schedulers
        attempt = (where, run.task, run.attempt)
        assert attempt not in self._attempts, f"{task.key}: attempt {run[:2]} begins a second time"
        self._attempts.add(attempt)
        task.starts.append(run[:2])
        task.reported = None
        if task.parent is not None:
            return
        allowed = 1 + len(task.excuses) + (0 if self._world.gentle else self.faults)
        assert len(task.starts) <= allowed, f"{task.key} begins again, with no reason but {task.excuses}"

    def ends(self, task: Task, outcome: str) -> None:
        """A user gets an outcome."""
        assert not task.cancelled, f"{task.key} was cancelled, and yet ends: {outcome}"
        assert not task.outcome, f"{task.key} has two outcomes, {task.outcome} and {outcome}"
        task.outcome = outcome
        kind, _, what = outcome.partition(": ")
        if task.given_up and kind in (m.Reason.CANCELLED, ""):
            return
        match kind:
            case "returned":
                assert what == task.key, f"{task.key} has the result of {what}"
                assert task.kind in ("returns", "large", "kills once"), f"{task.key} {task.kind}, and yet returned"
            case "raised":
                assert task.kind == "raises" and what == task.key, f"{task.key} {task.kind}, and yet raised {what}"
            case m.Reason.TIMEOUT:
                late = task.timeout is not None and (task.seconds > task.timeout or task.children > 0)
                assert late, f"{task.key} was in time"
            case m.Reason.KILLED:
                assert task.deaths >= MAX_DEATHS or task.losses + task.deaths >= 10, f"{task.key} did not die: {what}"
            case _:
                raise AssertionError(f"{task.key} ends: {outcome}")

    def check_all_over(self, tasks: list[Task]) -> None:
        """Check that each of these tasks has its outcome, or was cancelled."""
        missing = [task.key for task in tasks if not task.outcome and not task.cancelled]
        assert not missing, f"no outcome for {missing}"
