"""Objects to bytes and back: cloudpickle, protocol 5, large buffers beside the pickle and not inside it.

A payload is `[pickle, buffer, buffer, ...]`. A buffer beside the pickle has at least `OUT_OF_BAND_BYTES`, so a
shorter one there is a *reference*: the names of the blobs that hold the bytes, and a letter for how to take them.

What many tasks of a call share, functions defined in `__main__` above all, is pickled once as a *blob* named by a hash
of its content, and every task's own pickle only names it: `interning.py` on the sending side, `BlobTable` on
the receiving one.
"""

from __future__ import annotations

import collections
import io
import pickle
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import cloudpickle

from minidask.arrays import reduction
from minidask.blobstore import BlobStore
from minidask.errors import MinidaskError, SerializationError
from minidask.functions import copy_of_wrapper, is_wrapper
from minidask.pieces import names_in, reference
from minidask.tracebacks import code_with_its_file
from minidask.wire.frames import Buffer
from minidask.wire.messages import Payload

OUT_OF_BAND_BYTES = 32 * 1024
MAX_BUFFERS = 1024
LARGE_BYTES = 1024 * 1024  # as joblib's `max_nbytes`
SHARED, PRIVATE, HANDED_OVER = b"r", b"c", b"w"  # how a reference's bytes are mapped: see `blobstore.py`
BY_NAME = b""  # in the place of a blob's name: the receiver imports the function


REDUCERS: dict[type, Callable[[Any], Any]] = {}
"""How instances of a class are pickled here, and only here; for the adapters to libraries."""


class Names(Protocol):
    """Gives what a pickle holds a name, so that it is sent once for all pickles; see `interning.py`."""

    files: bool

    def begin(self) -> None:
        """A pickle begins."""

    def find(self, obj: Any) -> bytes | None:
        """The blob that stands for `obj`, `BY_NAME` for a function that is imported, None for anything else."""

    def reference(self, raw: memoryview) -> bytes | None:
        """What stands for a buffer; None for one that goes along."""

    def contiguous(self, array: Any) -> Any:
        """A copy of an array whose elements do not lie side by side."""

    def parts(self, blob: bytes) -> list[bytes]:
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
                self.named += [part for part in self.interner.parts(blob) if part not in self.named]


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler, with the large buffers kept beside and the shared objects named."""

    dispatch_table: ClassVar[Any] = collections.ChainMap(REDUCERS, cloudpickle.Pickler.dispatch_table)

    def __init__(self, file: io.BytesIO, beside: _Beside) -> None:
        super().__init__(file, protocol=5, buffer_callback=beside.in_band)
        self._beside = beside
        self._interner = beside.interner

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is types.BuiltinFunctionType:
            return obj.__reduce__()
        if type(obj) is types.CodeType:
            return code_with_its_file(obj)
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
        return super().reducer_override(obj) if reduced is NotImplemented else reduced


def dumps(obj: Any, what: str) -> Payload:
    """Pickle one object; `what` names it in the error.

    Raises:
        SerializationError: it cannot be pickled.
    """
    return dumps_naming(obj, what, None)[0]


def dumps_naming(obj: Any, what: str, interner: Names | None) -> tuple[Payload, list[bytes]]:
    """As `dumps`, with what the interner knows sent by name; also returns the names used."""
    file, beside = io.BytesIO(), _Beside(interner)
    if interner is not None:
        interner.begin()
    try:
        _Pickler(file, beside).dump(obj)
    except MinidaskError:
        raise
    except Exception as error:
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
    except SerializationError:
        raise
    except Exception as error:
        hint = ""
        if isinstance(error, ModuleNotFoundError):
            hint = f". Install {error.name!r} for {sys.executable} (Python {sys.version.split()[0]})"
        raise SerializationError(f"{what} cannot be unpickled here: {type(error).__name__}: {error}{hint}") from error


def _buffer(part: Buffer) -> Buffer:
    """A buffer beside a pickle, or the bytes that it refers to."""
    return part if len(part) >= OUT_OF_BAND_BYTES else _table().data(bytes(part))


def handed_over(payload: Payload, store: BlobStore | None) -> Payload:
    """The payload of a result, its large buffers left in the store for the one that gets the rest."""
    if store is None or len(payload) == 1:
        return payload
    return [payload[0], *(_hand_over(part, store) for part in payload[1:])]


def _hand_over(part: Buffer, store: BlobStore) -> Buffer:
    if len(part) < LARGE_BYTES:
        return part
    try:
        return reference([store.hand_over(part)], HANDED_OVER)
    except OSError:  # there is no room: it goes along with the rest
        return part


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


class BlobTable:
    """The blobs that one slot was sent, each unpickled when a task first names it and shared by later tasks.

    Arrays inside a blob are read-only, as joblib's memory maps are: no task may change what others see.

    Args:
        store: where blobs are that come without bytes.
    """

    def __init__(self, store: BlobStore | None = None) -> None:
        self._store = store
        self._payloads: dict[bytes, Payload] = {}
        self._maps: dict[tuple[bytes, ...], memoryview] = {}
        self._objects: dict[bytes, Any] = {}
        self._states: dict[int, bytes] = {}  # by id of a class: the blob that it was last made from

    def put(self, blob: bytes, payload: Payload) -> None:
        self._payloads[blob] = [memoryview(part).toreadonly() for part in payload]

    def forget(self, blob: bytes) -> None:
        self._payloads.pop(blob, None)
        for names in [names for names in self._maps if blob in names]:
            del self._maps[names]
        obj = self._objects.pop(blob, None)
        if self._states.get(id(obj)) == blob:
            del self._states[id(obj)]

    def data(self, named: bytes) -> Buffer:
        """The bytes of a large buffer, given what stands for it."""
        names, mode = names_in(named), named[-1:]
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
        if blob not in self._objects or self._states.get(id(self._objects[blob]), blob) != blob:
            obj = self._objects[blob] = self._load(blob)
            if isinstance(obj, type):
                self._states[id(obj)] = blob  # another blob may be the same class, changed: it is then that again
        return self._objects[blob]

    def _load(self, blob: bytes) -> Any:
        payload = self._payload(blob) or [self.data(reference([blob], SHARED))]
        return loads(payload, f"blob {blob.hex()[:8]}")


_current = threading.local()


def use_blobs(table: BlobTable) -> None:
    """From now on, what this thread unpickles finds its blobs in `table`."""
    _current.table = table


def resolve_blob(blob: bytes) -> Any:
    """What a pickle calls in the place of a shared object."""
    return _table().resolve(blob)


def resolve_copy(blob: bytes) -> Any:
    """The same for a wrapper of a function, of which each task has its own."""
    return copy_of_wrapper(_table().resolve(blob))


def _table() -> BlobTable:
    table: BlobTable | None = getattr(_current, "table", None)
    if table is None:
        raise SerializationError("a pickle that names blobs can only be loaded inside a task")
    return table
