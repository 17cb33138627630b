"""How many machines a cluster should have: from its backlog, measured durations, and who is idle. Pure.

The rules, each against a way in which clusters that adapt have gone wrong elsewhere:

- *A machine is asked for* when the work at hand would otherwise take longer than `worth` seconds. That is the work that
  is queued, by the mean duration of what has ended; or, since joblib queues only a little at a time, as long again as
  the queue has not been empty. As long as no duration is known, work is taken to be worth it.
- *Never more machines than tasks* need. What was asked for counts, from that moment on: a machine that waits in a batch
  system's queue is not asked for again.
- *A task that needs resources* counts for the slots that it takes up: for all of a machine's, if that has one GPU. If
  the machines do not have what it needs, it counts for none: they would grow for ever, and none would go. See `see`.
- *What was asked for is not taken back* at the next lull: only if there was nothing at all to do for `idle` seconds.
- *A machine goes* when it alone has had nothing to do for `idle` seconds, and nothing is queued. One that has just come
  has been idle since then. One that works never goes.
- *One that drains*, at its time limit, counts no more: its replacement comes while it ends.
- *Machines that end before they join* are asked for again after 2, 4, 8 … 300 seconds, until one joins.
- *One machine stays* while a client is connected: `Parallel` asks how many there are before it submits anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

LONGEST_PAUSE = 300.0


class JoinedMachine(NamedTuple):
    """A machine that has joined: how many tasks it takes at once, 0 if it drains, and how many it has."""

    slots: int
    tasks: int


class Backlog(NamedTuple):
    """A look at the cluster.

    Attributes:
        queued, running, finished: tasks.
        clients: how many are connected.
        joined: the machines that have joined, by id.
        asked: the ids of all that were asked for and have not ended.
        failures: how many have ended before they joined, ever.
    """

    queued: int
    running: int
    finished: int
    clients: int
    joined: Mapping[str, JoinedMachine]
    asked: tuple[str, ...]
    failures: int = 0


class Decision(NamedTuple):
    """What to do: ask for `start` machines, and stop these."""

    start: int = 0
    stop: tuple[str, ...] = ()


class Adaptive:
    """Decides, one look after the other.

    Args:
        minimum, maximum: machines.
        idle: seconds without work after which a machine goes.
        worth: seconds that work must take for a machine to be started for it.
    """

    def __init__(self, minimum: int, maximum: int, idle: float = 60.0, worth: float = 10.0) -> None:
        self.minimum, self.maximum, self._idle, self._worth = minimum, maximum, idle, worth
        self._idle_since: dict[str, float] = {}
        self._no_work_since: float | None = None
        self._backlog_since: float | None = None
        self._last: tuple[float, int] | None = None
        self._work = self._ended = 0.0
        self._slots = 1.0
        self._failures = self._pauses = 0
        self._not_before = -math.inf

    def decide(self, seen: Backlog, now: float) -> Decision:
        """Return what to do, now (in seconds, of any clock that goes on)."""
        self._note(seen, now)
        draining = {name for name, machine in seen.joined.items() if not machine.slots}
        there = [name for name in seen.asked if name not in draining]
        wanted = self._wanted(seen, len(there) - sum(name not in seen.joined for name in there), now)
        if wanted > len(there):
            return Decision(start=wanted - len(there) if now >= self._not_before else 0)
        surplus = len(there) - max(wanted, self.minimum)
        return Decision(stop=tuple(self._unused(seen, there, now)[: max(surplus, 0)]))

    def _wanted(self, seen: Backlog, joined: int, now: float) -> int:
        """How many machines the work at hand is worth."""
        least = max(self.minimum, min(1, seen.clients + seen.queued))
        if not seen.queued:
            return min(max(least, math.ceil(seen.running / self._slots)), self.maximum)
        most = math.ceil((seen.queued + seen.running) / self._slots)
        slots = max(joined, 1) * self._slots
        lasts = now - (self._backlog_since if self._backlog_since is not None else now)
        if self._ended:
            lasts = max(lasts, seen.queued * self._work / self._ended / slots)
        else:
            lasts = math.inf
        wanted = joined if lasts <= self._worth else most if math.isinf(lasts) else joined * lasts / self._worth
        return min(max(least, min(math.ceil(wanted), most)), self.maximum)

    def _unused(self, seen: Backlog, there: list[str], now: float) -> list[str]:
        """The machines that may go: those that have waited in vain first, then those that were idle for longest."""
        rested = now - self._idle
        waiting = [name for name in there if name not in seen.joined]
        if self._no_work_since is None or self._no_work_since > rested:
            waiting = []
        idle = [name for name in there if self._idle_since.get(name, math.inf) <= rested] if not seen.queued else []
        return waiting + sorted(idle, key=lambda name: self._idle_since[name])

    def _note(self, seen: Backlog, now: float) -> None:
        before, finished = self._last or (now, seen.finished)
        self._last = (now, seen.finished)
        self._work += seen.running * (now - before)
        self._ended += max(0, seen.finished - finished)
        if self._ended > 1000:  # what was long ago counts less and less
            self._work, self._ended = self._work / 2, self._ended / 2
        if slots := [machine.slots for machine in seen.joined.values() if machine.slots]:
            self._slots = sum(slots) / len(slots)
        at_work = {name for name, machine in seen.joined.items() if machine.tasks}
        self._idle_since = {name: self._idle_since.get(name, now) for name in seen.joined if name not in at_work}
        self._backlog_since = (self._backlog_since if self._backlog_since is not None else now) if seen.queued else None
        busy = seen.queued or seen.running
        self._no_work_since = None if busy else self._no_work_since if self._no_work_since is not None else now
        if seen.failures > self._failures:
            self._pauses += 1
            self._not_before = now + min(2.0**self._pauses, LONGEST_PAUSE)
        elif seen.joined and seen.failures == self._failures and self._pauses:
            self._pauses = 0
        self._failures = seen.failures
