"""The figures of a run, from its history. Pure.

All that workers could have done is their *capacity*: worker seconds, in the block. It is divided, and nothing is left:

    calls ran │ before the first call │ no call anywhere │ few workers had a call │ between calls │ after the last call

So the largest of these, the first one aside, is what held the run back. Whenever half of the workers or fewer have a
call, work was missing: those are the *few*. Above that, an idle worker is one between two calls.
"""

from __future__ import annotations

import bisect
import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .history import Call, Failure, History

STRAGGLER = 3.0
"""A straggler takes so many times the median of its name."""
LEAST_CALLS = 5
"""Of a name, for its median to say something."""
MOST_LONGEST = 10


class Segment(NamedTuple):
    """A time in which nothing begins or ends: so many workers of so many have a call."""

    began: float
    ended: float
    busy: int
    size: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.ended - self.began


@dataclass
class Losses:
    """Worker seconds without a call, by when."""

    before: float = 0.0
    none: float = 0.0
    few: float = 0.0
    between: float = 0.0
    after: float = 0.0


@dataclass
class Few:
    """When half of the workers or fewer had a call, but some.

    Attributes:
        seconds: how long, in all.
        busy: how many workers had a call then, on average.
        size: how many workers there were then, on average.
        name: of the calls that took most of this time.
        calls: how many of that name ran then, for half of their time at least.
        ratio: their median seconds, by the median of the others; 0: there are too few to say.
        of: how many calls of that name there were in all.
    """

    seconds: float = 0.0
    busy: float = 0.0
    size: float = 0.0
    name: str = ""
    calls: int = 0
    ratio: float = 0.0
    of: int = 0


class NameFigures(NamedTuple):
    """Calls of one name; `stragglers` of them took three times the median, and `beyond` seconds more than it."""

    name: str
    calls: int
    failed: int
    seconds: float
    median: float
    longest: float
    cpu: float
    stragglers: int
    beyond: float


class MachineFigures(NamedTuple):
    """One machine; `pace` is how long the same calls took there, by how long they took everywhere; 0: unknown.

    `busy` and `cpu` are shares; `cpu` below 0: unknown.
    """

    address: str
    name: str
    workers: int
    calls: int
    failed: int
    busy: float
    cpu: float
    memory: int
    fetched: int
    fetches: int
    pace: float


class Wait(NamedTuple):
    """What so many tasks waited for, in seconds."""

    tasks: int
    median: float
    longest: float


@dataclass
class Figures:
    """A run in figures. Times are seconds from the beginning of the block.

    Attributes:
        seconds: how long the block took.
        capacity: worker seconds that there were. `work`: those in which a call ran. `workers`: how many, on average.
        median: seconds of a call. `typical`: half of the work is in calls that are no longer.
        ideal: how long it takes if all workers always have work, and the longest call has one of its own.
        warming: seconds that the first calls in workers took longer than the median of the others: mostly imports.
        program_cpu: processor seconds of the program itself; below 0: unknown.
        calls_cpu: the share of their time that calls had a processor; below 0: unknown.
    """

    seconds: float
    capacity: float = 0.0
    work: float = 0.0
    workers: float = 0.0
    calls: int = 0
    median: float = 0.0
    typical: float = 0.0
    ideal: float = 0.0
    lost: Losses = field(default_factory=Losses)
    few: Few = field(default_factory=Few)
    warming: float = 0.0
    first_calls: int = 0
    program_cpu: float = -1.0
    calls_cpu: float = -1.0
    queued: Wait = Wait(0, 0.0, 0.0)
    on_the_way: Wait = Wait(0, 0.0, 0.0)
    names: list[NameFigures] = field(default_factory=list)
    machines: list[MachineFigures] = field(default_factory=list)
    longest: list[Call] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    spans: dict[tuple[str, int], list[Call]] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    missed: int = 0
    nested: int = 0
    whole: bool = True

    @property
    def busy(self) -> float:
        """The share of the capacity in which calls ran."""
        return self.work / self.capacity if self.capacity else 0.0


def figures(history: History, began: float, ended: float, program_cpu: float = -1.0) -> Figures:
    """Return the figures of a block.

    Args:
        began, ended: the block, as of `time.time()`. What calls did outside of it does not count.
        program_cpu: processor seconds that the program itself has used meanwhile; below 0: unknown.
    """
    calls = [call for call in (_cut(call, began, ended) for call in history.calls) if call.ended > call.began]
    found = Figures(max(0.0, ended - began), program_cpu=program_cpu, calls=len(calls))
    for call in calls:
        found.spans.setdefault(call.lane, []).append(call)
    busy = {lane: _union((call.began, call.ended) for call in of_lane) for lane, of_lane in found.spans.items()}
    sizes = {address: _present(machine.sizes, found.seconds, began) for address, machine in history.machines.items()}
    found.segments = _segments(busy.values(), sizes.values(), found.seconds)
    found.capacity = sum(segment.size * segment.seconds for segment in found.segments)
    found.work = sum(segment.busy * segment.seconds for segment in found.segments)
    found.workers = found.capacity / found.seconds if found.seconds else 0.0
    found.median = statistics.median(call.seconds for call in calls) if calls else 0.0
    found.typical = _typical([call.seconds for call in calls])
    found.longest = sorted(calls, key=lambda call: -call.seconds)[:MOST_LONGEST]
    if calls and found.workers:
        found.ideal = max(found.work / found.workers, found.longest[0].seconds)
    found.lost = _lost(found.segments)
    by_name = _by_name(calls)
    medians = {name: statistics.median(call.seconds for call in named) for name, named in by_name.items()}
    found.few = _few(found.segments, calls, by_name)
    found.first_calls, found.warming = _warming(found.spans.values(), by_name)
    found.calls_cpu = _cpu_share(calls)
    found.queued, found.on_the_way = _wait(history.queued), _wait(history.on_the_way)
    found.names = sorted(
        (_named(name, named, medians[name]) for name, named in by_name.items()), key=lambda n: -n.seconds
    )
    found.machines = _machines(history, calls, busy, sizes, medians)
    found.failed, found.failures = dict(history.failed), history.failures
    found.missed, found.nested, found.whole = history.missed, history.nested, history.whole
    return found


def _typical(seconds: Iterable[float]) -> float:
    """So that half of the sum is in numbers that are no larger."""
    ordered = sorted(seconds)
    total, half = 0.0, sum(ordered) / 2
    for number in ordered:
        total += number
        if total >= half:
            return number
    return 0.0


def _cut(call: Call, began: float, ended: float) -> Call:
    """The part of a call that is in the block, in seconds from its beginning."""
    cut = call._replace(began=max(call.began, began) - began, ended=min(call.ended, ended) - began)
    return cut._replace(cpu=call.cpu * max(0.0, cut.seconds) / call.seconds) if call.cpu > 0 < call.seconds else cut


def _by_name(calls: Iterable[Call]) -> dict[str, list[Call]]:
    found: dict[str, list[Call]] = {}
    for call in calls:
        found.setdefault(call.name, []).append(call)
    return found


def _union(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Intervals that do not overlap: a worker may run a call on top of one that waits."""
    found: list[tuple[float, float]] = []
    for began, ended in sorted(intervals):
        if found and began <= found[-1][1]:
            found[-1] = found[-1][0], max(ended, found[-1][1])
        else:
            found.append((began, ended))
    return found


def _present(sizes: Sequence[tuple[float, int]], seconds: float, began: float) -> list[tuple[float, float, int]]:
    """From when until when a machine had how many workers. The first that was told of it counts from the beginning of
    the block, if it was told of then."""
    steps = [(min(max(0.0, when - began), seconds) if number or when > began + 1 else 0.0, size)
             for number, (when, size) in enumerate(sizes)]  # fmt: skip
    ends = [*(when for when, _ in steps[1:]), seconds]
    return [(when, end, size) for (when, size), end in zip(steps, ends, strict=True) if end > when and size]


def _segments(
    busy: Iterable[list[tuple[float, float]]], sizes: Iterable[list[tuple[float, float, int]]], seconds: float
) -> list[Segment]:
    changes: dict[float, list[int]] = {0.0: [0, 0], seconds: [0, 0]}
    for intervals in busy:
        for began, ended in intervals:
            changes.setdefault(began, [0, 0])[0] += 1
            changes.setdefault(ended, [0, 0])[0] -= 1
    for present in sizes:
        for began, ended, size in present:
            changes.setdefault(began, [0, 0])[1] += size
            changes.setdefault(ended, [0, 0])[1] -= size
    found: list[Segment] = []
    running = there = 0
    times = sorted(changes)
    for when, after in itertools.pairwise(times):
        running, there = running + changes[when][0], there + changes[when][1]
        found.append(Segment(when, after, running, max(there, running)))
    return found


def _lost(segments: Sequence[Segment]) -> Losses:
    lost = Losses()
    at_work = [number for number, segment in enumerate(segments) if segment.busy]
    for number, segment in enumerate(segments):
        seconds = (segment.size - segment.busy) * segment.seconds
        if not at_work or number < at_work[0]:
            lost.before += seconds
        elif number > at_work[-1]:
            lost.after += seconds
        elif not segment.busy:
            lost.none += seconds
        elif _is_few(segment):
            lost.few += seconds
        else:
            lost.between += seconds
    return lost


def _is_few(segment: Segment) -> bool:
    return 0 < segment.busy <= segment.size / 2


def _few(segments: Sequence[Segment], calls: Sequence[Call], by_name: dict[str, list[Call]]) -> Few:
    few = [segment for segment in segments if _is_few(segment)]
    seconds = sum(segment.seconds for segment in few)
    if not seconds:
        return Few()
    found = Few(
        seconds,
        sum(segment.busy * segment.seconds for segment in few) / seconds,
        sum(segment.size * segment.seconds for segment in few) / seconds,
    )
    times = _union((segment.began, segment.ended) for segment in few)
    within = _Within(times)
    shares: dict[str, float] = {}
    for call in calls:
        shares[call.name] = shares.get(call.name, 0.0) + within.seconds(call.began, call.ended)
    found.name = max(shares, key=lambda name: shares[name])
    named = by_name[found.name]
    late = [call for call in named if within.seconds(call.began, call.ended) >= call.seconds / 2]
    late_ones = set(map(id, late))
    others = [call.seconds for call in named if id(call) not in late_ones]
    found.calls, found.of = len(late), len(named)
    if late and len(others) >= LEAST_CALLS and (median := statistics.median(others)) > 0:
        found.ratio = statistics.median(call.seconds for call in late) / median
    return found


class _Within:
    """Tells how much of an interval lies in some that do not overlap."""

    def __init__(self, times: Sequence[tuple[float, float]]) -> None:
        self._times = times
        self._ends = [ended for _, ended in times]

    def seconds(self, began: float, ended: float) -> float:
        """Return the seconds of an interval that lie in one of them."""
        total = 0.0
        for number in range(bisect.bisect_right(self._ends, began), len(self._times)):
            first, last = self._times[number]
            if first >= ended:
                break
            total += min(ended, last) - max(began, first)
        return total


def _warming(lanes: Iterable[Sequence[Call]], by_name: dict[str, list[Call]]) -> tuple[int, float]:
    """How many workers' first calls there are to compare, and how many seconds longer they took."""
    firsts = [min(calls, key=lambda call: call.began) for calls in lanes]
    first_ones = set(map(id, firsts))
    medians = {
        name: statistics.median(others)
        for name, named in by_name.items()
        if len(others := [call.seconds for call in named if id(call) not in first_ones]) >= LEAST_CALLS
    }
    compared = [call.seconds - medians[call.name] for call in firsts if call.name in medians]
    return len(compared), max(0.0, sum(compared))


def _cpu_share(calls: Iterable[Call]) -> float:
    known = [call for call in calls if call.cpu >= 0]
    seconds = sum(call.seconds for call in known)
    return sum(call.cpu for call in known) / seconds if seconds else -1.0


def _wait(seconds: Sequence[float]) -> Wait:
    return Wait(len(seconds), statistics.median(seconds), max(seconds)) if seconds else Wait(0, 0.0, 0.0)


def _named(name: str, calls: Sequence[Call], median: float) -> NameFigures:
    late = [call.seconds - median for call in calls if call.seconds > STRAGGLER * median]
    late = late if len(calls) >= LEAST_CALLS else []
    longest, seconds = max(call.seconds for call in calls), sum(call.seconds for call in calls)
    failed = sum(call.failed for call in calls)
    return NameFigures(name, len(calls), failed, seconds, median, longest, _cpu_share(calls), len(late), sum(late))


def _machines(
    history: History,
    calls: Sequence[Call],
    busy: dict[tuple[str, int], list[tuple[float, float]]],
    sizes: dict[str, list[tuple[float, float, int]]],
    medians: dict[str, float],
) -> list[MachineFigures]:
    there: dict[str, list[Call]] = {}
    for call in calls:
        there.setdefault(call.lane[0], []).append(call)
    on: dict[str, set[str]] = {}  # by name: the machines that have run it
    for call in calls:
        on.setdefault(call.name, set()).add(call.lane[0])
    found = []
    for address, machine in history.machines.items():
        own = there.get(address, [])
        ratios = [call.seconds / medians[call.name] for call in own if len(on[call.name]) > 1]
        capacity = sum((ended - began) * size for began, ended, size in sizes[address])
        work = sum(ended - began for lane, times in busy.items() if lane[0] == address for began, ended in times)
        one = MachineFigures(
            address=address,
            name=machine.name,
            workers=max((size for _, size in machine.sizes), default=0),
            calls=len(own),
            failed=sum(call.failed for call in own),
            busy=min(1.0, work / capacity) if capacity else 0.0,
            cpu=statistics.fmean(machine.cpu) / 100 if machine.cpu else -1.0,
            memory=machine.memory,
            fetched=machine.fetched,
            fetches=machine.fetches,
            pace=statistics.median(ratios) if len(ratios) >= LEAST_CALLS else 0.0,
        )
        found.append(one)
    return found
