"""Every message that the programs exchange, grouped by direction.

A message is a named tuple: immutable, and on the wire already what it is, a list with positions. `codec.py` makes
frames of them.

    client ──► scheduler ──► worker ──► slot      PutBlob, Submit, ... / Run, Stop, ...
    client ◄── scheduler ◄── worker ◄── slot      TaskDone, ...        / Done, Failed, Died, ...
    client ◄─► scheduler ◄─► worker ◄─► worker    FetchChunk, Chunk, NoBlob

A slot speaks the same `Run`, `Done` and `Failed` as its worker, which passes them on unread.
"""

from __future__ import annotations

import enum
import typing
from typing import Any, NamedTuple

from minidask.wire.frames import Buffer

Payload = list[Buffer]

# --- client to scheduler -------------------------------------------------------------------------


class PutBlob(NamedTuple):
    """Keep these bytes under this name, for tasks that need them, until the client releases it.

    Also scheduler to worker and worker to slot: the same blob, sent once before the first task that needs it.
    """

    blob: bytes
    payload: Payload


class OfferBlob(NamedTuple):
    """As `PutBlob`, for `size` bytes that stay with the client: whoever needs them asks for them with `FetchChunk`.

    `place` says where they lie, for processes on the same machine: see `minidask.host.folders.place_of`.
    """

    blob: bytes
    size: int
    place: str


class ReleaseBlobs(NamedTuple):
    """The sender needs these blobs no more. Scheduler to worker and worker to slot: forget them."""

    blobs: list[bytes]


class OpenGroup(NamedTuple):
    """Tasks of this group, of which at most `limit` may run at once (0: no limit), are about to come from `parent`."""

    group: int
    limit: int
    parent: list[int]


class CloseGroup(NamedTuple):
    """No more tasks of this group will come."""

    group: int


class Submit(NamedTuple):
    """Run the call in `payload`. `task` is the client's own number for it, `group` 0 means none.

    `timeout` is in seconds of running time; `pin` names the one worker (its address) that may run it;
    such a task belongs to no group. What a task submits names that: `parent` is its number and attempt, as in `Run`,
    or empty.
    """

    task: int
    name: str
    priority: int
    timeout: float | None
    group: int
    pin: str | None
    blobs: list[bytes]
    parent: list[int]
    payload: Payload


class Cancel(NamedTuple):
    """The client wants no results of these tasks; `force` also stops those that run."""

    tasks: list[int]
    force: bool


class CancelAll(NamedTuple):
    """The client gives up on all of its tasks; each is answered by `TaskLost`. `force` also stops those that run."""

    force: bool


class Restart(NamedTuple):
    """Replace every slot of the cluster by a fresh one, busy ones once what they run is over.

    From a client, with a `request` number as `Ask` has; the `Answer` comes when it is done, and is empty. The scheduler
    passes it on to every worker, under a number of its own.
    """

    request: int


class Restarted(NamedTuple):
    """The worker has replaced all slots that it had when that `Restart` came, and the fresh ones are ready."""

    request: int


class Ask(NamedTuple):
    """Tell me about the cluster; answered by `Answer` with the same `request` number."""

    request: int


class Shutdown(NamedTuple):
    """End the scheduler and all its workers."""


# --- scheduler to client -------------------------------------------------------------------------


class Workers(NamedTuple):
    """The workers there are now, as `[address, name, slots, versions]` each; the first that a client is told."""

    workers: list[Any]


class WorkerChanged(NamedTuple):
    """This worker now has so many slots; None: it has left. `versions` are of its Python and packages, by name."""

    address: str
    name: str
    slots: int | None
    versions: dict[str, Any]


class TaskDone(NamedTuple):
    """The task returned what `payload` holds after `duration` seconds in a slot of `worker`."""

    task: int
    duration: float
    worker: str
    payload: Payload


class TaskRaised(NamedTuple):
    """The task raised. `traceback` is its text; `payload` the pickled `(exception, notes)`, see docs/protocol.md."""

    task: int
    duration: float
    worker: str
    traceback: str
    payload: Payload


class TaskLost(NamedTuple):
    """The task ended without an outcome of its own; `reason` is a `Reason`, `text` tells the story."""

    task: int
    reason: str
    text: str


class TaskOutput(NamedTuple):
    """Text that a task of this client wrote to `stream` ("stdout" or "stderr")."""

    worker: str
    stream: str
    text: str


class Answer(NamedTuple):
    """The answer to `Ask`: a dict of plain values."""

    request: int
    info: dict[str, Any]


class Goodbye(NamedTuple):
    """The sender closes the connection on purpose, and why."""

    reason: str


# --- scheduler to worker, worker to slot ---------------------------------------------------------


class Run(NamedTuple):
    """Run this attempt of this task. `task` is the scheduler's number for it; `client` owns its output.

    With a `host`, the number of a task that waits for it, it is to run in that one's slot; 0: in a slot of its own.
    """

    task: int
    attempt: int
    client: int
    name: str
    timeout: float | None
    blobs: list[bytes]
    host: int
    payload: Payload


class Stop(NamedTuple):
    """Forget this attempt if it waits, stop it if it runs; answered by `Stopped` unless it ends first."""

    task: int
    attempt: int


class NeedBlob(NamedTuple):
    """Have this blob of `size` bytes before the next `Run` that names it.

    It may lie on this machine, in one of `places`. Else fetch it from the worker that serves at `source`; from
    the scheduler if that is empty. Sent again with another source when the first is of no use any more.
    """

    blob: bytes
    size: int
    source: str
    places: list[str]


class BlobLost(NamedTuple):
    """The blob cannot be had from anywhere, and why: what needs it cannot run there."""

    blob: bytes
    text: str


# --- large data, part by part: worker to worker, and through the scheduler between worker and client ---


class FetchChunk(NamedTuple):
    """Send me `size` bytes of a blob, from `offset` on; answered by `Chunk`, when it is there, or `NoBlob`.

    `peer` is 0 but for what the scheduler passes on: then the answer has to name the same peer.
    """

    blob: bytes
    offset: int
    size: int
    peer: int


class Chunk(NamedTuple):
    """Bytes of a blob, in a payload of one buffer, from `offset` on."""

    blob: bytes
    offset: int
    peer: int
    payload: Payload


class NoBlob(NamedTuple):
    """The blob cannot be had from the sender, and why."""

    blob: bytes
    peer: int
    text: str


# --- slot to worker, worker to scheduler ---------------------------------------------------------


class SlotReady(NamedTuple):
    """A slot's first message: it has started and waits for tasks."""


class Done(NamedTuple):
    """The attempt returned what `payload` holds after `duration` seconds."""

    task: int
    attempt: int
    duration: float
    payload: Payload


class Failed(NamedTuple):
    """The attempt raised; fields as in `TaskRaised`."""

    task: int
    attempt: int
    duration: float
    traceback: str
    payload: Payload


class Died(NamedTuple):
    """The slot died while it ran this attempt; `how` names the exit code or signal, `hint` guesses the cause."""

    task: int
    attempt: int
    how: str
    hint: str


class Stopped(NamedTuple):
    """The attempt was stopped, or forgotten before it began; `reason` is a `Reason`, or `NO_DATA`."""

    task: int
    attempt: int
    reason: str
    text: str


class GaveBack(NamedTuple):
    """The attempt has not begun, for no slot got free in time or none is left: it may go elsewhere."""

    task: int
    attempt: int


class Output(NamedTuple):
    """What `slot` wrote to `stream` while it worked for `client`."""

    client: int
    slot: int
    stream: str
    text: str


class Heartbeat(NamedTuple):
    """The worker is alive; `memory` is the resident bytes of all its slots at the last look."""

    memory: int


class Resized(NamedTuple):
    """The worker now has this many slots; 0: it takes nothing more, and ends when what it runs is over."""

    slots: int


class HaveBlob(NamedTuple):
    """The worker has all of this blob now, and others may fetch it there."""

    blob: bytes


class FetchFailed(NamedTuple):
    """The blob could not be had from `source`, as in `NeedBlob`: name another one."""

    blob: bytes
    source: str
    text: str


# --- large results ---


class OfferResult(NamedTuple):
    """The attempt has returned; these `size` bytes of its result are to be fetched before `Done` comes."""

    task: int
    attempt: int
    blob: bytes
    size: int


class ResultOffered(NamedTuple):
    """As `OfferResult`, for the client; `peer` is the worker that has them."""

    task: int
    blob: bytes
    size: int
    peer: int


class ResultTaken(NamedTuple):
    """The client has those bytes, or wants them no more; `peer` is 0 on the way from the scheduler to the worker."""

    blob: bytes
    peer: int


# --- tasks within tasks: slot to worker, worker to scheduler ---


class Waiting(NamedTuple):
    """The attempt waits for tasks that it has submitted: its slot may run those, and theirs, meanwhile."""

    task: int
    attempt: int


class Resumed(NamedTuple):
    """The attempt goes on: its slot takes no more. A worker answers its slot with the same.

    What was sent to the slot for that wait, and not begun, is void; the worker gives it back.
    """

    task: int
    attempt: int


class IdleSlots(NamedTuple):
    """Scheduler to the client of a slot, while that has a group open: whether there are slots with nothing to do."""

    idle: bool


class Notice(NamedTuple):
    """Scheduler to worker: something that whoever looks after it should know; for its log."""

    text: str


class RanInline(NamedTuple):
    """Client of a slot to the scheduler: its task `parent`, as in `Submit`, has run so many more calls itself.

    For those who want to know how far it is; `failed` of them raised.
    """

    parent: list[int]
    finished: int
    failed: int


# --- what a task tells its caller while it runs: slot to worker, worker to scheduler; scheduler to client ---


class TaskMessage(NamedTuple):
    """The attempt has something for the process that the outermost task is from; `channel` says for whom there."""

    task: int
    attempt: int
    channel: str
    payload: Payload


class CallerMessage(NamedTuple):
    """A task of this client, or one within it, has sent this: see `TaskMessage`. Of one task they come in its order."""

    channel: str
    payload: Payload


RECORDS = "log"
"""The channel for `logging`: each buffer is the msgpack of a `LogRecord`'s attributes, `worker` among them."""


class Reason(enum.StrEnum):
    """Why a task is lost: the `reason` of `TaskLost`, and of a worker's `Stopped`."""

    CANCELLED = "cancelled"  # by its client, or with its parent
    TIMEOUT = "timeout"  # it has run for longer than its client allows
    KILLED = "killed"  # its attempts have died too often
    NO_WORKERS = "no-workers"  # no worker that can run it has come for too long
    SERIALIZATION = "serialization"  # its outcome cannot be sent
    WORKER_LEFT = "worker-left"  # it was pinned to a worker that is not there
    VERSION = "version"  # there are only workers of other Pythons
    INTERNAL = "internal"  # a mistake of minidask's own


REASONS = frozenset(Reason)

NO_DATA = "no-data"
"""The `reason` of `Stopped` if the attempt has not started because its data cannot be had: the task is tried again."""


Message = (
    PutBlob | ReleaseBlobs | OpenGroup | CloseGroup | Submit | Cancel | Ask | Shutdown
    | Workers | TaskDone | TaskRaised | TaskLost | TaskOutput | Answer | Goodbye
    | Run | Stop
    | SlotReady | Done | Failed | Died | Stopped | GaveBack | Output | Heartbeat | Resized
    | WorkerChanged
    | OfferBlob | NeedBlob | FetchChunk | Chunk | NoBlob | HaveBlob | FetchFailed | BlobLost
    | OfferResult | ResultOffered | ResultTaken
    | Waiting | Resumed | IdleSlots | RanInline
    | TaskMessage | CallerMessage
    | Notice
    | CancelAll
    | Restart | Restarted
)  # fmt: skip

# The position in this list is the message's code on the wire: only ever append.
CODES: tuple[type[Any], ...] = typing.get_args(Message)
