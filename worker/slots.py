"""The slots of a worker: the state of each, the calls in it, and how slots are started, replaced and ended. Pure.

Starting ─ready─► Idle ─run─► Busy ─reply─► Idle
                               │ stop, time limit      (interrupted first, killed GRACE_SECONDS later)
                               └──────► Ending ─reply─► Idle
any of them ─exit─► replaced by a fresh slot; the attempts that died with it are reported
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from minidask.wire import messages as m

from .events import Effect, GiveUp, Kill, Retire, Spawn, ToScheduler, ToSlot

RETIRE_SECONDS = 2.0
MAX_FAILED_STARTS = 3
ORPHANED = "orphaned"
"""The reason to end a call whose scheduler is gone: the end of that call is not reported to anybody."""


class Starting(NamedTuple):
    """The slot's process was asked for, and has not yet sent `SlotReady`."""


class Idle(NamedTuple):
    """The slot waits for a call."""


class Busy(NamedTuple):
    """The slot runs a call.

    Attributes:
        run: the call.
        deadline: when its time limit ends, on the core's clock; None without one.
        waits: whether the call waits for tasks that it has submitted.
    """

    run: m.Run
    deadline: float | None
    waits: bool = False


class Ending(NamedTuple):
    """The slot's call was interrupted.

    Attributes:
        run: the call.
        reason: why, as in `Stopped`.
        text: the same for people.
        deadline: when the slot is killed if the call has not returned by then.
    """

    run: m.Run
    reason: str
    text: str
    deadline: float


SlotState = Starting | Idle | Busy | Ending
CALLS = (Busy, Ending)
"""The states in which a slot has a call."""


def report_stopped(call: Ending) -> list[Effect]:
    """Effects that report an interrupted call as stopped: none if its scheduler is gone."""
    if call.reason == ORPHANED:
        return []
    return [ToScheduler(m.Stopped(call.run.task, call.run.attempt, call.reason, call.text))]


@dataclass(slots=True, eq=False)
class SlotRecord:
    """One slot.

    Attributes:
        number: names the slot within its worker.
        state: of the innermost call.
        below: the calls that wait for the innermost one, outermost first; each lends the slot to the next.
        blobs: those that the slot has been sent.
        client: the last one that the slot has worked for.
        verdict: how the slot's next exit is explained, if this worker causes it.
        killed: whether this worker has killed the slot.
        retiring: whether the slot ends once it is idle, and another one or none takes its place.
        worn: whether the slot is replaced once it is idle.
        retired_by: when a slot that was told to end is killed.
    """

    number: int
    state: SlotState = Starting()
    below: list[Busy | Ending] = field(default_factory=list)
    blobs: set[bytes] = field(default_factory=set)
    client: int | None = None
    verdict: str = ""
    killed: bool = False
    retiring: bool = False
    worn: bool = False
    retired_by: float | None = None

    @property
    def calls(self) -> list[Busy | Ending]:
        """All calls in the slot, outermost first."""
        return [*self.below, self.state] if isinstance(self.state, CALLS) else []

    @property
    def is_free(self) -> bool:
        """Whether the slot can take a call now."""
        return type(self.state) is Idle and not self.retiring

    def find(self, task: int, attempt: int) -> Busy | Ending | None:
        """The call of this slot that is the given attempt; None if there is none."""
        state = self.state  # in most cases it is this one
        if isinstance(state, CALLS) and state.run.task == task and state.run.attempt == attempt:
            return state
        return next((call for call in self.calls if (call.run.task, call.run.attempt) == (task, attempt)), None)

    def replace(self, call: Busy | Ending, other: Busy | Ending) -> None:
        """Give one of the slot's calls another state."""
        if self.state is call:
            self.state = other
        else:
            self.below[self.below.index(call)] = other

    def remove(self, call: Busy | Ending) -> None:
        """Take a call that has ended out of the slot. The call below it is the innermost one then."""
        if self.state is call:
            self.state = self.below.pop() if self.below else Idle()
        else:
            self.below.remove(call)

    def end_lease(self) -> list[Effect]:
        """Effects that end a lease of this slot, if it has one."""
        calls = self.calls
        if not calls or not calls[0].run.lease:
            return []
        return [ToSlot(self.number, m.Yield(calls[0].run.task, calls[0].run.attempt, 0.0))]

    def deadlines(self) -> Iterator[float]:
        """When this slot, or a call in it, runs out of time."""
        if not self.killed:
            if self.retired_by is not None:
                yield self.retired_by
            yield from (call.deadline for call in self.calls if call.deadline is not None)


class SlotTable:
    """All slots of a worker. Methods that start or end some return the effects that do it.

    Attributes:
        records: the slots by number.
        restarts: by request, the slots that have to be gone before that restart is done.
    """

    def __init__(self) -> None:
        self.records: dict[int, SlotRecord] = {}
        self.restarts: dict[int, list[SlotRecord]] = {}
        self._failed_starts = 0

    @property
    def starting(self) -> int:
        """How many slots are about to be ready."""
        return sum(type(slot.state) is Starting for slot in self.records.values())

    def spawn(self) -> list[Effect]:
        """Start a fresh slot under the lowest free number."""
        number = next(n for n in range(len(self.records) + 1) if n not in self.records)
        self.records[number] = SlotRecord(number)
        return [Spawn(number)]

    def ready(self, slot: SlotRecord) -> None:
        """Note that a slot has started."""
        self._failed_starts = 0
        slot.state = Idle()

    def exited(self, slot: SlotRecord, how: str) -> list[Effect]:
        """Replace a slot whose process has ended; `how` describes its end.

        If slots die before they are ready, several in a row, the worker gives up.
        """
        if type(slot.state) is Starting:
            self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            reason = f"workers die before they are ready, the last one with {how}: see what it has printed"
            return [ToScheduler(m.Resized(0)), GiveUp(reason)]  # in this order: what is given back must not come again
        return [] if slot.retiring else self.spawn()

    def resize(self, slots: int) -> list[Effect]:
        """Have this many slots. Surplus ones end: idle ones now, and of the others each after its call."""
        effects: list[Effect] = []
        staying = [slot for slot in self.records.values() if not slot.retiring]
        for _ in range(slots - len(staying)):
            effects += self.spawn()
        idle_first = sorted(staying, key=lambda slot: isinstance(slot.state, CALLS))
        for slot in idle_first[: max(0, len(staying) - slots)]:
            slot.retiring = True
            if type(slot.state) is Idle:
                effects.append(Retire(slot.number))
            effects += slot.end_lease()
        return effects

    def retire(self, slot: SlotRecord, now: float) -> list[Effect]:
        """End an idle slot, and replace it unless it is surplus."""
        slot.retired_by = now + RETIRE_SECONDS  # a thread that a task has left running may keep its process alive
        if slot.retiring:
            return [Retire(slot.number)]
        return self.replace(slot)

    def replace(self, slot: SlotRecord) -> list[Effect]:
        """End an idle slot and start a fresh one."""
        slot.retiring = True
        return [Retire(slot.number), *self.spawn()]

    def kill(self, slot: SlotRecord, verdict: str = "") -> list[Effect]:
        """Kill a slot, once. `verdict` explains the deaths that this causes."""
        if slot.killed:
            return []
        slot.killed = True
        slot.verdict = verdict
        return [Kill(slot.number)]

    def restart(self, request: int, now: float) -> list[Effect]:
        """Replace all slots: idle ones now, busy ones once they are idle."""
        effects: list[Effect] = []
        worn = [slot for slot in self.records.values() if type(slot.state) is not Starting]
        self.restarts[request] = worn
        for slot in worn:
            if type(slot.state) is Idle and not slot.worn:
                effects += self.retire(slot, now)
            slot.worn = True
            effects += slot.end_lease()
        return effects

    def restarted(self) -> list[Effect]:
        """Report the restarts whose old slots are gone, once all fresh ones are ready."""
        effects: list[Effect] = []
        for request, worn in list(self.restarts.items()):
            worn[:] = [slot for slot in worn if self.records.get(slot.number) is slot]
            if not worn and not self.starting:
                del self.restarts[request]
                effects.append(ToScheduler(m.Restarted(request)))
        return effects
