"""Events and effects of the worker daemon: `WorkerCore.handle` turns the first into the second. Pure."""

from __future__ import annotations

from typing import NamedTuple

from minidask.wire.messages import CallDone, Chunk, Done, FetchChunk, Message, NoBlob

# --- events ---


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
    """A large blob could not be fetched from `source`; `text` says why."""

    blob: bytes
    source: str
    text: str


class NoRoom(NamedTuple):
    """This machine has no room for a large blob, or cannot fetch it at all; `text` says why."""

    blob: bytes
    text: str


class ResultLeft(NamedTuple):
    """A slot sent an outcome, and left large buffers of the result in the store: `large` has their ids and sizes."""

    slot: int
    done: Done | CallDone
    large: dict[bytes, int]


class SlotExited(NamedTuple):
    """A slot's process is gone; `how` names its exit code or signal, `hint` guesses why."""

    slot: int
    how: str
    hint: str


class NotStarted(NamedTuple):
    """The process of a slot cannot be started; `why` is the system's reason."""

    slot: int
    why: str


class OverMemory(NamedTuple):
    """A slot uses more memory than it may; `text` has the figures."""

    slot: int
    text: str


class Resize(NamedTuple):
    """The worker is to have this many slots."""

    slots: int


class SchedulerGone(NamedTuple):
    """The connection to the scheduler is lost: nobody is left to report to."""


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
    | NotStarted
    | OverMemory
    | Resize
    | SchedulerGone
    | WorkerTick
)


# --- effects ---


class ToScheduler(NamedTuple):
    """Send a message to the scheduler."""

    message: Message


class ToSlot(NamedTuple):
    """Send a message to a slot."""

    slot: int
    message: Message


class ToTransfers(NamedTuple):
    """Hand a message about bytes under way to the `Transfers`."""

    message: Chunk | NoBlob | FetchChunk


class Warn(NamedTuple):
    """Log what the scheduler wants the people at this machine to know."""

    text: str


class Spawn(NamedTuple):
    """Start a slot under a number."""

    slot: int


class Interrupt(NamedTuple):
    """Interrupt one call of a slot, which may clean up before it ends."""

    slot: int
    task: int
    attempt: int


class Kill(NamedTuple):
    """Kill a slot's process."""

    slot: int


class Retire(NamedTuple):
    """End an idle slot in its own way."""

    slot: int


class Fetch(NamedTuple):
    """Get a blob into this machine's store; `source` and `places` as in `NeedBlob`."""

    blob: bytes
    size: int
    source: str
    places: list[str]


class Forget(NamedTuple):
    """Release blobs in the store, and stop fetching those that are on their way."""

    blobs: list[bytes]


class RemoveResult(NamedTuple):
    """Remove a large buffer of a result from the store."""

    blob: bytes


class AwaitTaker(NamedTuple):
    """Expect the client of an attempt to take these large buffers of its result from the store that it shares."""

    task: int
    attempt: int
    blobs: list[bytes]


class GiveUp(NamedTuple):
    """End this worker, which cannot work; `reason` says why."""

    reason: str


Effect = (
    ToScheduler
    | ToSlot
    | ToTransfers
    | Warn
    | Spawn
    | Interrupt
    | Kill
    | Retire
    | Fetch
    | Forget
    | RemoveResult
    | AwaitTaker
    | GiveUp
)
