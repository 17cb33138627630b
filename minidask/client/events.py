"""What has happened in the cluster, as those who look get it: batches of the wire become `ClusterEvent`s. Pure.

What workers tell is passed on by the scheduler as it is, so anything may come. What cannot be read is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgpack

from minidask.errors import MinidaskError
from minidask.host.texts import printable
from minidask.wire.observing import Events
from minidask.wire.packing import unpack

TASK_FIELDS = ("task", "name", "client")
FIELDS: Mapping[str, tuple[str, ...]] = {
    "snapshot": ("info",),
    "machine": ("machine", "name", "size", "host", "python"),
    "machine-left": ("machine", "name", "text", "size"),
    "client": ("client", "name"),
    "client-left": ("client", "name", "text"),
    "submitted": (*TASK_FIELDS, "group", "parent"),
    "started": (*TASK_FIELDS, "machine", "attempt"),
    "ended": (*TASK_FIELDS, "machine", "how", "seconds", "text"),
    "again": (*TASK_FIELDS, "machine", "how", "text"),
    "fetched": ("blob", "size", "machine", "source"),
    "counts": ("clients", "tasks"),
}
"""What follows kind and time in a row: see docs/protocol.md. What is no field of `ClusterEvent` goes into `info`."""

CALL_FIELDS = ("slot", "task", "attempt", "call", "name", "age", "seconds", "cpu", "memory", "failed")


class ClusterEvent(NamedTuple):
    """Something that has happened in the cluster. What a kind does not have is as below.

    Attributes:
        kind: "snapshot": all that follows begins anew. "machine", "machine-left": a machine has joined, or has another
            number of workers; it has left. "client", "client-left". "submitted", "started", "ended", "again": a task;
            "again": an attempt has ended without an outcome. "fetched": a machine has got large data. "counts": all
            counts, once a second. "usage": how busy a machine is, twice a second. "running": what runs in a worker,
            twice a second. "call": a call has ended in a worker, be it a task or one of a `Parallel` call. "missed":
            events were left out.
        time: in seconds, as of `time.time()`; 0 if it is unknown.
        machine: address of the machine.
        worker: number of the worker process there; -1: none.
        client: the scheduler's number of the client; 0: none.
        task: the scheduler's number of the task; 0: none.
        call: the client's number of a call of a `Parallel` call; 0: none.
        attempt: the number of the attempt.
        name: of the task, machine or client.
        how: how a task or attempt has ended: "done", "raised", "stopped", "died", "lost", "fail", "held", "cancelled",
            "gave_back".
        text: the error, or the reason.
        seconds: how long it took.
        cpu: processor seconds meanwhile; below 0 if unknown.
        memory: in bytes; of a call, the most that its process has had.
        size: bytes of data; workers of a machine; tasks that a machine has lost; events that were missed.
        info: all else, by name.
    """

    kind: str
    time: float
    machine: str = ""
    worker: int = -1
    client: int = 0
    task: int = 0
    call: int = 0
    attempt: int = 0
    name: str = ""
    how: str = ""
    text: str = ""
    seconds: float = 0.0
    cpu: float = -1.0
    memory: int = 0
    size: int = 0
    info: Mapping[str, Any] = {}

    def as_dict(self) -> dict[str, Any]:
        """The same as a dict for JSON, without what this kind does not have."""
        values = self._asdict()
        return {name: values[name] for name in self._fields if values[name] != self._field_defaults.get(name, ...)}


_KINDS: dict[str, Any] = {name: type(default) for name, default in ClusterEvent._field_defaults.items()}


class EventDecoder:
    """Makes events of batches. Times become those of this process: the least late batch tells how the clocks differ."""

    def __init__(self) -> None:
        self._offset = math.inf

    def events(self, batch: Events, came: float) -> list[ClusterEvent]:
        """Return the events of a batch; what is malformed is left out.

        Args:
            came: when it came, on this process's clock.
        """
        self._offset = min(self._offset, came - batch.now)
        found = [ClusterEvent("missed", batch.now + self._offset, size=batch.dropped)] if batch.dropped else []
        for row in _unpacked(batch.payload[0]):
            if type(row) is list and len(row) > 2 and type(row[0]) is str and type(row[1]) is float:
                when = row[1] and row[1] + self._offset
                found += _activity(when, row[2:]) if row[0] == "activity" else _event(row[0], when, row[2:])
        return found


def _unpacked(data: Any) -> list[Any]:
    try:
        rows = unpack(data)
    except (ValueError, msgpack.UnpackException, RecursionError):
        return []
    return rows if type(rows) is list else []


def _event(kind: str, when: float, values: list[Any]) -> list[ClusterEvent]:
    names = FIELDS.get(kind)
    if names is None or len(values) < len(names):
        return []
    fields = dict(zip(names, values, strict=False))
    more = {name: fields.pop(name) for name in names if name not in _KINDS}
    return _made(kind, when, {**fields, "info": more} if more else fields)


def _made(kind: str, when: float, fields: dict[str, Any]) -> list[ClusterEvent]:
    """The event with these fields, if each is of the right type; texts are made printable."""
    for name, value in fields.items():
        wanted = _KINDS[name]
        if wanted is float and type(value) is int:
            fields[name] = float(value)
        elif type(value) is not wanted:
            return []
        elif type(value) is str:
            fields[name] = printable(value)
    return [ClusterEvent(kind, when, **fields)]


def _activity(when: float, values: list[Any]) -> list[ClusterEvent]:
    """The events of one worker's `Activity`."""
    machine, payload = (*values, b"")[:2]
    content = _unpacked(payload) if type(payload) is bytes else []
    if type(machine) is not str or len(content) < 4:
        return []
    figures, slots, calls, missed = content[:4]
    found = _usage(when, printable(machine), figures)
    for row in slots if type(slots) is list else []:
        if type(row) is list and list(map(type, row[:5])) == [int, int, int, float, int] and len(row) > 5:
            found += _running(when, printable(machine), *row[:6])
    for row in calls if type(calls) is list else []:
        found += _call("call", when, machine, row)
    if type(missed) is int and missed > 0:
        found.append(ClusterEvent("missed", when, printable(machine), size=missed, text="too many calls"))
    return found


def _usage(when: float, machine: str, figures: Any) -> list[ClusterEvent]:
    if type(figures) is not dict:
        return []
    numbers = {key: value for key, value in figures.items() if type(key) is str and type(value) in (int, float)}
    return [ClusterEvent("usage", when, machine, info=numbers)]


def _running(
    when: float, machine: str, slot: int, over: int, failed: int, seconds: float, memory: int, row: Any
) -> list[ClusterEvent]:
    """What runs in a slot, and its sums."""
    sums = {"over": over, "failed": failed, "busy_seconds": seconds, "idle": not row}
    nothing = ClusterEvent("running", when, machine, slot, memory=memory, info=sums)
    return [call._replace(memory=memory, info=sums) for call in _call("running", when, machine, row)] or [nothing]


def _call(kind: str, when: float, machine: str, row: Any) -> list[ClusterEvent]:
    if type(row) is not list or len(row) < len(CALL_FIELDS):
        return []
    fields = dict(zip(CALL_FIELDS, row, strict=False))
    age, failed, fields["worker"] = fields.pop("age"), fields.pop("failed"), fields.pop("slot")
    if type(age) not in (int, float):
        return []
    if kind == "running":
        fields["seconds"] = age
    return [
        event._replace(machine=printable(machine), how="raised" if failed else "done" if kind == "call" else "")
        for event in _made(kind, when - age, fields)
    ]


def why_of(info: dict[str, Any]) -> str:
    """The sentence in the answer to `Explain`.

    Raises:
        MinidaskError: there is none.
    """
    why = info.get("why")
    if not isinstance(why, str):
        raise MinidaskError("the scheduler has not said why")
    return printable(why)
