"""Everything that can happen to the scheduler: the arguments of `SchedulerCore.handle`."""

from __future__ import annotations

from typing import Any, NamedTuple

from minidask.wire.messages import Message


class Joined(NamedTuple):
    """A peer has completed the handshake.

    `role` is "client" or "worker", `address` where the peer is, and `info` what it says of itself.
    """

    peer: int
    role: str
    address: str
    info: dict[str, Any]


class Left(NamedTuple):
    """The connection to a peer has ended, and why."""

    peer: int
    reason: str


class Received(NamedTuple):
    """A message has come from a peer."""

    peer: int
    message: Message


class Tick(NamedTuple):
    """Time has passed; the shell sends one a second."""


Event = Joined | Left | Received | Tick
