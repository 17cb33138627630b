"""Every message that the programs exchange, grouped by direction.

A message is a named tuple: immutable, and nearly in the form that goes over the wire, a list with positions. `codec.py`
makes frames of messages. The types of the fields are checked there, so they have to be true.

    client ──► scheduler ──► worker ──► slot      PutBlob, Submit, ... / Run, Stop, ...
    client ◄── scheduler ◄── worker ◄── slot      TaskDone, ...        / Done, Failed, Died, ...
    client ◄─► scheduler ◄─► worker ◄─► worker    FetchChunk, Chunk, NoBlob

A worker passes `Run` on to a slot, and `Done` and `Failed` on from there, without looking into the payload.
"""

from __future__ import annotations

import typing
from typing import Any, NamedTuple

from minidask.wire.bounds import Integer, Label, Limit, Modules, Number, Offset, Seconds, Size
from minidask.wire.fields import CUT_OFF as CUT_OFF
from minidask.wire.fields import GUEST_DIED as GUEST_DIED
from minidask.wire.fields import NO_DATA as NO_DATA
from minidask.wire.fields import BlobId, Blobs, ChunkSize, Count, Info, Name, Parent, Pickle, Slots, Stream, Versions
from minidask.wire.fields import OneBuffer as OneBuffer
from minidask.wire.fields import Reason as Reason
from minidask.wire.fields import Resources as Resources
from minidask.wire.fields import WhyStopped as WhyStopped
from minidask.wire.frames import Buffer
from minidask.wire.large import blob_id
from minidask.wire.observing import Activity, Events, Explain, ReadLog, Subscribe

Payload = list[Buffer]


class WorkerRow(NamedTuple):
    """A worker, as `Workers` has it. `versions` are those of its Python and packages."""

    address: Label
    name: Label
    slots: Slots
    versions: Versions


# --- client to scheduler -------------------------------------------------------------------------


class PutBlob(NamedTuple):
    """Keep these bytes as a blob, for tasks that need it, until the client releases it.

    Also scheduler to worker and worker to slot: the same, sent once, before the first task that needs the blob.
    """

    blob: BlobId
    payload: Payload

    def unsound(self) -> str:
        """Why the whole is wrong, though each field is right: an empty text if it is not."""
        if self.payload and blob_id(self.payload) != self.blob:
            return f"the bytes of blob {self.blob.hex()} are not what its name says"
        return ""


class OfferBlob(NamedTuple):
    """The client has a large blob of `size` bytes. They stay there, and are asked for with `FetchChunk`.

    `place` is the client's store, from which a worker on the same machine takes the blob without a copy: see
    `minidask.host.folders.place_of`.
    """

    blob: BlobId
    size: Size
    place: Label


class ReleaseBlobs(NamedTuple):
    """The client needs these blobs no more. Also scheduler to worker and worker to slot: forget them."""

    blobs: list[BlobId]


class OpenGroup(NamedTuple):
    """Tasks of a new group will come, of which at most `limit` may run at once (0: no limit).

    `parent` is the number and attempt of the task that submits them, as in `Submit`, or empty.
    """

    group: Number
    limit: Number
    parent: Parent


class CloseGroup(NamedTuple):
    """No more tasks of this group will come; its number may be used again."""

    group: Number


class Submit(NamedTuple):
    """Run the call in `payload`.

    `task` is the client's own number for the task. Tasks with a higher `priority` run first. `timeout` is in seconds
    of running time. `group` is the number of an open group, or 0. `pin` is the address of the one worker that may run
    the task; such a task has no group. `blobs` are those that the call needs. If a task submits this one, `parent` is
    the number and attempt of that task, as in its `Run`; otherwise it is empty. The task begins where its `resources`
    are free, and holds them.

    A `lease` has no call. The slot that gets it runs the calls of a queue of the client's, which the payload names (see
    `minidask/data/callqueue.py`), until it has waited for the next call for a while, or `Yield` comes. If its slot
    dies, it is not tried again: the client knows which call did that.
    """

    task: Number
    name: Name
    priority: Integer
    timeout: Limit | None
    group: Number
    pin: Label | None
    blobs: Blobs
    parent: Parent
    lease: bool
    resources: Resources
    payload: Pickle


class Cancel(NamedTuple):
    """The client wants no outcome of these tasks; `force` also stops those that run."""

    tasks: list[Number]
    force: bool


class CancelAll(NamedTuple):
    """The client gives up on all of its tasks; each is answered by `TaskLost`. `force` also stops those that run."""

    force: bool


class Restart(NamedTuple):
    """Replace every slot of the cluster by a fresh one; busy slots when their task is over.

    These and all slots that are started later import the modules of `preload`, beside those of earlier ones, first.
    The client chooses the number of the `request`, and gets an empty `Answer` with it when all is done. The scheduler
    passes the message on to every worker, with a number of its own.
    """

    request: Number
    preload: Modules = []  # noqa: RUF012 - is never changed


class Restarted(NamedTuple):
    """The worker has replaced all slots that it had when the `Restart` with this number came."""

    request: Number


class Resubmitted(NamedTuple):
    """The client has submitted all that it still wants. What else runs for it was sent by a lost scheduler: stop it."""


class Ask(NamedTuple):
    """The client wants to know about the cluster. It chooses the number of the `request`; `Answer` has the same."""

    request: Number


class Shutdown(NamedTuple):
    """End the scheduler and all its workers."""


# --- scheduler to client -------------------------------------------------------------------------


class Workers(NamedTuple):
    """All workers, each as `[address, name, slots, versions]`: the first message to a client."""

    workers: list[WorkerRow]


class WorkerChanged(NamedTuple):
    """A worker has this number of slots now; None: it has left. `versions` are those of its Python and packages."""

    address: Label
    name: Label
    slots: Slots | None
    versions: Versions


class TaskDone(NamedTuple):
    """The task has returned the value in `payload`, after `duration` seconds in a slot of `worker`."""

    task: Number
    duration: Seconds
    worker: Label
    payload: Payload


class TaskRaised(NamedTuple):
    """The task has raised, after `duration` seconds in a slot of `worker`.

    `traceback` is its text; `payload` is the pickled `(exception, notes)`, see docs/protocol.md.
    """

    task: Number
    duration: Seconds
    worker: Label
    traceback: str
    payload: Payload


class TaskLost(NamedTuple):
    """The task has ended without an outcome of its own; `reason` is a `Reason`, `text` tells the story."""

    task: Number
    reason: Label
    text: str


class TaskOutput(NamedTuple):
    """Text that a task of this client has written to `stream`, "stdout" or "stderr"."""

    worker: Label
    stream: Stream
    text: str


class Answer(NamedTuple):
    """The answer to the question with this number: a dict of plain values, empty for `Restart`."""

    request: Number
    info: Info


class Goodbye(NamedTuple):
    """The sender closes the connection on purpose, for this reason."""

    reason: str


# --- scheduler to worker, worker to slot ---------------------------------------------------------


class Run(NamedTuple):
    """Run an attempt of a task. `task` is the scheduler's number for it; its output is for `client`.

    `host` is the number of a task whose slot is lent to this one, or 0: the task gets a slot of its own. `lease` is
    that of `Submit`.
    """

    task: Number
    attempt: Number
    client: Number
    name: Name
    timeout: Limit | None
    blobs: Blobs
    host: Number
    lease: bool
    payload: Pickle


class Adopted(NamedTuple):
    """The scheduler has taken over this attempt of a lost one; its output is for `client` from now on."""

    task: Number
    attempt: Number
    client: Number


class Stop(NamedTuple):
    """Forget an attempt that has not started, stop one that runs; answered by `Stopped` unless it ends first."""

    task: Number
    attempt: Number


class Yield(NamedTuple):
    """Give this lease back when the call in hand is over, and when it is `after` seconds old: others need the slot."""

    task: Number
    attempt: Number
    after: Seconds


class NeedBlob(NamedTuple):
    """Get a blob of `size` bytes, for a `Run` that follows and names it.

    The blob may be on this machine, in a store of `places`. If not, it is to be fetched from the worker that serves at
    `source`, or through the scheduler if that is empty. The message comes again, with another source, if the first one
    can serve no longer.
    """

    blob: BlobId
    size: Size
    source: Label
    places: list[Label]


class BlobLost(NamedTuple):
    """The blob cannot be had from anywhere, for the reason in `text`: tasks that need it cannot run on this worker."""

    blob: BlobId
    text: str


# --- large data, in chunks: worker to worker, and through the scheduler between worker and client ---


class FetchChunk(NamedTuple):
    """The sender wants `size` bytes of a blob, from `offset` on; answered by `Chunk`, once they are there, or `NoBlob`.

    `peer` is 0, except in messages that the scheduler passes on: there it is who asks, and the answer repeats it.
    """

    blob: BlobId
    offset: Offset
    size: ChunkSize
    peer: Number


class Chunk(NamedTuple):
    """Bytes of a blob from `offset` on, in a payload of one buffer; `peer` as in `FetchChunk`."""

    blob: BlobId
    offset: Offset
    peer: Number
    payload: OneBuffer


class NoBlob(NamedTuple):
    """The blob cannot be had from the sender, for the reason in `text`; `peer` as in `FetchChunk`."""

    blob: BlobId
    peer: Number
    text: str


# --- slot to worker, worker to scheduler ---------------------------------------------------------


class SlotReady(NamedTuple):
    """A slot's first message: it has started and waits for tasks."""


class Began(NamedTuple):
    """The attempt has a time limit, and its call begins now: all that it needs was imported and unpickled."""

    task: Number
    attempt: Number


class Done(NamedTuple):
    """The attempt has returned the value in `payload`, after `duration` seconds."""

    task: Number
    attempt: Number
    duration: Seconds
    payload: Pickle


class Failed(NamedTuple):
    """The attempt has raised, after `duration` seconds; `traceback` and `payload` are those of `TaskRaised`."""

    task: Number
    attempt: Number
    duration: Seconds
    traceback: str
    payload: Payload


class Died(NamedTuple):
    """The slot's process has ended under the attempt; `how` is the exit code or signal, `hint` a guess at the cause."""

    task: Number
    attempt: Number
    how: str
    hint: str


class Stopped(NamedTuple):
    """The attempt was stopped, or forgotten before it started; `reason` is a `Reason`, `NO_DATA` or `GUEST_DIED`."""

    task: Number
    attempt: Number
    reason: WhyStopped
    text: str


class GaveBack(NamedTuple):
    """The attempt has not started, since no slot became free in time: the task may go to another worker."""

    task: Number
    attempt: Number


class Output(NamedTuple):
    """Text that a slot has written to `stream`, "stdout" or "stderr", while it ran a task of `client`."""

    client: Number
    slot: Number
    stream: Stream
    text: str


class Heartbeat(NamedTuple):
    """A worker's busy slots use `memory` bytes of their own. The scheduler has `received` so many of its messages."""

    memory: Number
    received: Number = 0


class Resized(NamedTuple):
    """The worker has this number of slots now: fewer while some cannot be started, none when it takes no task more."""

    slots: Slots


class HaveBlob(NamedTuple):
    """The worker has all of this blob now, and other workers may fetch it there."""

    blob: BlobId


class FetchFailed(NamedTuple):
    """The worker could not fetch the blob from `source`, for the reason in `text`; it needs another source."""

    blob: BlobId
    source: Label
    text: str


# --- the calls of a lease: slot to worker, worker to scheduler ---


class WantBlobs(NamedTuple):
    """The lease has a call in hand that needs these blobs, and its slot lacks them: they are to come as for a `Run`.

    The slot gets `PutBlob` for each, or `BlobLost`.
    """

    task: Number
    attempt: Number
    blobs: list[BlobId]


class CallDone(NamedTuple):
    """A call of the lease has returned the value in `payload`, after `duration` seconds.

    `call` is the client's number for it. Only a result that cannot go the queue's own way comes so.
    """

    task: Number
    attempt: Number
    call: Number
    duration: Seconds
    payload: Pickle


class CallFailed(NamedTuple):
    """A call of the lease has raised; all but `call`, as in `CallDone`, is that of `Failed`."""

    task: Number
    attempt: Number
    call: Number
    duration: Seconds
    traceback: str
    payload: Payload


# --- large results ---


class OfferResult(NamedTuple):
    """The attempt has returned, and its client has to fetch a buffer of `size` bytes before `Done` comes."""

    task: Number
    attempt: Number
    blob: BlobId
    size: Size


class ResultOffered(NamedTuple):
    """The task has returned, and the client has to fetch a buffer of `size` bytes from the worker `peer`."""

    task: Number
    blob: BlobId
    size: Size
    peer: Number


class ResultTaken(NamedTuple):
    """The client has fetched the buffer from the worker `peer`, or needs it no more; `peer` is 0 for the worker."""

    blob: BlobId
    peer: Number


# --- tasks within tasks: slot to worker, worker to scheduler ---


class Waiting(NamedTuple):
    """The attempt waits for tasks that it has submitted: its slot can run its descendants meanwhile."""

    task: Number
    attempt: Number


class Resumed(NamedTuple):
    """The attempt goes on, and its slot takes no more guests. The worker answers its slot with the same message.

    A guest that was sent to the slot before that answer, and has not started, is void: the worker gives it back.
    """

    task: Number
    attempt: Number


class IdleSlots(NamedTuple):
    """Scheduler to the client of a slot, while that has a group open: whether some slot would take its tasks."""

    idle: bool


class Notice(NamedTuple):
    """Scheduler to worker: a line for the worker's log, that its administrator should know."""

    text: str


class RanInline(NamedTuple):
    """Client of a slot to the scheduler: the task `parent` has run `finished` calls itself; `failed` of them raised.

    Only for the counts that are shown to users. `parent` is its number and attempt, as in `Submit`.
    """

    parent: Parent
    finished: Count
    failed: Count

    def unsound(self) -> str:
        """As in `PutBlob`."""
        return "more calls have failed than there were" if self.failed > self.finished else ""


# --- from a task that runs to its caller: slot to worker, worker to scheduler, scheduler to client ---


class TaskMessage(NamedTuple):
    """Something from a task that runs, for the client of the outermost task; `channel` says for what part of it."""

    task: Number
    attempt: Number
    channel: Label
    payload: Payload


class CallerMessage(NamedTuple):
    """Something that a task of this client, or a task within, has sent; those of one task come in the order sent."""

    channel: Label
    payload: Payload


RECORDS = "log"
"""The channel for `logging`. Each buffer is the msgpack of a `LogRecord`'s attributes; one of them is `worker`."""

REASONS = frozenset(Reason)

GIVE_BACK_SECONDS = 0.05
"""How long an attempt waits at a worker for a free slot, before `GaveBack`. The scheduler prefetches less than that."""

OUTLIVES = 1 << 40
"""Attempts of tasks with this number or a higher one go on when their scheduler is lost: see `scheduler/holds.py`."""

BEATS = 3
"""How many heartbeats are sent in the time after which a silent peer is lost."""

Report = Done | Failed | Died | Stopped | OfferResult | TaskMessage
"""What a worker tells of an attempt, and tells later if it has no scheduler just then."""

Message = (
    PutBlob | ReleaseBlobs | OpenGroup | CloseGroup | Submit | Cancel | Ask | Shutdown | Workers | TaskDone
    | TaskRaised | TaskLost | TaskOutput | Answer | Goodbye | Run | Stop | SlotReady | Done | Failed | Died | Stopped
    | GaveBack | Output | Heartbeat | Resized | WorkerChanged | OfferBlob | NeedBlob | FetchChunk | Chunk | NoBlob
    | HaveBlob | FetchFailed | BlobLost | OfferResult | ResultOffered | ResultTaken | Waiting | Resumed | IdleSlots
    | RanInline | TaskMessage | CallerMessage | Notice | CancelAll | Restart | Restarted | Yield | WantBlobs
    | CallDone | CallFailed | Began | Resubmitted | Adopted | Subscribe | Events | Activity | Explain | ReadLog
)  # fmt: skip

# The position in this list is the message's code on the wire: only ever append.
CODES: tuple[type[Any], ...] = typing.get_args(Message)
