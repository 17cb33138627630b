"""What the dashboard shows, made of a cluster's events; and what a viewer lacks of it, as small JSON. Pure.

    Client.events() ─ ClusterEvent ─► Model.take ─► ClusterState, Stories, Spans, Tables ─► Model.update ─► each viewer
                                      Model.tick: twice a second, the present becomes rows

Everything in it has a bound, so a dashboard does not grow, however long it runs. All texts are those of others: the
page shows them as texts.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from minidask.client.events import ClusterEvent
from minidask.client.state import FAILURES, ClusterState, MachineState
from minidask.client.stories import Stories, Story
from minidask.host.texts import printable

from .spans import Spans
from .table import Changes, Ring, Table

MOST_MACHINES = 2_000
MOST_WORKERS = 20_000
MOST_CLIENTS = 500
MOST_CALLS = 200
"""Names of calls."""
MOST_BLOBS = 1_000
MOST_HOLDERS = 200
LEAST_BLOB = 1 << 20
MOST_LINES = 1_000
MOST_TEXT = 500
MOST_SECONDS = 1e12
"""An event with a time that is more, or none, is nonsense."""
SMOOTHING = 0.3
SAME_SECONDS = 0.5
"""What runs still began then, though its machine's clock tells it a bit differently each time."""
VIEWERS = ("minidask-dashboard", "minidask-top")
"""How the names of clients begin that only look."""


class Model:
    """All that a dashboard knows.

    Attributes:
        lost: why there is no scheduler now; empty while there is one.
        missed: how many events were left out.
        fetched: how often, and bytes.
    """

    def __init__(self) -> None:
        self.state = ClusterState()
        self.changes = Changes()
        self.stories = Stories()
        self.spans = Spans(self.changes)
        self.lost = ""
        self.fetched = (0, 0)
        self._machines = Table(self.changes, MOST_MACHINES)
        self._workers = Table(self.changes, MOST_WORKERS)
        self._clients = Table(self.changes, MOST_CLIENTS)
        self._calls = Table(self.changes, MOST_CALLS)
        self._blobs = Table(self.changes, MOST_BLOBS)
        self._totals = Table(self.changes, 1)
        self._transfers = Ring(self.changes, MOST_LINES)
        self._log = Ring(self.changes, MOST_LINES)
        self._sums: collections.OrderedDict[str, _Sums] = collections.OrderedDict()
        self._rates: dict[int, _Rate] = {}
        self._counted = self._told = 0.0

    @property
    def missed(self) -> int:
        """How many events were left out."""
        return self.state.missed

    # --- what happens ---

    def take(self, events: Iterable[ClusterEvent]) -> None:
        """Take what has happened."""
        for event in events:
            if abs(event.time) + abs(event.seconds) + abs(event.cpu) < MOST_SECONDS:
                self._take(event)

    def _take(self, event: ClusterEvent) -> None:
        if event.kind in ("machine-left", "client-left"):
            self._note(event)  # while its name is known
        self.state.take(event)
        story = self.stories.take(event)
        match event.kind:
            case "usage":
                self._told = max(self._told, event.time)
            case "call":
                self._called(event, story.key if story is not None else "")
            case "fetched":
                self._fetched(event)
            case "data":
                self._has(event)
            case "counts":
                self._counts(event.time)
            case "machine" | "client":
                self._note(event)
            case "missed" if event.size:
                self._line(event.time, "warning", f"{event.size:,} events were left out: too many at once")
            case "ended" | "again" if event.how in FAILURES:
                self._note(event)

    def _note(self, event: ClusterEvent) -> None:
        if event.name.startswith(VIEWERS):
            return
        machine = self.state.machines.get(event.machine)
        where = f" on {machine.name}" if machine is not None else ""
        match event.kind:
            case "machine":
                level, text = "info", f"machine {event.name} is here, with {event.size} workers"
            case "machine-left":
                level = "error" if event.size else "info"
                text = f"machine {event.name} has left: {event.text}; tasks to be run elsewhere: {event.size}"
            case "client":
                level, text = "info", f"client {event.name} has joined"
            case "client-left":
                level, text = "info", f"client {event.name or self._client(event.client)} has left: {event.text}"
            case "again":
                level, text = "warning", f"an attempt of {event.name}{where} has {_HOW[event.how]}: {event.text}"
            case _:
                level, text = "error", f"{event.name}{where} has {_HOW[event.how]}: {event.text}"
        self._line(event.time, level, text, f"t{event.task}" if event.task else "")

    def _line(self, when: float, level: str, text: str, key: str = "") -> None:
        self._log.add([round(when, 2), level, text[:MOST_TEXT], key])

    def _called(self, event: ClusterEvent, key: str) -> None:
        self.spans.take(_lane(event.machine, event.worker), event, key)
        sums = self._sums.get(event.name)
        if sums is None:
            sums = self._sums[event.name] = _Sums()
            if len(self._sums) > MOST_CALLS:
                name, _ = self._sums.popitem(last=False)
                self._calls.drop(name)
        elif sums.touched != event.time:
            self._sums.move_to_end(event.name)
        sums.add(event)

    def _fetched(self, event: ClusterEvent) -> None:
        self.fetched = self.fetched[0] + 1, self.fetched[1] + event.size
        blob, source = str(event.info.get("blob", ""))[:64], str(event.info.get("source", ""))
        when = round(event.time, 2)
        before = self._blobs.get(blob) or [0, [], 0]
        holders = [*(holder for holder in before[1] if holder != event.machine), event.machine][-MOST_HOLDERS:]
        self._blobs.put(blob, [event.size, holders, when])
        self._transfers.add([when, blob, event.size, printable(source), event.machine])

    def _has(self, event: ClusterEvent) -> None:
        """A snapshot tells who has some data."""
        blob = str(event.info.get("blob", ""))
        _, holders = self.state.data.get(blob, (0, []))
        if event.size >= LEAST_BLOB and holders:
            self._blobs.put(blob[:64], [event.size, holders[-MOST_HOLDERS:], round(event.time, 2)])

    def _counts(self, when: float) -> None:
        passed, self._counted = when - self._counted, when
        for number, client in self.state.clients.items():
            rate = self._rates.setdefault(number, _Rate())
            rate.count(_number(client.get("finished")), passed)
        self._rates = {number: rate for number, rate in self._rates.items() if number in self.state.clients}

    def lose(self, now: float, reason: str) -> None:
        """There is no scheduler any more; an empty reason: there is one again."""
        if reason and reason != self.lost:
            self._line(now, "error", f"no scheduler: {reason}")
        if self.lost and not reason:
            self._line(now, "info", "the scheduler is there again")
        self.lost = reason

    # --- the present, as rows ---

    def tick(self, now: float) -> None:
        """Bring all rows up to date."""
        self.spans.close()
        running: collections.Counter[str] = collections.Counter()
        for machine in self.state.machines.values():
            self._machines.put(machine.address, _machine_row(machine))
            for number, worker in machine.workers.items():
                self._worker(_lane(machine.address, number), worker)
                if not worker.info["idle"]:
                    running[worker.name] += 1
        for known in self._machines:
            if known not in self.state.machines:
                self._machines.drop(known)
        for lane in self._workers:
            address, _, worker_number = lane.rpartition("#")
            of_it = self.state.machines.get(address)
            if of_it is None or int(worker_number) not in of_it.workers:
                self._workers.drop(lane)
        self._tick_clients()
        for name, sums in self._sums.items():
            self._calls.put(name, sums.row(now, running.pop(name, 0)))
        for name, busy in running.items():  # nothing of it has ended yet
            self._calls.put(name, [0, 0, busy, 0.0, 0.0, 0.0])
        for name in self._calls:
            if name not in self._sums and name not in running:
                self._calls.drop(name)
        self._totals.put("all", self._total())

    def _worker(self, lane: str, worker: ClusterEvent) -> None:
        importing = str(worker.info.get("importing", ""))[:MOST_TEXT]
        sums = [_number(worker.info["over"]), _number(worker.info["failed"]), importing]
        if worker.info["idle"]:
            self._workers.put(lane, ["", 0, 0, "", *sums])
            return
        began, key = worker.time, "" if worker.call else f"t{worker.task}"
        before = self._workers.get(lane)
        if before is not None and (before[0], before[3]) == (worker.name, key) and before[4] == sums[0]:
            began = before[1] if abs(before[1] - began) < SAME_SECONDS else began
        self._workers.put(lane, [worker.name, round(began, 2), worker.memory >> 20, key, *sums])

    def _tick_clients(self) -> None:
        for number, client in self.state.clients.items():
            name = printable(str(client.get("name", "")))
            if name.startswith(VIEWERS):
                continue
            waiting, running, finished, failed = (
                _number(client.get(key)) for key in ("queued", "running", "finished", "failed")
            )
            nested = client.get("nested")
            within = _number(nested.get("submitted")) if isinstance(nested, Mapping) else 0
            rate = self._rates[number].rate if number in self._rates else 0.0
            self._clients.put(str(number), [name, waiting, running, finished, failed, within, round(rate, 3)])
        for key in self._clients:
            if int(key) not in self.state.clients:
                self._clients.drop(key)

    def _total(self) -> dict[str, Any]:
        tasks = {name: _number(self.state.tasks.get(name)) for name in ("queued", "running", "finished")}
        scheduler = {key: printable(str(self.state.info.get(key, "")))[:MOST_TEXT] for key in ("address", "version")}
        return {
            **tasks,
            **scheduler,
            "missed": self.missed,
            "lost": self.lost[:MOST_TEXT],
            "told": round(self._told, 1),
        }

    # --- for viewers ---

    def update(self, page: str, since: int, query: str = "") -> dict[str, Any]:
        """Return what a viewer of a page lacks.

        Args:
            page: "now", "tasks", "time", "data" or "log".
            since: what the one before had as `number`; 0: the viewer has nothing.
            query: for tasks: see `Stories.find`.
        """
        tables = {"totals": self._totals, "machines": self._machines, "workers": self._workers}
        if page == "now":
            tables |= {"clients": self._clients, "calls": self._calls}
        if page == "data":
            tables["blobs"] = self._blobs
        found: dict[str, Any] = {"number": self.changes.number}
        found |= {name: update for name, table in tables.items() if (update := table.since(since))}
        match page:
            case "tasks":
                names = {machine.address: machine.name for machine in self.state.machines.values()}
                clients = {number: self._client(number) for number in self.state.clients}
                stories, count = self.stories.find(query, names, clients)
                found["tasks"] = {"count": count, "kept": len(self.stories), "rows": [_task_row(s) for s in stories]}
            case "time":
                found["spans"] = self.spans.since(since)
            case "data":
                found["transfers"] = self._transfers.since(since, MOST_LINES)
            case "log":
                found["log"] = self._log.since(since, MOST_LINES)
        return found

    def story(self, key: str) -> dict[str, Any] | None:
        """Return the story of a task, for people; None: it is not kept."""
        story = self.stories.get(key)
        if story is None:
            return None
        story = story.named({machine.address: machine.name for machine in self.state.machines.values()})
        return {
            "key": key,
            "name": story.name,
            "state": story.state,
            "client": self._client(story.client),
            "machine": story.machine,
            "worker": story.worker,
            "parent": f"t{story.parent}" if story.parent else "",
            "submitted": story.submitted,
            "began": story.began,
            "seconds": story.seconds,
            "cpu": story.cpu,
            "memory": story.memory,
            "text": story.text,
            "steps": [list(step) for step in story.steps],
        }

    def _client(self, number: int) -> str:
        return printable(str(self.state.clients.get(number, {}).get("name", ""))) if number else ""


_HOW: dict[str, str] = collections.defaultdict(lambda: "ended")
_HOW |= {
    "raised": "raised an error",
    "stopped": "been stopped",
    "died": "lost its process",
    "lost": "been lost",
    "fail": "failed",
}


class _Rate:
    """How fast a count grows, a second, smoothed."""

    def __init__(self) -> None:
        self.rate = 0.0
        self._before: int | None = None

    def count(self, count: int, passed: float) -> None:
        """Take the present count."""
        if self._before is not None and 0 < passed < 60:
            self.rate += SMOOTHING * (max(0, count - self._before) / passed - self.rate)
        self._before = count


class _Sums:
    """Of all calls of one name."""

    def __init__(self) -> None:
        self.done = self.failed = 0
        self.seconds = self.most = self.touched = 0.0
        self._rate = _Rate()
        self._at = 0.0

    def add(self, event: ClusterEvent) -> None:
        self.done += 1
        self.failed += event.how != "done"
        self.seconds += event.seconds
        self.most = max(self.most, event.seconds)
        self.touched = event.time

    def row(self, now: float, running: int) -> list[Any]:
        """Over, failed, running, mean and longest seconds, calls a second."""
        self._rate.count(self.done, now - self._at if self._at else 0.0)
        self._at = now
        rate = self._rate.rate if self._rate.rate > 0.005 else 0.0
        return [self.done, self.failed, running, _short(self.seconds / self.done), _short(self.most), _short(rate)]


def _machine_row(machine: MachineState) -> dict[str, Any]:
    usage = {
        key: round(value, 1)
        for key in ("cpu", "memory", "memory_total", "store", "received", "sent")
        if isinstance(value := machine.usage.get(key), int | float) and 0 <= value < 1e18
    }
    of_it = {key: printable(str(machine.info.get(key, "")))[:100] for key in ("host", "python")}
    return {
        "name": printable(machine.name),
        "size": machine.size,
        **of_it,
        **usage,
        "rate": _short(machine.rate or 0.0),
    }


def _task_row(story: Story) -> list[Any]:
    return [
        story.key, story.name, story.state, story.machine, story.worker, story.client, round(story.began, 2),
        round(story.seconds, 4), story.text[:100],
    ]  # fmt: skip


def _lane(address: str, worker: int) -> str:
    return f"{address}#{worker}"


def _short(value: float) -> float:
    """With four digits: what changes less is no change."""
    return float(f"{value:.4g}")


def _number(value: object) -> int:
    return value if type(value) is int else 0


Explain = Callable[[int], str]
"""Says why the task with this number of the scheduler's waits, or where it is."""
