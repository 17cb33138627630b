"""What fields of several messages hold, beside what is common to most (`bounds.py`). And why a task is lost."""

from __future__ import annotations

import enum
from typing import Annotated, Any

from minidask.wire.bounds import Depth, Label, Length, Number, OneOf, Range
from minidask.wire.frames import Buffer
from minidask.wire.large import BLOB_ID_BYTES, CHUNK_BYTES

MAX_BLOBS = 1 << 19  # of a task: its message has to be within the limits of a frame
MAX_BUFFERS = 4096
MAX_COUNT = 1 << 32
MAX_DEPTH = 8
MAX_KEY = (1 << 22) - 1
"""The highest key that a client may draw: with it and `OUTLIVES`, numbers of tasks have 62 bits."""

MAX_KEYS = 64
"""How many of its keys a client tells, its present one among them."""

MAX_RESOURCES = 100
MAX_SLOTS = 1 << 16

BlobId = Annotated[bytes, Length(BLOB_ID_BYTES, BLOB_ID_BYTES)]
ChunkSize = Annotated[int, Range(1, CHUNK_BYTES)]
Name = Annotated[str, Length(0, 1 << 20)]
"""The name of a task: its function's."""
Parent = Annotated[list[Number], Length(0, 2, even=True)]
"""Number and attempt of a task, or nothing."""
Amount = Annotated[float, Range(1e-6, 1e15)]
Resources = Annotated[dict[Label, Amount], Length(0, MAX_RESOURCES)]
"""What a worker has, or a task needs, in amounts with names."""
Slots = Annotated[int, Range(0, MAX_SLOTS)]
Stream = Annotated[str, OneOf(("stdout", "stderr"))]
Versions = Annotated[dict[Label, Label], Length(0, 1000)]

Blobs = Annotated[list[BlobId], Length(0, MAX_BLOBS)]
"""What a task needs."""
Count = Annotated[int, Range(0, MAX_COUNT)]
Info = Annotated[dict[str, Any], Depth(MAX_DEPTH)]
OneBuffer = Annotated[list[Buffer], Length(1, 1)]
Pickle = Annotated[list[Buffer], Length(1, MAX_BUFFERS)]
"""A payload that is a pickle, and its buffers."""


class Reason(enum.StrEnum):
    """Why a task is lost: the `reason` of `TaskLost`, and of a worker's `Stopped`."""

    CANCELLED = "cancelled"  # by its client, or with its parent
    TIMEOUT = "timeout"  # it has run for longer than its client allows
    KILLED = "killed"  # its attempts have died too often
    NO_WORKERS = "no-workers"  # no worker that can run it has come for too long
    SERIALIZATION = "serialization"  # its outcome cannot be sent
    WORKER_LEFT = "worker-left"  # it was pinned to a worker that is not there
    VERSION = "version"  # there are only workers of other Pythons
    NO_PARENT = "no-parent"  # the scheduler does not know the task that has submitted it
    FULL = "full"  # the scheduler keeps too much for its client
    INTERNAL = "internal"  # a mistake of minidask's own


NO_DATA = "no-data"
"""The `reason` of `Stopped` if the attempt has not started because its data cannot be had: the task is tried again."""

GUEST_DIED = "guest-died"
"""The `reason` of `Stopped` if a task on top of the attempt has ended the slot's process: the task is tried again."""

CUT_OFF = "cut-off"
"""The `reason` of `Stopped` if the attempt has lost the tasks within with their scheduler: the task is tried again."""

WhyStopped = Annotated[str, OneOf((*Reason, NO_DATA, GUEST_DIED, CUT_OFF))]
