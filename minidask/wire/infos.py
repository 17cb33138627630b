"""What a client and a worker say of themselves in the handshake, declared as messages are.

What a peer says here is shown to people, and passed on to other peers. So what is declared must fit its declaration,
and of the rest only short plain values are kept: texts, numbers and booleans, for people.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from minidask.errors import ProtocolError
from minidask.wire.bounds import HUGE, Fields, Label, Length, Number, Range, Seconds
from minidask.wire.fields import MAX_COUNT, MAX_KEY, MAX_KEYS, Resources, Slots, Versions

MAX_EXTRA = 32
MAX_TEXT = 1024
NOTHING: Any = []
NONE: Any = {}
PLAIN = (str, int, float, bool, type(None))


class Held(NamedTuple):
    """An attempt that a worker has brought along from a scheduler that was lost."""

    task: Annotated[int, Range(1, HUGE)]
    attempt: Annotated[int, Range(1, HUGE)]


class ClientInfo(NamedTuple):
    """A client. `slot_of` is the `uid` of the worker in whose slot it runs, if it submits for tasks of that worker.

    `uid` is a secret of the client and its scheduler, the same each time that it connects: its `keys` go with it.
    For `reconnect_timeout` seconds it tries to come back when it is cut off.
    """

    name: Label = ""
    host: Label = ""
    pid: Number = 0
    forward_output: bool = True
    nested: bool = False
    python: Label | None = None
    keys: Annotated[list[Annotated[int, Range(1, MAX_KEY)]], Length(0, MAX_KEYS)] = NOTHING
    slot_of: Label = ""
    uid: Label = ""
    reconnect_timeout: Seconds = 0.0


class WorkerInfo(NamedTuple):
    """A worker. `uid` is a secret of the worker and its scheduler: see `scheduler/core.py`.

    Tasks that need some of its `resources` hold that while they run: see `scheduler/amounts.py`.
    """

    slots: Slots
    name: Label = ""
    host: Label = ""
    pid: Number = 0
    prefetch: Annotated[int, Range(0, MAX_COUNT)] = 0
    serves: Label = ""
    place: Label = ""
    python: Label | None = None
    packages: Versions = NONE
    uid: Label = ""
    holds: list[Held] = NOTHING
    ended: list[Held] = NOTHING
    resources: Resources = NONE


_FIELDS = {kind: Fields(kind) for kind in (ClientInfo, WorkerInfo)}


def checked(kind: type[Any], info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return what a peer says of itself, and the additional values that can be passed on.

    Args:
        kind: `ClientInfo` or `WorkerInfo`.
        info: as it came.

    Raises:
        ProtocolError: a value is not what its declaration says, or is missing.
    """
    fields = _FIELDS[kind]
    defaults = kind._field_defaults
    values = [info.get(name, defaults.get(name)) for name in fields.names]
    if not fields.check(values):
        raise ProtocolError(f"a peer's description of itself is malformed: {fields.why_not(values)}")
    more = [(key, value) for key, value in info.items() if key not in fields.names and _can_be_passed_on(key, value)]
    return kind._make(values), dict(more[:MAX_EXTRA])


def _can_be_passed_on(key: object, value: object) -> bool:
    texts = [text for text in (key, value) if type(text) is str]
    return type(key) is str and type(value) in PLAIN and all(len(text) <= MAX_TEXT for text in texts)
