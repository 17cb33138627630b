"""What can happen to the worker daemon, and what it is to do: `WorkerCore.handle` turns events into effects."""

from __future__ import annotations

from typing import NamedTuple

from minidask.wire.messages import Done, Message

# --- what can happen ---


class FromScheduler(NamedTuple):
    """The scheduler sent a message."""

    message: Message


class FromSlot(NamedTuple):
    """A slot sent a message."""

    slot: int
    message: Message


class BlobHere(NamedTuple):
    """A large blob is in this machine's store."""

    blob: bytes


class BlobFailed(NamedTuple):
    """A large blob could not be had from `source`."""

    blob: bytes
    source: str
    text: str


class NoRoom(NamedTuple):
    """There is nowhere to put a large blob."""

    blob: bytes
    text: str


class ResultLeft(NamedTuple):
    """A slot sent `Done`, and left large parts of the result in the store: their names and sizes."""

    slot: int
    done: Done
    parts: dict[bytes, int]


class SlotExited(NamedTuple):
    """A slot's process is gone; `how` names its exit code or signal, `hint` guesses why."""

    slot: int
    how: str
    hint: str


class OverMemory(NamedTuple):
    """A slot uses more memory than it may; `text` has the figures."""

    slot: int
    text: str


class Resize(NamedTuple):
    """There shall be this many slots."""

    slots: int


class SchedulerGone(NamedTuple):
    """The connection is lost: what runs has nobody to report to."""


class WorkerTick(NamedTuple):
    """Time has passed."""


Event = (
    FromScheduler
    | FromSlot
    | BlobHere
    | BlobFailed
    | NoRoom
    | ResultLeft
    | SlotExited
    | OverMemory
    | Resize
    | SchedulerGone
    | WorkerTick
)


# --- what is to be done about it ---


class ToScheduler(NamedTuple):
    message: Message


class ToSlot(NamedTuple):
    slot: int
    message: Message


class Spawn(NamedTuple):
    slot: int


class Interrupt(NamedTuple):
    """Ask a call in this slot to end: it may clean up."""

    slot: int
    task: int
    attempt: int


class Kill(NamedTuple):
    slot: int


class Retire(NamedTuple):
    """End an idle slot: it is one too many."""

    slot: int


class Fetch(NamedTuple):
    """Get a blob into this machine's store; `source` and `places` as in `NeedBlob`."""

    blob: bytes
    size: int
    source: str
    places: list[str]


class Forget(NamedTuple):
    """These blobs are needed no more."""

    blobs: list[bytes]


class RemoveResult(NamedTuple):
    """This part of a result is needed no more."""

    blob: bytes


class AwaitTaker(NamedTuple):
    """The outcome of this attempt is about to be told: its client takes these parts from the store that it shares."""

    task: int
    attempt: int
    parts: list[bytes]


class GiveUp(NamedTuple):
    """This daemon cannot work; `reason` says why."""

    reason: str


Effect = ToScheduler | ToSlot | Spawn | Interrupt | Kill | Retire | Fetch | Forget | RemoveResult | AwaitTaker | GiveUp
