"""What can happen to the scheduler: the arguments of `SchedulerCore.handle`."""

from __future__ import annotations

from typing import Any, NamedTuple

from minidask.wire.messages import Message


class Joined(NamedTuple):
    """A peer has completed the handshake as `role`; `info` is what it said of itself, `address` where it is."""

    peer: int
    role: str
    address: str
    info: dict[str, Any]


class Left(NamedTuple):
    """The connection to a peer is gone."""

    peer: int
    reason: str


class Received(NamedTuple):
    """A peer sent a message."""

    peer: int
    message: Message


class Tick(NamedTuple):
    """Time has passed."""


Event = Joined | Left | Received | Tick
