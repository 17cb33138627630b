"""The events of the scheduler: everything that can happen to it, as arguments of `SchedulerCore.handle`. Pure."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, NamedTuple

from minidask.wire.messages import Message


class Joined(NamedTuple):
    """A peer has completed the handshake.

    Attributes:
        peer: the number that the shell has given it.
        role: "client" or "worker".
        address: where it is.
        info: its own description.
    """

    peer: int
    role: str
    address: str
    info: dict[str, Any]


class Left(NamedTuple):
    """The connection to a peer has ended, for this reason.

    It was `cut` if nothing was heard of the peer's end: its machine answers no more, and the peer may come back.
    """

    peer: int
    reason: str
    cut: bool = False


class Received(NamedTuple):
    """A peer has sent a message."""

    peer: int
    message: Message


class Unsent(NamedTuple):
    """A message cannot be sent to a peer, for the reason in `text`: it is over the limits of the wire."""

    peer: int
    message: Message
    text: str


class Lagging(NamedTuple):
    """A peer reads more slowly than messages for it come: `lags`. Or it has caught up."""

    peer: int
    lags: bool


class Tick(NamedTuple):
    """Time has passed; the shell sends one a second.

    Bytes have come from the `heard` peers since the last one: it may be a part of a long message.
    """

    heard: Set[int] = frozenset()


Event = Joined | Left | Received | Unsent | Lagging | Tick
