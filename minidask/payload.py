"""Objects to bytes and back: cloudpickle, protocol 5, large buffers beside the pickle and not inside it.

A payload is `[pickle, buffer, buffer, ...]`. A buffer beside the pickle has at least `OUT_OF_BAND_BYTES`, so a
shorter one there is a *reference*: the name of a blob that holds the bytes, and a letter for how to take them.

What many tasks of a call share, functions defined in
`__main__` above all, is pickled once as a *blob* named by a hash of its content, and every task's own
pickle only names it: `Interner` on the sending side, `BlobTable` on the receiving one.
"""

from __future__ import annotations

import collections
import io
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import cloudpickle

from minidask.blobstore import BlobStore, blob_id
from minidask.errors import MinidaskError, SerializationError
from minidask.functions import Key, copy_of_wrapper, fingerprint, importable, is_wrapper, parts_of_wrapper
from minidask.wire.frames import Buffer
from minidask.wire.messages import Payload

OUT_OF_BAND_BYTES = 32 * 1024
MAX_BUFFERS = 1024
LARGE_BYTES = 1024 * 1024  # as joblib's `max_nbytes`
REPEATED_BYTES = 64 * 1024
MAX_REPEATED = 256
MAX_TWINS = 100
BLOB_ID_BYTES = 16
SHARED, PRIVATE, HANDED_OVER = b"r", b"c", b"w"  # how a reference's bytes are mapped: see `blobstore.py`
BY_NAME = b""  # in the place of a blob's name: the receiver imports the function


Place = tuple[int, int]


class Scattered:
    """A handle on data that `Client.scatter` has sent ahead; pass it, at any depth, where a task takes the data.

    It holds the data on the cluster until it is released, or dropped.

    Args:
        blob: what stands for the data.
        parts: the blobs of the large buffers inside it.
        kind: the name of its type.
        release: called with all those names, once, when they are needed no more.
        dropped: the same, from a garbage collection.
    """

    def __init__(
        self,
        blob: bytes,
        parts: list[bytes],
        kind: str,
        release: Callable[[list[bytes]], None],
        dropped: Callable[[list[bytes]], None],
    ) -> None:
        self.blob = blob
        self.parts = parts
        self._kind = kind
        self._release = release
        self._dropped = dropped

    def release(self) -> None:
        """Let the cluster forget the data once the tasks that already use it have ended."""
        release, self._release, self._dropped = self._release, _do_nothing, _do_nothing
        release([self.blob, *self.parts])

    def __del__(self) -> None:
        self._dropped([self.blob, *self.parts])

    def __reduce__(self) -> Any:
        raise SerializationError("a scattered handle can only be sent as an argument of a task of its own client")

    def __repr__(self) -> str:
        return f"<minidask.Scattered {self._kind} {self.blob.hex()[:8]}>"


def _do_nothing(blobs: list[bytes]) -> None:
    pass


class Interner:
    """Gives the objects that a call's tasks share a name, and ships each of them once.

    Args:
        put: called with a blob's name and payload; holds it, once for each call.
        drop: called with the names of blobs to hold once less, from anywhere: a garbage collection may do it.
        functions: whether to ship functions and classes that cannot be imported; else only scattered handles
            get a name.
        large: buffers of at least so many bytes become blobs too; None: none do.
        mode: whether tasks see those read-only, `SHARED`, or as a copy of their own, `PRIVATE`.
    """

    def __init__(
        self,
        put: Callable[[bytes, Payload], None],
        drop: Callable[[list[bytes]], None],
        *,
        functions: bool = True,
        large: int | None = None,
        mode: bytes = SHARED,
    ) -> None:
        self._put = put
        self._drop = drop
        self._functions = functions
        self._large = large
        self._mode = mode
        self._data: dict[Place, tuple[weakref.ref[Any], bytes]] = {}
        self._gone: collections.deque[bytes] = collections.deque()
        self._seen: set[bytes] = set()
        self._known: dict[int, tuple[Any, bytes]] = {}  # by id(); the object is held so that the id stays its own
        self._twins: dict[Key, tuple[Key, bytes]] = {}  # by `fingerprint`: what keeps its ids, and the blob
        self._copies: dict[int, tuple[weakref.ref[Any], Any]] = {}  # by id()
        self._shipped: set[bytes] = set()
        self._parts: dict[bytes, list[bytes]] = {}

    def begin(self) -> None:
        """The next task is pickled, so the one before it is on its way, and holds what it needs."""
        while self._gone:
            self._drop([self._gone.popleft()])

    def close(self) -> None:
        """No more tasks will come."""
        self._copies.clear()
        self.begin()
        data, self._data = self._data, {}
        self._drop([*self._shipped, *(blob for _, blob in data.values())])
        self._shipped.clear()

    def alias(self, obj: Any, handle: Scattered) -> None:
        """From now on, `obj` (by identity) is sent as what the handle stands for."""
        self._known[id(obj)] = (obj, handle.blob)
        self._parts[handle.blob] = handle.parts

    def parts(self, blob: bytes) -> list[bytes]:
        """The blobs that this one refers to."""
        return self._parts.get(blob, [])

    def find(self, obj: Any) -> bytes | None:
        """The blob that stands for `obj`, `BY_NAME` for what is imported, None for anything else."""
        known = self._known.get(id(obj))
        if known is not None:
            return known[1]
        kind = type(obj)
        if not self._functions:
            return self.find_data(obj)
        if kind is types.FunctionType:
            return (
                BY_NAME if self._is_imported(obj) else self._find_twin(obj, f"function {obj.__qualname__}", fingerprint)
            )
        if isinstance(obj, type):
            return None if obj.__module__ == "builtins" else self._find_class(obj)
        if is_wrapper(obj):
            return self._find_twin(obj, "scikit-learn's wrapper of a function", parts_of_wrapper)
        return self.find_data(obj)

    def _is_imported(self, obj: Any) -> bool:
        imported = importable(obj)
        if imported:
            self._known[id(obj)] = (obj, BY_NAME)
        return imported

    def _find_class(self, cls: type) -> bytes:
        if self._is_imported(cls):
            return BY_NAME
        blob = self._define(cls, f"class {cls.__qualname__}")
        self._known[id(cls)] = (cls, blob)
        return blob

    def _find_twin(self, obj: Any, what: str, parts: Callable[[Any], tuple[Key, Key]]) -> bytes | None:
        """The blob of an object that consists of the same parts; None if there are too many different ones."""
        key, held = parts(obj)
        twin = self._twins.get(key)
        if twin is None:
            if len(self._twins) >= MAX_TWINS:
                return None  # most likely each task has a closure of its own: it goes along
            twin = self._twins[key] = (held, self._define(obj, what))
        return twin[1]

    def _define(self, obj: Any, what: str) -> bytes:
        payload, parts = dumps_naming(obj, what, _InFunction(self))
        blob = blob_id(payload)
        self._ship(blob, payload)
        self._parts[blob] = parts
        return blob

    def find_data(self, obj: Any) -> bytes | None:
        """As `find`, for what was scattered."""
        known = self._known.get(id(obj))
        if known is not None:
            return known[1]
        if type(obj) is Scattered:
            self._parts[obj.blob] = obj.parts
            return obj.blob
        return None

    def contiguous(self, array: Any) -> Any:
        """A copy of an array whose elements do not lie side by side: NumPy would pickle all of it for each task."""
        if not self._functions:
            return array.copy()
        known = self._copies.get(id(array))
        if known is None:
            number = id(array)
            forget = weakref.ref(array, lambda _: self._copies.pop(number, None))
            known = self._copies[number] = (forget, array.copy())
        return known[1]

    def reference(self, raw: memoryview) -> bytes | None:
        """What stands for a buffer whose bytes are shipped once for all tasks; None for one that goes along.

        A large one is looked at once in a call, as joblib does it. A smaller one goes along the first time and is
        shipped when it comes again, then as each task's own copy: tasks may write to it, as to any other argument.
        """
        if self._large is None or raw.nbytes < REPEATED_BYTES:
            return None
        if raw.nbytes < self._large:
            return self._repeated(raw)
        place = _place(raw)
        if place is None:
            blob = blob_id([raw])
            self._ship(blob, [raw])
        elif place in self._data:
            blob = self._data[place][1]
        else:
            blob = blob_id([raw])
            self._put(blob, [raw])
            self._data[place] = (weakref.ref(_owner(raw.obj, place), lambda _: self._forget(place)), blob)
        return blob + self._mode

    def reference_in_function(self, raw: memoryview) -> bytes | None:
        """As `reference`, for what a function holds: all its calls in a slot share that, so none may write to it.

        It is held as long as the function is, also where the buffer is a copy that was made to be pickled.
        """
        if self._large is None or raw.nbytes < self._large:
            return None
        blob = blob_id([raw])
        self._ship(blob, [raw])
        return blob + SHARED

    def _forget(self, place: Place) -> None:
        """The array is gone, so no more tasks will take it, and another one may come to lie there.

        It may have been made to be pickled, for a task that does not hold the blob yet: hence `begin`.
        """
        entry = self._data.pop(place, None)
        if entry is not None:
            self._gone.append(entry[1])

    def _repeated(self, raw: memoryview) -> bytes | None:
        blob = blob_id([raw])
        if blob not in self._seen or (blob not in self._shipped and len(self._shipped) >= MAX_REPEATED):
            self._seen.add(blob)
            return None
        self._ship(blob, [raw])
        return blob + PRIVATE

    def _ship(self, blob: bytes, payload: Payload) -> None:
        if blob not in self._shipped:
            self._put(blob, payload)
            self._shipped.add(blob)


class _InFunction:
    """Gives the large data that a function holds a name; functions in it go along: they may refer to one another."""

    def __init__(self, interner: Interner) -> None:
        self.find = interner.find_data
        self.reference = interner.reference_in_function
        self.parts = interner.parts
        self.contiguous = interner.contiguous


def _place(raw: memoryview) -> Place | None:
    """Where in memory a NumPy array's buffer lies, and its size; None for what does not tell."""
    interface = getattr(raw.obj, "__array_interface__", None)
    return (interface["data"][0], raw.nbytes) if interface else None


def _is_scattered_in_memory(obj: Any) -> bool:
    """Whether this is a large NumPy array without one buffer that holds it, such as a slice of columns."""
    numpy = sys.modules.get("numpy")
    if numpy is None or type(obj) is not numpy.ndarray or obj.nbytes < OUT_OF_BAND_BYTES:
        return False
    return not (obj.flags.c_contiguous or obj.flags.f_contiguous or obj.dtype.hasobject)


def _owner(array: Any, place: Place) -> Any:
    """The array that lives as long as the data: NumPy pickles a Fortran-ordered one through a view made for that."""
    base: Any = getattr(array, "base", None)
    interface = getattr(base, "__array_interface__", None)
    return base if interface and base is not None and (interface["data"][0], base.nbytes) == place else array


class _Beside:
    """What goes beside one pickle: its large buffers or references to them, and the names of the blobs it needs.

    Apart from the pickler, which would be in a cycle with its own callback: the data that it has met would stay
    until some garbage collection.
    """

    def __init__(self, interner: Interner | _InFunction | None) -> None:
        self.interner = interner
        self.buffers: Payload = []
        self.named: list[bytes] = []

    def in_band(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether the buffer is to go into the pickle itself."""
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND_BYTES or len(self.buffers) >= MAX_BUFFERS:
            return True
        reference = self.interner.reference(raw) if self.interner is not None else None
        if reference is None:
            self.buffers.append(raw)
        else:
            self.name(reference[:BLOB_ID_BYTES])
            self.buffers.append(reference)
        return False

    def name(self, blob: bytes) -> None:
        """The pickle needs this blob, and what that refers to."""
        if blob not in self.named:
            self.named.append(blob)
            if self.interner is not None:
                self.named += [part for part in self.interner.parts(blob) if part not in self.named]


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler, with the large buffers kept beside and the shared objects named."""

    def __init__(self, file: io.BytesIO, beside: _Beside) -> None:
        super().__init__(file, protocol=5, buffer_callback=beside.in_band)
        self._beside = beside
        self._interner = beside.interner

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is types.BuiltinFunctionType:
            return obj.__reduce__()
        if self._interner is not None:
            blob = self._interner.find(obj)
            if blob:
                self._beside.name(blob)
                return resolve_copy if is_wrapper(obj) else resolve_blob, (blob,)
            if blob == BY_NAME:
                return NotImplemented
            if _is_scattered_in_memory(obj):
                return self._interner.contiguous(obj).__reduce_ex__(5)
        return super().reducer_override(obj)


def dumps(obj: Any, what: str) -> Payload:
    """Pickle one object; `what` names it in the error.

    Raises:
        SerializationError: it cannot be pickled.
    """
    return dumps_naming(obj, what, None)[0]


def dumps_naming(obj: Any, what: str, interner: Interner | _InFunction | None) -> tuple[Payload, list[bytes]]:
    """As `dumps`, with what the interner knows sent by name; also returns the names used."""
    file, beside = io.BytesIO(), _Beside(interner)
    if isinstance(interner, Interner):
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
        return store.hand_over(part) + HANDED_OVER
    except OSError:  # there is no room: it goes along with the rest
        return part


def left_in(payload: Payload) -> list[bytes]:
    """The names of what was left in a store of a result."""
    return [bytes(part[:BLOB_ID_BYTES]) for part in payload[1:] if len(part) < OUT_OF_BAND_BYTES]


def taken(payload: Payload, take: Callable[[bytes], Buffer]) -> Payload:
    """The payload of a result, with what was left in a store.

    Args:
        take: gets what has this name.
    """
    if all(len(part) >= OUT_OF_BAND_BYTES for part in payload[1:]):
        return payload
    return [payload[0], *(_take(part, take) for part in payload[1:])]


def _take(part: Buffer, take: Callable[[bytes], Buffer]) -> Buffer:
    return part if len(part) >= OUT_OF_BAND_BYTES else take(bytes(part[:BLOB_ID_BYTES]))


class BlobTable:
    """The blobs that one slot was sent, each unpickled when a task first names it and shared by later tasks.

    Arrays inside a blob are read-only, as joblib's memory maps are: no task may change what others see.

    Args:
        store: where blobs are that come without bytes.
    """

    def __init__(self, store: BlobStore | None = None) -> None:
        self._store = store
        self._payloads: dict[bytes, Payload] = {}
        self._maps: dict[bytes, memoryview] = {}
        self._objects: dict[bytes, Any] = {}
        self._states: dict[int, bytes] = {}  # by id of a class: the blob that it was last made from

    def put(self, blob: bytes, payload: Payload) -> None:
        self._payloads[blob] = [memoryview(part).toreadonly() for part in payload]

    def forget(self, blob: bytes) -> None:
        self._payloads.pop(blob, None)
        self._maps.pop(blob, None)
        obj = self._objects.pop(blob, None)
        if self._states.get(id(obj)) == blob:
            del self._states[id(obj)]

    def data(self, reference: bytes) -> Buffer:
        """The bytes of a large buffer."""
        blob, mode = reference[:BLOB_ID_BYTES], reference[BLOB_ID_BYTES:]
        payload = self._payloads.get(blob)
        if payload is None:
            raise SerializationError(f"the task names blob {blob.hex()}, which was not sent along")
        if payload:
            return payload[0] if mode == SHARED else bytearray(payload[0])
        if self._store is None:
            raise SerializationError(f"blob {blob.hex()} is in a store that this worker does not have")
        if mode == PRIVATE:
            return self._store.map(blob, private=True)
        if blob not in self._maps:
            self._maps[blob] = self._store.map(blob)
        return self._maps[blob]

    def resolve(self, blob: bytes) -> Any:
        if blob not in self._objects or self._states.get(id(self._objects[blob]), blob) != blob:
            obj = self._objects[blob] = self._load(blob)
            if isinstance(obj, type):
                self._states[id(obj)] = blob  # another blob may be the same class, changed: it is then that again
        return self._objects[blob]

    def _load(self, blob: bytes) -> Any:
        if blob not in self._payloads:
            raise SerializationError(f"the task names blob {blob.hex()}, which was not sent along")
        payload = self._payloads[blob] or [self.data(blob + SHARED)]
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
