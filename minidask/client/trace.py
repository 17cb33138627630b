"""A run as a picture: `Client.trace("run.json")` writes what https://ui.perfetto.dev shows.

    Follower ─ events ─► ChromeTrace.rows ─► the file, row by row

Each machine is a process of the picture, each worker a track of it, each call a bar. Arrows go from a task to the tasks
that it has submitted, and from a machine to the one that has fetched data from it. Processor and memory are curves.

The file is written while things happen, so a long run takes no memory but for what arrows need: the tasks within tasks.

Those who read the format want the bars of a track side by side, or one within another. Times of other machines are
known to some milliseconds only, so bars are moved by as much where they would overlap.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from minidask.client.eventreader import EventReader
from minidask.client.events import ClusterEvent
from minidask.client.following import Follower

FIRST_TRACK = 1 << 16
"""Times the machine's number, and with the worker's added, it is the number of a track.

Perfetto takes these for threads of one system: it drops bars if two machines have tracks of one number, or if a track
has the number of a machine, or 0.
"""
DATA_TRACK = FIRST_TRACK - 1
MOST_ARROWS = 100_000
LAST_BARS = 100
"""Of a track, against which a bar that may hold others is checked."""
HEAD = '{"displayTimeUnit": "ms", "traceEvents": [\n'
FOOT = '{"ph": "M", "name": "process_labels", "pid": 1, "args": {"labels": "minidask"}}]}\n'
SLACK = 50_000.0
"""Microseconds by which the clocks of two machines may be compared wrongly."""

Row = dict[str, Any]
Bar = tuple[int, int, float, float]
"""Where a call is: machine, track, when it began and when it ended, in microseconds."""


class ChromeTrace:
    """Makes rows of events, in Chrome's format for traces. Pure."""

    def __init__(self) -> None:
        self._machines: dict[str, int] = {}
        self._tracks: set[tuple[int, int]] = set()
        self._names: dict[str, str] = {}
        self._parents: dict[int, tuple[int, float]] = {}  # of tasks within tasks: the parent, and when it submitted
        self._bars: dict[int, list[Bar]] = {}  # of those, and of their parents: a lease has many
        self._last: dict[tuple[int, int], collections.deque[tuple[float, float]]] = {}  # the last bars of each track
        self._arrows = 0

    def rows(self, event: ClusterEvent) -> Iterable[Row]:
        """Return the rows that an event adds."""
        match event.kind:
            case "snapshot":
                for machine in event.info.get("machines") or ():
                    if isinstance(machine, dict):
                        yield from self._machine(str(machine.get("address")), str(machine.get("name")))
            case "machine":
                yield from self._machine(event.machine, event.name)
            case "submitted" if event.info.get("parent") and len(self._parents) < MOST_ARROWS:
                self._parents[event.task] = event.info["parent"], event.time * 1e6
                self._bars.setdefault(event.task, [])
                self._bars.setdefault(event.info["parent"], [])
            case "call":
                yield from self._call(event)
            case "usage":
                yield from self._usage(event)
            case "fetched":
                yield from self._fetched(event)
            case "again" | "machine-left" | "missed":
                what = f"{event.name} {event.how or event.kind}".strip()
                yield self._row("i", what, event, s="g", args={"text": event.text})

    def arrows(self) -> Iterable[Row]:
        """Return the arrows of tasks within tasks: last, when it is known where all of them ran. Then forget those."""
        for child, (parent, submitted) in self._parents.items():
            above = [bar for bar in self._bars[parent] if bar[2] - SLACK <= submitted <= bar[3] + SLACK]
            if above and self._bars[child]:
                source, target = above[0], self._bars[child][-1]
                left = min(max(submitted, source[2]), source[3])
                yield from self._arrow("nested", source[:2], left, target[:2], target[2])
        self._parents.clear()
        self._bars.clear()

    def _row(self, kind: str, name: str, event: ClusterEvent, **more: Any) -> Row:
        process = self._machines.setdefault(event.machine, len(self._machines) + 1)
        return {"ph": kind, "name": name, "pid": process, "ts": event.time * 1e6, **more}

    def _machine(self, address: str, name: str) -> Iterable[Row]:
        if address not in self._names:
            self._names[address] = name
            number = self._machines.setdefault(address, len(self._machines) + 1)
            yield {"ph": "M", "name": "process_name", "pid": number, "args": {"name": name}}

    def _track(self, machine: int, track: int, name: str) -> Iterable[Row]:
        if (machine, track) not in self._tracks:
            self._tracks.add((machine, track))
            yield {"ph": "M", "name": "thread_name", **_place(machine, track), "args": {"name": name}}

    def _call(self, event: ClusterEvent) -> Iterable[Row]:
        arguments = {"task": event.task, "attempt": event.attempt, "call": event.call, "how": event.how,
                     "cpu_seconds": event.cpu, "memory": event.memory}  # fmt: skip
        row = self._row("X", event.name, event, cat=event.how, args=arguments)
        track, holds_others = (row["pid"], event.worker), event.task in self._bars
        began, ended = self._beside(track, row["ts"], row["ts"] + event.seconds * 1e6, holds_others)
        yield from self._track(*track, f"worker {event.worker}")
        yield {**row, **_place(*track), "ts": began, "dur": ended - began}
        if holds_others:
            self._bars[event.task].append((*track, began, ended))

    def _beside(self, track: tuple[int, int], began: float, ended: float, holds_others: bool) -> tuple[float, float]:
        """Return when a bar begins and ends, so that it crosses none of its track. They come in the order of ends.

        Args:
            holds_others: whether its task has submitted others, which may have run within it.
        """
        last = self._last.setdefault(track, collections.deque(maxlen=LAST_BARS))
        if last:
            crossed = [end for begin, end in last if begin < began < end] if holds_others else [last[-1][1]]
            began, ended = max(began, *crossed, began), max(ended, last[-1][1])
        ended = max(began, ended)
        last.append((began, ended))
        return began, ended

    def _usage(self, event: ClusterEvent) -> Iterable[Row]:
        for name, keys in (("cpu, %", ["cpu"]), ("memory", ["memory"]), ("network", ["received", "sent"])):
            values = {key: event.info[key] for key in keys if key in event.info}
            if values:
                yield self._row("C", name, event, args=values)

    def _fetched(self, event: ClusterEvent) -> Iterable[Row]:
        row = self._row("X", f"{event.size} bytes", event, dur=1.0, args={"blob": event.info.get("blob")})
        yield from self._track(row["pid"], DATA_TRACK, "data")
        yield {**row, **_place(row["pid"], DATA_TRACK)}
        source = self._machines.get(str(event.info.get("source")))
        if source is not None:
            yield from self._track(source, DATA_TRACK, "data")
            yield {**row, **_place(source, DATA_TRACK), "name": f"{event.size} bytes, sent"}
            yield from self._arrow("data", (source, DATA_TRACK), row["ts"], (row["pid"], DATA_TRACK), row["ts"])

    def _arrow(
        self, name: str, source: tuple[int, int], left: float, target: tuple[int, int], came: float
    ) -> Iterable[Row]:
        self._arrows += 1
        common = {"name": name, "cat": name, "id": self._arrows}
        yield {"ph": "s", **_place(*source), "ts": left, **common}
        yield {"ph": "f", "bp": "e", **_place(*target), "ts": max(came, left), **common}


def _place(machine: int, track: int) -> Row:
    return {"pid": machine, "tid": FIRST_TRACK * machine + track}


class Trace:
    """Writes a trace of all that happens in the cluster while its block runs.

    The block may be entered again when it is over. What happens then is added to the file, which is whole after each.

    Args:
        path: of the file, which is written anew.
        open_events: begins to read.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, open_events: Callable[[], EventReader]) -> None:
        self._path = path
        self._open_events = open_events
        self._trace = ChromeTrace()
        self._size = 0  # of the file, without its foot

    def write_empty(self) -> None:
        """Write a trace of nothing, so that a path which is no good is known.

        Raises:
            OSError: the file cannot be written.
        """
        self._path.write_text(HEAD + FOOT, encoding="utf-8")

    def __enter__(self) -> Trace:
        self._file = self._path.open("r+" if self._size else "w", encoding="utf-8")
        try:
            self._file.truncate(self._size)
            self._file.seek(self._size)
            if not self._size:
                self._file.write(HEAD)
            self._follower = Follower(self._take)
            self._follower.begin(self._open_events)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._follower.end()
            for row in self._trace.arrows():
                self._write(row)
            size = self._file.tell()
            self._file.write(FOOT)
        finally:
            self._file.close()
        self._size = size  # only now: what could not be written is cut off if the block is entered again

    def _take(self, event: ClusterEvent) -> None:
        for row in self._trace.rows(event):
            self._write(row)

    def _write(self, row: Row) -> None:
        self._file.write(json.dumps(row, default=str) + ",\n")
