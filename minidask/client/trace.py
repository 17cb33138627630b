"""A run as a picture: `Client.trace("run.json")` writes what https://ui.perfetto.dev shows.

    EventReader ─ a thread ─► ChromeTrace.rows ─► the file, row by row

Each machine is a process of the picture, each worker a track of it, each call a bar. Arrows go from a task to the tasks
that it has submitted, and from a machine to the one that has fetched data from it. Processor and memory are curves.

The file is written while things happen, so a long run takes no memory but for what arrows need: the tasks within tasks.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from minidask.client.eventreader import EventReader
from minidask.client.events import ClusterEvent

LAST_SECONDS = 3.0
"""How long the end waits for each machine to tell what it has run."""
READ_SECONDS = 0.5
DATA_TRACK = 1 << 20
MOST_ARROWS = 100_000
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
        """Return the arrows of tasks within tasks: last, when it is known where all of them ran."""
        for child, (parent, submitted) in self._parents.items():
            above = [bar for bar in self._bars[parent] if bar[2] - SLACK <= submitted <= bar[3] + SLACK]
            if above and self._bars[child]:
                source, target = above[0], self._bars[child][-1]
                left = min(max(submitted, source[2]), source[3])
                yield from self._arrow("nested", source[:2], left, target[:2], target[2])

    def _row(self, kind: str, name: str, event: ClusterEvent, track: int = 0, **more: Any) -> Row:
        process = self._machines.setdefault(event.machine, len(self._machines) + 1)
        return {"ph": kind, "name": name, "pid": process, "tid": track, "ts": event.time * 1e6, **more}

    def _machine(self, address: str, name: str) -> Iterable[Row]:
        if address not in self._names:
            self._names[address] = name
            number = self._machines.setdefault(address, len(self._machines) + 1)
            yield {"ph": "M", "name": "process_name", "pid": number, "tid": 0, "args": {"name": name}}

    def _track(self, machine: int, track: int, name: str) -> Iterable[Row]:
        if (machine, track) not in self._tracks:
            self._tracks.add((machine, track))
            yield {"ph": "M", "name": "thread_name", "pid": machine, "tid": track, "args": {"name": name}}

    def _call(self, event: ClusterEvent) -> Iterable[Row]:
        arguments = {"task": event.task, "attempt": event.attempt, "call": event.call, "how": event.how,
                     "cpu_seconds": event.cpu, "memory": event.memory}  # fmt: skip
        row = self._row("X", event.name, event, event.worker, dur=event.seconds * 1e6, cat=event.how, args=arguments)
        yield from self._track(row["pid"], event.worker, f"worker {event.worker}")
        yield row
        if event.task in self._bars:
            self._bars[event.task].append((row["pid"], event.worker, row["ts"], row["ts"] + row["dur"]))

    def _usage(self, event: ClusterEvent) -> Iterable[Row]:
        for name, keys in (("cpu, %", ["cpu"]), ("memory", ["memory"]), ("network", ["received", "sent"])):
            values = {key: event.info[key] for key in keys if key in event.info}
            if values:
                yield self._row("C", name, event, args=values)

    def _fetched(self, event: ClusterEvent) -> Iterable[Row]:
        row = self._row("X", f"{event.size} bytes", event, DATA_TRACK, dur=1.0, args={"blob": event.info.get("blob")})
        yield from self._track(row["pid"], DATA_TRACK, "data")
        yield row
        source = self._machines.get(str(event.info.get("source")))
        if source is not None:
            yield from self._track(source, DATA_TRACK, "data")
            yield {**row, "pid": source, "name": f"{event.size} bytes, sent"}
            yield from self._arrow("data", (source, DATA_TRACK), row["ts"], (row["pid"], DATA_TRACK), row["ts"])

    def _arrow(
        self, name: str, source: tuple[int, int], left: float, target: tuple[int, int], came: float
    ) -> Iterable[Row]:
        self._arrows += 1
        common = {"name": name, "cat": name, "id": self._arrows}
        yield {"ph": "s", "pid": source[0], "tid": source[1], "ts": left, **common}
        yield {"ph": "f", "bp": "e", "pid": target[0], "tid": target[1], "ts": max(came, left), **common}


class Trace:
    """Writes a trace of all that happens in the cluster while its block runs.

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
        self._error: OSError | None = None
        self._ends_at: float | None = None
        self._told: dict[str, float] = {}  # by machine: when it told last; 0: not yet
        self._begun = False

    def __enter__(self) -> Trace:
        self._file = self._path.open("w", encoding="utf-8")
        try:
            self._file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
            self._events = self._open_events()
        except BaseException:
            self._file.close()
            raise
        self._thread = threading.Thread(target=self._run, name="minidask-trace", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends_at = time.time()
        self._thread.join()
        self._events.close()
        try:
            for row in self._trace.arrows():
                self._write(row)
            self._file.write('{"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "cluster"}}]}\n')
        finally:
            self._file.close()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        until = None
        while True:
            events = self._events.get(READ_SECONDS)
            for event in events:
                self._take(event)
            if self._ends_at is not None and until is None:
                until = self._ends_at + LAST_SECONDS
            if until is not None and (self._is_whole() or time.time() >= until):
                return
            if not events and self._events.closed:
                return

    def _is_whole(self) -> bool:
        """Whether each machine has told what it did before the end."""
        end = self._ends_at
        return end is not None and self._begun and all(told > end for told in self._told.values())

    def _take(self, event: ClusterEvent) -> None:
        if event.kind == "snapshot":
            self._begun = True
            machines = [machine for machine in event.info.get("machines") or () if isinstance(machine, dict)]
            self._told = dict.fromkeys((str(machine.get("address")) for machine in machines), 0.0)
        elif event.kind == "machine":
            self._told.setdefault(event.machine, 0.0)
        elif event.kind == "usage":
            self._told[event.machine] = event.time
        elif event.kind == "machine-left":
            self._told.pop(event.machine, None)
        try:
            for row in self._trace.rows(event):
                self._write(row)
        except OSError as error:  # the disk is full: told at the end of the block
            self._error = self._error or error

    def _write(self, row: Row) -> None:
        self._file.write(json.dumps(row, default=str) + ",\n")
