"""Objects to bytes and back: cloudpickle, protocol 5, large buffers beside the pickle and not inside it.

A payload is `[pickle, buffer, buffer, ...]`. A buffer beside the pickle has at least `OUT_OF_BAND_BYTES`, so a
shorter one there is a *reference*: the names of the blobs that hold the bytes, and a letter for how to take them.

What many tasks of a call share, functions defined in `__main__` above all, is pickled once as a *blob* named by a hash
of its content, and every task's own pickle only names it: `sharing.py` on the sending side, `SlotBlobs` on
the receiving one. A task may change whatever it likes of what blobs are unpickled to: the next finds it as it was sent.
"""

from __future__ import annotations

import functools
import io
import pickle
import types
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import cloudpickle

from minidask.data.pieces import names_in, reference
from minidask.data.store import BlobStore
from minidask.errors import MinidaskError, SerializationError
from minidask.host.signals import pass_on
from minidask.pickling.arrays import reduction
from minidask.pickling.byvalue import (
    GlobalsOfModules,
    Namespace,
    reduce_cached,
    send_mp_main_by_value,
    this_thread,
    with_our_makers,
)
from minidask.pickling.functions import copy_of_wrapper, importable, is_wrapper
from minidask.pickling.tracebacks import code_with_its_file
from minidask.pickling.watch import Watch
from minidask.wire.frames import Buffer
from minidask.wire.large import LARGE_BYTES, OUT_OF_BAND_BYTES
from minidask.wire.messages import Payload

MAX_BUFFERS = 1024
SHARED, PRIVATE, HANDED_OVER = b"r", b"c", b"w"  # how a reference's bytes are mapped: see `data/store.py`
BY_NAME = b""  # in the place of a blob's name: the receiver imports the function


class _Reducers(dict[type, Callable[[Any], Any]]):
    """Also has those of cloudpickle and `copyreg`, with whatever is registered there later.

    A pickler asks once for each object, mostly in vain, and a `ChainMap` would make it half as fast.
    """

    tables = getattr(cloudpickle.Pickler.dispatch_table, "maps", [cloudpickle.Pickler.dispatch_table])

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        for table in self.tables:
            if kind in table:
                reducer: Callable[[Any], Any] = table[kind]
                return reducer
        raise KeyError(kind)


REDUCERS = _Reducers()
"""How instances of a class are pickled here, and only here; for the adapters to libraries."""


class Names(Protocol):
    """Gives what a pickle holds a name, so that it is sent once for all pickles; see `sharing.py`."""

    files: bool

    def find(self, obj: Any) -> bytes | None:
        """The blob that stands for `obj`, `BY_NAME` for a function that is imported, None for anything else."""

    def reference(self, raw: memoryview) -> bytes | None:
        """What stands for a buffer; None for one that goes along."""

    def contiguous(self, array: Any) -> Any:
        """A copy of an array whose elements do not lie side by side."""

    def refers_to(self, blob: bytes) -> list[bytes]:
        """The blobs that this one refers to."""


class _Beside:
    """What goes beside one pickle: its large buffers or references to them, and the names of the blobs it needs.

    Apart from the pickler, which would be in a cycle with its own callback: the data that it has met would stay
    until some garbage collection.
    """

    def __init__(self, interner: Names | None) -> None:
        self.interner = interner
        self.buffers: Payload = []
        self.named: list[bytes] = []

    def in_band(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether the buffer is to go into the pickle itself."""
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND_BYTES or len(self.buffers) >= MAX_BUFFERS:
            return True
        named = self.interner.reference(raw) if self.interner is not None else None
        if named is None:
            self.buffers.append(raw)
        else:
            for name in names_in(named):
                self.name(name)
            self.buffers.append(named)
        return False

    def name(self, blob: bytes) -> None:
        """The pickle needs this blob, and what that refers to."""
        if blob not in self.named:
            self.named.append(blob)
            if self.interner is not None:
                self.named += [other for other in self.interner.refers_to(blob) if other not in self.named]


_CACHED = type(functools.cache(len))


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler, with the large buffers kept beside and the shared objects named."""

    dispatch_table: ClassVar[Any] = REDUCERS

    def __init__(self, file: io.BytesIO, beside: _Beside) -> None:
        super().__init__(file, protocol=5, buffer_callback=beside.in_band)
        self._beside = beside
        self._interner = beside.interner
        if beside.interner is not None:
            self.globals_ref = GlobalsOfModules()

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is types.BuiltinFunctionType:
            return obj.__reduce__()
        if type(obj) is types.CodeType:
            return code_with_its_file(obj)
        if type(obj) is _CACHED and not importable(obj):
            return reduce_cached(obj)
        if self._interner is not None:
            blob = self._interner.find(obj)
            if blob:
                self._beside.name(blob)
                return resolve_copy if is_wrapper(obj) else resolve_blob, (blob,)
            if blob == BY_NAME:
                return NotImplemented
        interner = self._interner
        if interner is None:
            reduced = reduction(obj)
        else:
            reduced = reduction(obj, files=interner.files, lent=True, contiguous=interner.contiguous)
        return with_our_makers(obj, super().reducer_override(obj)) if reduced is NotImplemented else reduced


def dumps(obj: Any, what: str) -> Payload:
    """Pickle one object; `what` names it in the error.

    Raises:
        SerializationError: it cannot be pickled.
    """
    return dumps_naming(obj, what, None)[0]


def dumps_naming(obj: Any, what: str, interner: Names | None) -> tuple[Payload, list[bytes]]:
    """Pickle one object, with ids of blobs in the place of what the interner knows; returns those ids too.

    Raises:
        SerializationError: it cannot be pickled; `what` names it there.
    """
    send_mp_main_by_value()
    file, beside = io.BytesIO(), _Beside(interner)
    try:
        _Pickler(file, beside).dump(obj)
    except MinidaskError:
        raise
    except Exception as error:
        pass_on(error)
        raise SerializationError(
            f"{what} cannot be pickled, so it cannot be sent: {type(error).__name__}: {error}."
            " Look for open files, locks, connections or generators in it, and create those inside the task"
        ) from error
    return [file.getvalue(), *beside.buffers], beside.named


def loads(payload: Payload, what: str) -> Any:
    """Unpickle one object; `what` names it in the error.

    Raises:
        SerializationError: it cannot be unpickled here.
    """
    try:
        return pickle.loads(payload[0], buffers=map(_buffer, payload[1:]))
    except MinidaskError:
        raise
    except (Exception, SystemExit) as error:
        pass_on(error)
        raise SerializationError(f"{what} cannot be unpickled here: {type(error).__name__}: {error}") from error


def _buffer(part: Buffer) -> Buffer:
    """A buffer beside a pickle, or the bytes that it refers to."""
    return part if len(part) >= OUT_OF_BAND_BYTES else _task().table.data(bytes(part))


def handed_over(payload: Payload, store: BlobStore | None) -> Payload:
    """The payload of a result, its large buffers left in the store for the one that gets the rest."""
    if store is None or len(payload) == 1:
        return payload
    return [payload[0], *(_hand_over(part, store) for part in payload[1:])]


def _hand_over(part: Buffer, store: BlobStore) -> Buffer:
    name = store.hand_over(part) if len(part) >= LARGE_BYTES else None
    return part if name is None else reference([name], HANDED_OVER)


def left_in(payload: Payload) -> list[bytes]:
    """The names of what was left in a store of a result."""
    return [name for part in payload[1:] if len(part) < OUT_OF_BAND_BYTES for name in names_in(part)]


def taken(payload: Payload, take: Callable[[bytes], Buffer]) -> Payload:
    """The payload of a result, with what was left in a store.

    Args:
        take: gets what has this name.
    """
    if all(len(part) >= OUT_OF_BAND_BYTES for part in payload[1:]):
        return payload
    return [payload[0], *(_take(part, take) for part in payload[1:])]


def _take(part: Buffer, take: Callable[[bytes], Buffer]) -> Buffer:
    return part if len(part) >= OUT_OF_BAND_BYTES else take(names_in(part)[0])


_CODE, _DATA = "code", "data"
MAX_KEPT = 64


class _Unpickled:
    """What blobs were unpickled to, in one namespace, and the watch over it."""

    def __init__(self, to_process: bool) -> None:
        self.namespace = Namespace(to_process)
        self.objects: dict[bytes, Any] = {}
        self.inner: dict[bytes, Any] = {}
        """What blobs were unpickled to that are named by blobs."""
        self.watch = Watch()
        self.key: tuple[bytes, ...] | None = None
        """Which blobs of a task it is for; None before that is known."""
        self._size = 0

    def add(self, blob: bytes, obj: Any) -> None:
        """A blob was unpickled to this object."""
        self.objects[blob] = obj
        self.watch.add(obj, *(value for names in self.namespace.globals.values() for value in names.values()))
        self._size = self.namespace.size()

    def unchanged(self) -> bool:
        """Whether all is as it was when the last blob was unpickled."""
        return self.namespace.size() == self._size and self.watch.unchanged()


class SlotBlobs:
    """The blobs that one slot was sent, each unpickled when a task names it.

    What tasks may change is made anew for each, or, where that can be seen to be the same, given to one after another.
    Functions and classes that a task names may share what changes, a module's globals for one: they are kept together,
    for tasks that name the same ones. Scattered data is kept by itself.

    Arrays inside a blob are read-only, as joblib's memory maps are: no task may change what others see.

    Args:
        store: where blobs are that come without bytes.
        to_process: whether no other slot is in this process.
    """

    def __init__(self, store: BlobStore | None = None, *, to_process: bool = False) -> None:
        self._store = store
        self._whole_process = to_process
        self._payloads: dict[bytes, Payload] = {}
        self._maps: dict[tuple[bytes, ...], memoryview] = {}
        self._kinds: dict[bytes, str] = {}  # by blob that was unpickled, or was a buffer
        self._code: dict[tuple[bytes, ...], list[_Unpickled]] = {}  # at rest, by those of a task's blobs that are code
        self._data: dict[bytes, list[tuple[Any, Watch]]] = {}  # at rest
        self._worlds = {0: (self._code, self._data)}
        self._last: tuple[Sequence[bytes], tuple[bytes, ...] | None] = ((), None)  # a task's blobs, and `_key` of them

    def put(self, blob: bytes, payload: Payload) -> None:
        self._payloads[blob] = [memoryview(part).toreadonly() for part in payload]

    def forget(self, blob: bytes) -> None:
        self._payloads.pop(blob, None)
        self._kinds.pop(blob, None)
        self._last = ((), None)
        for names in [names for names in self._maps if blob in names]:
            del self._maps[names]
        for code, data in self._worlds.values():
            data.pop(blob, None)
            for key in [key for key, kept in code.items() if blob in key or any(blob in one.inner for one in kept)]:
                del code[key]

    def enter(self, world: int) -> None:
        """From now on, what is unpickled belongs to one set of modules: the same blob is another object in another."""
        self._code, self._data = self._worlds.setdefault(world, ({}, {}))

    def leave_for_good(self, world: int) -> None:
        """These modules will not come again."""
        self._worlds.pop(world, None)

    def bytes_of(self, blob: bytes) -> Payload:
        """A blob as it was sent."""
        return self._payload(blob) or [self.data(reference([blob], SHARED))]

    def begin(self, blobs: Sequence[bytes], payload: Payload) -> TaskBlobs:
        """A task begins, in this thread: what it unpickles is its own until `TaskBlobs.end`."""
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
        """Those of a task's blobs that are code; None if some were never unpickled."""
        kinds = self._kinds
        new = [blob for blob in blobs if blob not in kinds]
        if new and not _named_beside(payload).issuperset(new):
            return None
        key = tuple([blob for blob in blobs if kinds.get(blob) is _CODE])
        self._last = (blobs, key)
        return key

    def keep(self, blobs: Sequence[bytes], code: _Unpickled, data: dict[bytes, tuple[Any, Watch]]) -> None:
        """A task has ended; the next one may have what it used, if that is found unchanged then."""
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
        """What a blob of data was unpickled to, if it was and is still the same."""
        kept = self._data.get(blob)
        while kept:
            made = kept.pop()
            if made[1].unchanged():
                return made
        return None

    def learn(self, blob: bytes, is_code: bool) -> None:
        """What a blob of a task has turned out to be."""
        self._kinds[blob] = _CODE if is_code else _DATA
        self._last = ((), None)

    def data(self, named: bytes) -> Buffer:
        """The bytes of a large buffer, given what stands for it."""
        names, mode = names_in(named), named[-1:]
        for name in names:
            self._kinds.setdefault(name, _DATA)
        along = [self._payload(name) for name in names]
        if mode == PRIVATE:
            return self._joined(names, along) if any(along) else self._mapped(names, private=True)
        if names not in self._maps:
            if any(along):
                whole = memoryview(along[0][0] if len(names) == 1 else self._joined(names, along)).toreadonly()
            else:
                whole = self._mapped(names)
            self._maps[names] = whole
        return self._maps[names]

    def _mapped(self, names: tuple[bytes, ...], *, private: bool = False) -> memoryview:
        if self._store is None:
            raise SerializationError(f"blob {names[0].hex()} is in a store that this worker does not have")
        return self._store.map(*names, private=private)

    def _joined(self, names: tuple[bytes, ...], along: list[Payload]) -> bytearray:
        """A copy of pieces of which not all are in the store."""
        return bytearray().join(map(self._bytes, names, along))

    def _payload(self, blob: bytes) -> Payload:
        """What came of a blob: nothing, if it is in the store."""
        if blob not in self._payloads:
            raise SerializationError(f"the task names blob {blob.hex()}, which was not sent along")
        return self._payloads[blob]

    def _bytes(self, blob: bytes, payload: Payload) -> Buffer:
        return payload[0] if payload else self.data(reference([blob], SHARED))

    def resolve(self, blob: bytes) -> Any:
        """Unpickle a blob."""
        return loads(self.bytes_of(blob), f"blob {blob.hex()[:8]}")


class TaskBlobs:
    """What one task has of its slot's blobs; made by `SlotBlobs.begin`."""

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
        """The task is over, and the one below it goes on."""
        before = this_thread.task = self._before
        if before is None:
            this_thread.namespace = None
        else:
            before._code.namespace.begin()
        self.table.keep(self._blobs, self._code, self._data)

    def resolve(self, blob: bytes) -> Any:
        """What a blob stands for; the same object each time."""
        code = self._code
        if self._depth:  # it is named by another blob, and lives with that
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


def run_apart(payload: Payload) -> Any:
    """Run the call that was pickled to this as if it had been sent to a slot: it leaves nothing behind here.

    Raises:
        SerializationError: its result cannot be sent.
        Exception: whatever it raises.
    """
    around: TaskBlobs | None = this_thread.task
    task = (around.table if around is not None else SlotBlobs()).begin([], payload)
    raised: Exception | None = None
    try:
        function, args = loads([payload[0], *map(_own_copy, payload[1:])], "a nested call")
        try:
            result = function(*args)
        except Exception as error:  # noqa: BLE001 - it is raised below, as the caller knows it
            result, raised = error, error
        result = dumps(result, f"the result of a nested call, of type {type(result).__name__},")
    except SerializationError:
        if raised is None:
            raise
        raise raised from None
    finally:
        task.end()
    result = loads(result, "the result of a nested call")
    if raised is not None:
        raise result.with_traceback(raised.__traceback__)
    return result


def _own_copy(part: Buffer) -> Buffer:
    """A buffer as one that was sent is seen: a large one read-only."""
    return bytearray(part) if len(part) < LARGE_BYTES else memoryview(part).toreadonly()


def _named_beside(payload: Payload) -> set[bytes]:
    """The names of the blobs that stand in the place of a task's buffers."""
    return {name for part in payload[1:] if len(part) < OUT_OF_BAND_BYTES for name in names_in(part)}


def resolve_blob(blob: bytes) -> Any:
    """What a pickle calls in the place of a shared object."""
    return _task().resolve(blob)


def resolve_copy(blob: bytes) -> Any:
    """The same for a wrapper of a function, of which each task has its own."""
    return copy_of_wrapper(_task().resolve(blob))


def _task() -> TaskBlobs:
    task: TaskBlobs | None = this_thread.task
    if task is None:
        raise SerializationError("a pickle that names blobs can only be loaded inside a task")
    return task
