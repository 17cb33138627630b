"""What a payload is, and how it becomes objects again. `sharing.py` makes payloads of objects.

pickle alone would copy each array into its text, and could not send a function of `__main__`. cloudpickle sends such
functions. Protocol 5 leaves large buffers where they are. So a payload is a list:

    [pickle, buffer, buffer, …]      a buffer beside the pickle has at least `OUT_OF_BAND_BYTES`;
                                     a shorter one is a *reference*: ids of blobs, and a letter for how to map them

Tasks of a call share much, functions above all. What they share is pickled once, as a *blob* whose id is a hash of its
content. Each task's own pickle only has that id:

    sender: dumps_naming ─► an id in the place of a function      (`sharing.py` decides what becomes a blob)
    slot:   loads ─► resolve_blob(id) ─► TaskBlobs ─► SlotBlobs   (unpickled once, if no task changes it)

A task may change the objects that blobs were unpickled to. The next task must find them as they were sent. So a slot
gives an object to the next task only if a `Watch` has seen no change; else the blob is unpickled again.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

from minidask.data.pieces import names_in, reference
from minidask.data.store import BlobStore
from minidask.errors import MinidaskError, SerializationError
from minidask.host.signals import pass_on
from minidask.pickling.byvalue import (
    Namespace,
    this_thread,
)
from minidask.pickling.functions import copy_of_wrapper
from minidask.pickling.watch import Watch
from minidask.wire.frames import Buffer
from minidask.wire.large import LARGE_BYTES, OUT_OF_BAND_BYTES
from minidask.wire.messages import Payload

SHARED, PRIVATE, HANDED_OVER = b"r", b"c", b"w"  # how a reference's bytes are mapped: see `minidask/data/store.py`


def loads(payload: Payload, what: str) -> Any:
    """Unpickle one object.

    Args:
        what: names the object in the error.

    Raises:
        SerializationError: the object cannot be unpickled here.
    """
    try:
        return pickle.loads(payload[0], buffers=map(_buffer, payload[1:]))
    except MinidaskError:
        raise
    except (Exception, SystemExit) as error:
        pass_on(error)
        raise SerializationError(f"{what} cannot be unpickled here: {type(error).__name__}: {error}") from error


def _buffer(beside: Buffer) -> Buffer:
    """A buffer beside a pickle, or the bytes that a reference there stands for."""
    return beside if len(beside) >= OUT_OF_BAND_BYTES else _task().table.data(bytes(beside))


def handed_over(payload: Payload, store: BlobStore | None) -> Payload:
    """Return the payload of a result with its large buffers moved into the store, and references in their place."""
    if store is None or len(payload) == 1:
        return payload
    return [payload[0], *(_hand_over(buffer, store) for buffer in payload[1:])]


def _hand_over(buffer: Buffer, store: BlobStore) -> Buffer:
    blob = store.hand_over(buffer) if len(buffer) >= LARGE_BYTES else None
    return buffer if blob is None else reference([blob], HANDED_OVER)


def left_in(payload: Payload) -> list[bytes]:
    """The ids of the blobs that stand in the place of buffers: for a result, those that a slot has left in a store."""
    return [blob for beside in payload[1:] if len(beside) < OUT_OF_BAND_BYTES for blob in names_in(beside)]


def taken(payload: Payload, take: Callable[[bytes], Buffer]) -> Payload:
    """Return the payload of a result, with the buffers that a slot has left in a store.

    Args:
        take: gets the buffer with this id out of the store.
    """
    if all(len(beside) >= OUT_OF_BAND_BYTES for beside in payload[1:]):
        return payload
    return [payload[0], *(_take(beside, take) for beside in payload[1:])]


def _take(beside: Buffer, take: Callable[[bytes], Buffer]) -> Buffer:
    return beside if len(beside) >= OUT_OF_BAND_BYTES else take(names_in(beside)[0])


_CODE, _DATA = "code", "data"
MAX_KEPT = 64


class _Unpickled:
    """What blobs were unpickled to, in one namespace, and the watch over it."""

    def __init__(self, to_process: bool) -> None:
        self.namespace = Namespace(to_process)
        self.objects: dict[bytes, Any] = {}
        self.inner: dict[bytes, Any] = {}
        """What blobs were unpickled to that other blobs refer to."""
        self.watch = Watch()
        self.key: tuple[bytes, ...] | None = None
        """The blobs of a task that are code, and that this is for; None before they are known."""
        self._size = 0

    def add(self, blob: bytes, obj: Any) -> None:
        """Note that a blob was unpickled to this object, and watch over the object."""
        self.objects[blob] = obj
        self.watch.add(obj, *(value for names in self.namespace.globals.values() for value in names.values()))
        self._size = self.namespace.size()

    def unchanged(self) -> bool:
        """Whether no object has changed since the last blob was unpickled."""
        return self.namespace.size() == self._size and self.watch.unchanged()


class SlotBlobs:
    """The blobs that one slot was sent. Each is unpickled when a task refers to it.

    An unpickled object serves one task after another while no task changes it. Functions and classes may share what
    changes, a module's globals for example. So all code of a task is kept together, for tasks with the same blobs of
    code. Scattered data is kept by itself.

    Arrays inside a blob are read-only, as joblib's memory maps are: other tasks see the same memory.

    Args:
        store: has the blobs that come without bytes.
        to_process: whether no other slot is in this process.
    """

    def __init__(self, store: BlobStore | None = None, *, to_process: bool = False) -> None:
        self._store = store
        self._whole_process = to_process
        self._payloads: dict[bytes, Payload] = {}
        self._maps: dict[tuple[bytes, ...], memoryview] = {}
        self._kinds: dict[bytes, str] = {}  # by blob that was unpickled, or was a buffer
        self._code: dict[tuple[bytes, ...], list[_Unpickled]] = {}  # that no task uses now, by `_Unpickled.key`
        self._data: dict[bytes, list[tuple[Any, Watch]]] = {}  # that no task uses now
        self._worlds = {0: (self._code, self._data)}
        self._last: tuple[Sequence[bytes], tuple[bytes, ...] | None] = ((), None)  # a task's blobs, and `_key` of them

    def put(self, blob: bytes, payload: Payload) -> None:
        """Take a blob that was sent to this slot. An empty payload says that the blob is in the store."""
        self._payloads[blob] = [memoryview(buffer).toreadonly() for buffer in payload]

    def lacking(self, blobs: Sequence[bytes]) -> list[bytes]:
        """Those of some blobs that are not here."""
        here = self._payloads
        return [blob for blob in blobs if blob not in here]

    def forget(self, blob: bytes) -> None:
        """Drop a blob, and all objects that were made of it."""
        self._payloads.pop(blob, None)
        self._kinds.pop(blob, None)
        self._last = ((), None)
        for pieces in [pieces for pieces in self._maps if blob in pieces]:
            del self._maps[pieces]
        for code, data in self._worlds.values():
            data.pop(blob, None)
            for key in [key for key, kept in code.items() if blob in key or any(blob in one.inner for one in kept)]:
                del code[key]

    def enter(self, world: int) -> None:
        """Use the objects of this world of modules from now on. In another world, a blob is another object."""
        self._code, self._data = self._worlds.setdefault(world, ({}, {}))

    def leave_for_good(self, world: int) -> None:
        """Drop the objects of a world of modules that will not be entered again."""
        self._worlds.pop(world, None)

    def bytes_of(self, blob: bytes) -> Payload:
        """Return the payload of a blob as it was sent, mapped if it is in the store.

        Raises:
            SerializationError: the blob was not sent to this slot.
        """
        return self._payload(blob) or [self.data(reference([blob], SHARED))]

    def begin(self, blobs: Sequence[bytes], payload: Payload) -> TaskBlobs:
        """Begin a task in this thread. What it unpickles is its own until `TaskBlobs.end`.

        Args:
            blobs: the ids that the task refers to, without those that describe its caller.
            payload: of the task's call.
        """
        return TaskBlobs(self, blobs, self._code_for(blobs, payload))

    def _code_for(self, blobs: Sequence[bytes], payload: Payload) -> _Unpickled:
        key = self._last[1] if blobs == self._last[0] else self._key(blobs, payload)
        kept = self._code.get(key) if key is not None else None
        while kept:
            unpickled = kept.pop()
            if unpickled.unchanged():
                return unpickled
        return _Unpickled(self._whole_process)

    def _key(self, blobs: Sequence[bytes], payload: Payload) -> tuple[bytes, ...] | None:
        """The blobs of a task that are code; None if it is not known of some, as they were never unpickled."""
        kinds = self._kinds
        new = [blob for blob in blobs if blob not in kinds]
        if new and not set(left_in(payload)).issuperset(new):
            return None
        key = tuple([blob for blob in blobs if kinds.get(blob) is _CODE])
        self._last = (blobs, key)
        return key

    def keep(self, blobs: Sequence[bytes], code: _Unpickled, data: dict[bytes, tuple[Any, Watch]]) -> None:
        """Keep what a task that has ended has used. The next task may have it if it is unchanged by then."""
        known = self._payloads
        if code.key is None:
            code.key = tuple(blob for blob in blobs if self._kinds.get(blob) is _CODE)
        if not code.watch.unknown and known.keys() >= code.objects.keys() and known.keys() >= code.inner.keys():
            kept_code = self._code.get(code.key)
            if kept_code is None:
                kept_code = self._code[code.key] = []
                if len(self._code) > MAX_KEPT:
                    del self._code[next(iter(self._code))]
            kept_code.append(code)
        if not data:
            return
        for blob, kept in data.items():
            if not kept[1].unknown and blob in known:
                self._data.setdefault(blob, []).append(kept)

    def kept_data(self, blob: bytes) -> tuple[Any, Watch] | None:
        """Return an object that a blob of data was unpickled to, and its watch; None if there is no unchanged one."""
        kept = self._data.get(blob)
        while kept:
            made = kept.pop()
            if made[1].unchanged():
                return made
        return None

    def learn(self, blob: bytes, is_code: bool) -> None:
        """Note that a blob was unpickled and found to be code, or else data."""
        self._kinds[blob] = _CODE if is_code else _DATA
        self._last = ((), None)

    def data(self, stand_in: bytes) -> Buffer:
        """Return the bytes of a large buffer: one map of all its pieces, or a copy where pieces were sent.

        Args:
            stand_in: the reference in the place of the buffer.

        Raises:
            SerializationError: a piece was not sent to this slot, or there is no store.
        """
        pieces, mode = names_in(stand_in), stand_in[-1:]
        for piece in pieces:
            self._kinds.setdefault(piece, _DATA)
        along = [self._payload(piece) for piece in pieces]
        if mode == PRIVATE:
            return self._joined(pieces, along) if any(along) else self._mapped(pieces, private=True)
        if pieces not in self._maps:
            if any(along):
                whole = memoryview(along[0][0] if len(pieces) == 1 else self._joined(pieces, along)).toreadonly()
            else:
                whole = self._mapped(pieces)
            self._maps[pieces] = whole
        return self._maps[pieces]

    def _mapped(self, pieces: tuple[bytes, ...], *, private: bool = False) -> memoryview:
        if self._store is None:
            raise SerializationError(f"blob {pieces[0].hex()} is in a store that this worker does not have")
        return self._store.map(*pieces, private=private)

    def _joined(self, pieces: tuple[bytes, ...], along: list[Payload]) -> bytearray:
        """A copy of pieces of which not all are in the store."""
        return bytearray().join(map(self._bytes, pieces, along))

    def _payload(self, blob: bytes) -> Payload:
        """The payload that was sent for a blob; an empty one if the blob is in the store."""
        if blob not in self._payloads:
            raise SerializationError(f"the task names blob {blob.hex()}, which was not sent along")
        return self._payloads[blob]

    def _bytes(self, blob: bytes, payload: Payload) -> Buffer:
        return payload[0] if payload else self.data(reference([blob], SHARED))

    def resolve(self, blob: bytes) -> Any:
        """Unpickle a blob: a new object each time.

        Raises:
            SerializationError: the blob was not sent to this slot, or cannot be unpickled here.
        """
        return loads(self.bytes_of(blob), f"blob {blob.hex()[:8]}")


class TaskBlobs:
    """The objects that one task has of its slot's blobs; made by `SlotBlobs.begin`."""

    __slots__ = ("_before", "_blobs", "_code", "_data", "_depth", "table")

    def __init__(self, table: SlotBlobs, blobs: Sequence[bytes], code: _Unpickled) -> None:
        self.table = table
        self._blobs = blobs
        self._code = code
        self._data: dict[bytes, tuple[Any, Watch]] = {}
        self._depth = 0
        self._before: TaskBlobs | None = this_thread.task
        this_thread.task = self
        code.namespace.begin()

    def end(self) -> None:
        """End the task: its objects go back to the slot, and the task below it in this thread goes on."""
        before = this_thread.task = self._before
        if before is None:
            this_thread.namespace = None
        else:
            before._code.namespace.begin()
        self.table.keep(self._blobs, self._code, self._data)

    def resolve(self, blob: bytes) -> Any:
        """Return the object that a blob stands for; the same one each time that this task asks."""
        code = self._code
        if self._depth:  # another blob refers to it, and it lives with that one
            code.namespace.uses += 1
            if blob not in code.inner:
                code.inner[blob] = self.table.resolve(blob)
            return code.inner[blob]
        if blob in code.objects:
            return code.objects[blob]
        if blob not in self._data:
            kept = self.table.kept_data(blob)
            if kept is None:
                return self._unpickle(blob)
            self._data[blob] = kept
        return self._data[blob][0]

    def _unpickle(self, blob: bytes) -> Any:
        code = self._code
        uses, unchanged = code.namespace.uses, code.unchanged()
        self._depth += 1
        try:
            obj = self.table.resolve(blob)
        finally:
            self._depth -= 1
        is_code = code.namespace.uses != uses
        self.table.learn(blob, is_code)
        if is_code:
            code.watch.unknown |= not unchanged  # what was unpickled before has changed other things
            code.add(blob, obj)
            code.key = None
        else:
            watch = Watch()
            watch.add(obj)
            self._data[blob] = (obj, watch)
        return obj


def resolve_blob(blob: bytes) -> Any:
    """Return the object that a blob stands for, in the task of this thread. Pickles call this for shared objects."""
    return _task().resolve(blob)


def resolve_copy(blob: bytes) -> Any:
    """Return a copy of the wrapper that a blob stands for: each task has its own. Pickles call this."""
    return copy_of_wrapper(_task().resolve(blob))


def _task() -> TaskBlobs:
    task: TaskBlobs | None = this_thread.task
    if task is None:
        raise SerializationError("a pickle that names blobs can only be loaded inside a task")
    return task
