"""What a client keeps of its tasks and groups, so that another scheduler can be told of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from minidask.wire import messages as m
from minidask.wire.large import LARGE_BYTES

HandleT = TypeVar("HandleT")
MessageT = TypeVar("MessageT", m.Submit, m.PutBlob)


class PendingTask(NamedTuple, Generic[HandleT]):
    """A task that has no outcome yet.

    Attributes:
        held: blobs that are held for it.
        parent: number and attempt of the task that has submitted it; empty for none.
        submit: what submits it again; None for a call of a queue, and if nothing is kept.
    """

    handle: HandleT
    name: str
    group: int
    held: Sequence[bytes]
    parent: Sequence[int]
    submit: m.Submit | None


@dataclass(slots=True)
class KnownGroup:
    """A group that is open, or has tasks.

    Attributes:
        takes: whether it takes more tasks.
        pending: how many of its tasks have no outcome yet.
    """

    limit: int
    parent: list[int]
    takes: bool = True
    closed: bool = False
    pending: int = 0


def as_kept(message: MessageT) -> MessageT:
    """A message as it can be sent again later, when its user may have written to what was pickled without a copy.

    A large blob that is sent whole has found no room in the store, so there is none for a copy.
    """
    most = LARGE_BYTES if isinstance(message, m.PutBlob) else math.inf
    payload = [part if type(part) is bytes or len(part) > most else bytes(part) for part in message.payload]
    return message._replace(payload=payload)
