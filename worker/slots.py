"""The slots of a worker: the state of each, the calls in it, and how slots are started, replaced and ended. Pure.

Starting ─ready─► Idle ─run─► Busy ─reply─► Idle
                               │ stop, time limit      (interrupted first, killed GRACE_SECONDS later)
                               └──────► Ending ─reply─► Idle
any of them ─exit─► replaced by a fresh slot; the attempts that died with it are reported

Starting ─no process, or dead before it was ready─► Missing ─a growing pause─► Starting
                                                       (the worker offers fewer slots until it is ready)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from minidask.wire import messages as m

from .events import Effect, GiveUp, Kill, Retire, Spawn, ToScheduler, ToSlot, Warn

RETIRE_SECONDS = 2.0
MAX_FAILED_STARTS = 3
FIRST_PAUSE_SECONDS = 0.1
LAST_PAUSE_SECONDS = 5.0
GIVE_UP_SECONDS = 20.0
ORPHANED = "orphaned"
"""The reason to end a call whose scheduler is gone: the end of that call is not reported to anybody."""


class Starting(NamedTuple):
    """The slot's process was asked for, and has not yet sent `SlotReady`.

    Attributes:
        failures: how often it was asked for in vain before.
    """

    failures: int = 0


class Missing(NamedTuple):
    """The slot's process could not be started: the system has no descriptor, process or memory to spare.

    Attributes:
        failures: how often it was asked for in vain.
        again: when it is tried again, on the core's clock.
    """

    failures: int
    again: float


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


SlotState = Starting | Missing | Idle | Busy | Ending
CALLS = (Busy, Ending)
"""The states in which a slot has a call."""


def is_missing(state: SlotState) -> bool:
    """Whether a slot could not be started, and has not got ready since."""
    return isinstance(state, Starting | Missing) and state.failures > 0


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
        """When this slot, or a call in it, runs out of time; or when it is tried again to start it."""
        if type(self.state) is Missing:
            yield self.state.again
        elif not self.killed:
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
        self._was_ready = False
        self._failed_starts = 0
        self._without_any: float | None = None
        self._told = 0

    @property
    def starting(self) -> int:
        """How many slots are about to be ready."""
        return sum(type(slot.state) is Starting and not slot.state.failures for slot in self.records.values())

    @property
    def missing(self) -> int:
        """How many of the slots that are to stay cannot be offered, as they could not be started."""
        return sum(is_missing(slot.state) and not slot.retiring for slot in self.records.values())

    @property
    def staying(self) -> list[SlotRecord]:
        """The slots that are not about to end."""
        return [slot for slot in self.records.values() if not slot.retiring]

    def spawn(self) -> list[Effect]:
        """Start a fresh slot under the lowest free number."""
        return [Spawn(self._add(Starting()).number)]

    def _add(self, state: Starting) -> SlotRecord:
        number = next(n for n in range(len(self.records) + 1) if n not in self.records)
        self.records[number] = SlotRecord(number, state)
        return self.records[number]

    def ready(self, slot: SlotRecord) -> list[Effect]:
        """Note that a slot has started."""
        came_back = is_missing(slot.state)
        self._was_ready, self._without_any = True, None
        slot.state = Idle()
        return [Warn(f"worker {slot.number} is there again: {self._offer()}")] if came_back else []

    def exited(self, slot: SlotRecord, how: str, now: float) -> list[Effect]:
        """Replace a slot whose process has ended; `how` describes its end.

        A slot that dies before it is ready is tried again after a pause. The worker gives up if there was never one
        that got ready, or none for long.
        """
        if not isinstance(slot.state, Starting):
            return [] if slot.retiring else self.spawn()
        self._failed_starts += 1
        if self._is_hopeless(now):
            self._told = self.missing
            reason = f"workers die before they are ready, the last one with {how}: see what it has printed"
            return [ToScheduler(m.Resized(0)), GiveUp(reason)]  # in this order: what is given back must not come again
        if slot.retiring:
            return []
        if not self._was_ready:
            return self.spawn()
        fresh = self._add(Starting(slot.state.failures))
        return self.not_started(fresh, f"it has ended with {how} before it was ready", now)

    def _is_hopeless(self, now: float) -> bool:
        """Whether there was never a slot that got ready, or none for long: slots die before they are."""
        if not self._was_ready:
            return self._failed_starts >= MAX_FAILED_STARTS
        if any(isinstance(slot.state, (Idle, *CALLS)) for slot in self.records.values()):
            self._without_any = None
        elif self._without_any is None:
            self._without_any = now
        return self._without_any is not None and now >= self._without_any + GIVE_UP_SECONDS

    def not_started(self, slot: SlotRecord, why: str, now: float) -> list[Effect]:
        """Try again later to start a slot."""
        assert isinstance(slot.state, Starting)
        if slot.retiring:
            del self.records[slot.number]
            return []
        pause = min(FIRST_PAUSE_SECONDS * 2.0**slot.state.failures, LAST_PAUSE_SECONDS)
        slot.state = Missing(slot.state.failures + 1, now + pause)
        return [
            Warn(
                f"worker {slot.number} cannot be started: {why}; trying again in {pause:g} seconds,"
                f" and meanwhile {self._offer()}"
            )
        ]

    def try_again(self, now: float) -> list[Effect]:
        """Start the missing slots whose pause is over."""
        effects: list[Effect] = []
        for slot in self.records.values():
            if isinstance(slot.state, Missing) and now >= slot.state.again:
                slot.state = Starting(slot.state.failures)
                effects.append(Spawn(slot.number))
        return effects

    def _offer(self) -> str:
        staying = len(self.staying)
        return f"{staying - self.missing} of {staying} workers can be used"

    def tell_missing(self) -> list[Effect]:
        """Tell the scheduler how many slots there are, if another number of them is missing than it was told."""
        if self._told == self.missing:
            return []
        self._told = self.missing
        return [ToScheduler(m.Resized(len(self.staying) - self.missing))]

    def resize(self, slots: int) -> list[Effect]:
        """Have this many slots. Surplus ones end: idle ones now, and of the others each after its call.

        The scheduler was told so already, as if none were missing.
        """
        self._told = 0
        effects: list[Effect] = []
        staying = self.staying
        for _ in range(slots - len(staying)):
            effects += self.spawn()
        missing_first = sorted(staying, key=lambda slot: (not is_missing(slot.state), isinstance(slot.state, CALLS)))
        for slot in missing_first[: max(0, len(staying) - slots)]:
            slot.retiring = True
            if type(slot.state) is Missing:
                del self.records[slot.number]
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

    def restart(self, request: int, now: float, *, begun: bool = False) -> list[Effect]:
        """Replace all slots: idle ones now, busy ones once they are idle.

        Args:
            begun: whether those too whose processes are just starting: what these are to import was said before.
        """
        effects: list[Effect] = []
        fresh = Missing if begun else Starting | Missing
        worn = [slot for slot in self.records.values() if not isinstance(slot.state, fresh)]
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
            if not worn and not any(isinstance(slot.state, Starting | Missing) for slot in self.records.values()):
                del self.restarts[request]
                effects.append(ToScheduler(m.Restarted(request)))
        return effects
