"""The messages for those who look at a cluster: `messages.py` has all others.

    client ─Subscribe─► scheduler ─Subscribe─► workers        somebody looks: tell what happens
    client ◄─Events──── scheduler ◄─Activity── workers        what has happened, in batches; what runs in slots
    client ─Explain──► scheduler ─Answer─► client             why does this task wait?

Nothing of this is sent as long as nobody looks.
"""

from __future__ import annotations

from typing import NamedTuple

from minidask.wire.bounds import Number, Seconds
from minidask.wire.fields import OneBuffer


class Subscribe(NamedTuple):
    """The client wants `Events` from now on, or no more: `on`. Asked again, it gets another snapshot.

    Scheduler to worker: tell `Activity` from now on, or no more.
    """

    on: bool


class Events(NamedTuple):
    """What has happened since the last batch, to a client that has subscribed.

    `now` is the scheduler's clock. So many events were `dropped` since, as there were too many, or the client did not
    read. The payload is a msgpack array of events, each an array that begins with its kind and its time: see
    docs/protocol.md.
    """

    now: Seconds
    dropped: Number
    payload: OneBuffer


class Activity(NamedTuple):
    """What a worker's slots do, and figures of its machine, packed with msgpack: see docs/protocol.md.

    The scheduler passes the payload on without looking into it.
    """

    payload: OneBuffer


class Explain(NamedTuple):
    """The client wants to know where a task is, or why it waits. `Answer` has the same `request`, and a text: `why`.

    `task` is the client's `own` number, or else the scheduler's, as `Events` have it.
    """

    request: Number
    task: Number
    own: bool
