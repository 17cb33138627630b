"""Naming by content: what the tasks of a call share is pickled once, sent once, and named by a hash of its bytes.

A call of `Parallel` makes a thousand tasks of one function and one matrix. Each task's own pickle is to be small, and
neither is to be sent a thousand times. So what they share becomes a *blob*: bytes under the id that is their hash. A
task's pickle only says "blob 3f2a…", and a worker that has that blob needs nothing more. The hash also finds what no
identity would: the same matrix in the next call is known by its id, be it another object by then.

    pickling a task ─► find(object)       ─► an id, in the place of the object
                    ─► reference(buffer)  ─► ids and a letter, in the place of the buffer
                           └─ the first time ─► `unsent` ─► the shell of the client announces it

An `Interner` keeps what one call shares. The hard question is when two things are the same, without pickling both:

1. A function: by what it consists of (`fingerprint`). A lambda in a comprehension is a new object for each task, and
   the same code, globals and closure nearly always. A closure whose variable has changed is another function. There are
   at most `MAX_TWINS` of them: a call with more has most likely one for each task, and these go along.
2. A class: by identity. A class that can be imported is not sent at all.
3. A large buffer: by place, its address and size in memory. Hashing 1 GB takes 40 ms and is done once. A weak
   reference to the array says when another one may come to lie there.
4. A buffer of some size below that: by its hash, each time, for users do reuse a small buffer with other content. It
   goes along when it first comes; only one that comes again becomes a blob.
5. A view with gaps: NumPy would pickle all of it into each task. It is copied once (`contiguous`), and the copy is
   known by the view.

How long a blob is held, so that the cluster keeps it. What a function refers to: as long as the call goes on, for the
function is pickled once, and NumPy pickles some arrays through a view that is gone at once. What an argument refers to:
as long as its array lives, for an array that each task has of its own must not pile up. The array may have been made
only to be pickled, and be gone before its task is sent. Hence its blobs wait in `_gone` until the next task is pickled:
then the task before it is on its way, and holds what it needs itself.

Functions inside a shared function go along with it and get no id of their own. They may refer to one
another, and no hash can contain itself. The data in them does get an id. It is read-only, for all calls in a slot share
it.

Pickling sends nothing. The shell of the client announces the blobs in `unsent` before it sends the task. They wait in a
queue, and are not returned by the pickler: a second thread may pickle a task that refers to the same blobs, before the
first thread has announced them. It then announces them itself.
"""

from __future__ import annotations

import collections
import functools
import io
import pickle
import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import cloudpickle

from minidask.data.pieces import cut, names_in, reference, side_by_side
from minidask.errors import MinidaskError, SerializationError
from minidask.host.signals import pass_on
from minidask.pickling.arrays import reduction
from minidask.pickling.byvalue import GlobalsOfModules, reduce_cached, send_mp_main_by_value, with_our_makers
from minidask.pickling.functions import Key, fingerprint, fingerprint_of_wrapper, importable, is_wrapper
from minidask.pickling.payload import PRIVATE, SHARED, resolve_blob, resolve_copy
from minidask.pickling.scattered import Scattered
from minidask.pickling.tracebacks import code_with_its_file
from minidask.wire.large import OUT_OF_BAND_BYTES, REPEATED_BYTES, blob_id
from minidask.wire.messages import Payload

BY_NAME = b""  # in the place of a blob's id: the receiver imports the function
MAX_BUFFERS = 1024
MAX_REPEATED = 256
MAX_TWINS = 100

Place = tuple[int, int]


class _Reducers(dict[type, Callable[[Any], Any]]):
    """Reducers by class. Those of cloudpickle and `copyreg` count too, also if they are registered later.

    A pickler asks once for each object, and mostly finds none. With a `ChainMap` it would be half as fast.
    """

    tables = getattr(cloudpickle.Pickler.dispatch_table, "maps", [cloudpickle.Pickler.dispatch_table])

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        for table in self.tables:
            if kind in table:
                reducer: Callable[[Any], Any] = table[kind]
                return reducer
        raise KeyError(kind)


REDUCERS = _Reducers()
"""How instances of a class are pickled by minidask alone, and not by cloudpickle; for the adapters to libraries."""


class Interner:
    """Makes blobs of the objects that a call's tasks share, and finds them again. It sends nothing.

    New blobs wait in `unsent` until the shell of the client has sent them. Blobs of arrays that are gone wait until
    `take_gone` is called.

    Args:
        functions: whether functions and classes that cannot be imported become blobs; else only scattered handles
            stand for blobs.
        large: buffers of at least so many bytes become blobs too; None: none do.
        mode: whether tasks see those buffers read-only, `SHARED`, or as a copy of their own, `PRIVATE`.
        files: whether tasks run on this machine, and find files under the same names.
    """

    def __init__(
        self, *, functions: bool = True, large: int | None = None, mode: bytes = SHARED, files: bool = False
    ) -> None:
        self.files = files
        self.unsent: collections.deque[Mapping[bytes, Payload]] = collections.deque()
        """Payloads of new blobs, by id. Each entry holds its blobs once."""
        self._functions = functions
        self._large = large
        self._mode = mode
        self._data: dict[Place, tuple[weakref.ref[Any], list[bytes]]] = {}
        self._gone: collections.deque[list[bytes]] = collections.deque()
        self._seen: set[bytes] = set()
        self._known: dict[int, tuple[Any, bytes]] = {}  # by id(); the object is held so that the id stays its own
        self._twins: dict[Key, tuple[Key, bytes]] = {}  # by `fingerprint`: what keeps its ids, and the blob
        self._copies: dict[int, tuple[weakref.ref[Any], Any]] = {}  # by id()
        self._shipped: set[bytes] = set()
        self._refers_to: dict[bytes, list[bytes]] = {}

    def take_gone(self) -> list[bytes]:
        """Return the blobs of arrays that are gone, to be held once less.

        To be called before a task is pickled: the one before it is on its way then, and holds what it needs itself.
        """
        gone: list[bytes] = []
        while self._gone:
            gone += set(self._gone.popleft())
        return gone

    def close(self) -> list[bytes]:
        """Forget all objects of the call, which has no more tasks. Returns the ids of blobs to be held once less."""
        self._copies.clear()
        data, self._data = self._data, {}
        gone = [*self._shipped, *(blob for _, blobs in list(data.values()) for blob in set(blobs))]
        self._shipped.clear()
        return gone + self.take_gone()  # last: an array may be gone meanwhile, in another thread

    def forget_unsent(self) -> None:
        """Forget the new blobs, which cannot be sent. The next task that needs one makes it again."""
        lost = {blob for blobs in self.unsent for blob in blobs}
        self.unsent.clear()
        self._shipped -= lost
        self._data = {place: entry for place, entry in self._data.items() if lost.isdisjoint(entry[1])}
        self._twins = {key: twin for key, twin in self._twins.items() if twin[1] not in lost}
        self._known = {number: known for number, known in self._known.items() if known[1] not in lost}

    def alias(self, obj: Any, handle: Scattered) -> None:
        """Send the data of a scattered handle in the place of this very object from now on."""
        self._known[id(obj)] = (obj, handle.blob)
        self._refers_to[handle.blob] = handle.refers_to

    def refers_to(self, blob: bytes) -> list[bytes]:
        """Return the ids of the blobs that this blob refers to."""
        return self._refers_to.get(blob, [])

    def find(self, obj: Any, in_function: bool = False) -> bytes | None:
        """Return the id of the blob that stands for an object. A function or class that is new becomes a blob.

        Args:
            in_function: whether the object is in one that is about to become a blob. A new function goes along there.

        Returns:
            `BY_NAME` for what a worker imports; None for any other object.

        Raises:
            SerializationError: the function or class cannot be pickled.
        """
        known = self._known.get(id(obj))
        if known is not None:
            return known[1]
        kind = type(obj)
        if in_function or not self._functions:
            return self._find_handle(obj)
        if kind is types.FunctionType or is_wrapper(obj):
            return self._find_twin(obj)
        if isinstance(obj, type):
            return None if obj.__module__ == "builtins" else self._find_class(obj)
        return self._find_handle(obj)

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

    def _find_twin(self, obj: Any) -> bytes | None:
        """The blob of a function or wrapper with the same fingerprint; None if there are too many different ones."""
        is_function = type(obj) is types.FunctionType
        key, held = fingerprint(obj) if is_function else fingerprint_of_wrapper(obj)
        twin = self._twins.get(key)
        if twin is not None:
            return twin[1]
        if is_function and self._is_imported(obj):
            return BY_NAME
        if len(self._twins) >= MAX_TWINS:
            return None  # most likely each task has a closure of its own: it goes along
        what = f"function {obj.__qualname__}" if is_function else "scikit-learn's wrapper of a function"
        self._twins[key] = (held, self._define(obj, what))
        return self._twins[key][1]

    def _define(self, obj: Any, what: str) -> bytes:
        payload, refers_to = dumps_naming(obj, what, self, in_function=True)
        blob = blob_id(payload)
        self._ship({blob: payload})
        self._refers_to[blob] = refers_to
        return blob

    def _find_handle(self, obj: Any) -> bytes | None:
        if type(obj) is Scattered:
            self._refers_to[obj.blob] = obj.refers_to
            return obj.blob
        return None

    def contiguous(self, array: Any) -> Any:
        """Return a copy of an array whose elements do not lie side by side; the same copy for the same array."""
        if not self._functions:
            return array.copy()
        known = self._copies.get(id(array))
        if known is None:
            number = id(array)
            forget = weakref.ref(array, lambda _: self._copies.pop(number, None))
            known = self._copies[number] = (forget, array.copy())
        return known[1]

    def reference(self, raw: memoryview, in_function: bool = False) -> bytes | None:
        """Return the reference to a buffer whose bytes are sent once for all tasks; None for one that goes along.

        A large buffer is hashed once in a call: like joblib, this does not see later changes. A smaller one goes along
        with the first task, and becomes a blob when it comes again. Each task then has its own copy of it and may write
        to it, as to any other argument.

        A large buffer in a function is read-only, for all calls in a slot share it. Its blobs are held as long as the
        function is, also if the buffer is a copy that was made to be pickled. A smaller one goes along.
        """
        if self._large is None or raw.nbytes < REPEATED_BYTES:
            return None
        if raw.nbytes < self._large:
            return None if in_function else self._repeated(raw)
        if in_function:
            return reference(self._ship_pieces(raw), SHARED)
        place = _place(raw)
        if place is None:
            blobs = self._ship_pieces(raw)
        elif place in self._data:
            blobs = self._data[place][1]
        else:
            blobs, pieces = _pieces(raw)
            self.unsent.append(pieces)
            self._data[place] = (weakref.ref(_owner(raw.obj, place), lambda _: self._forget(place)), blobs)
        return reference(blobs, self._mode)

    def _forget(self, place: Place) -> None:
        """Forget an array that is gone: another one may come to lie in its place.

        It may have been made to be pickled, for a task that does not hold its blobs yet: hence `take_gone`.
        """
        entry = self._data.pop(place, None)
        if entry is not None:
            self._gone.append(entry[1])

    def _repeated(self, raw: memoryview) -> bytes | None:
        blob = blob_id([raw])
        if blob not in self._seen or (blob not in self._shipped and len(self._shipped) >= MAX_REPEATED):
            self._seen.add(blob)
            return None
        self._ship({blob: [raw]})
        return reference([blob], PRIVATE)

    def _ship_pieces(self, raw: memoryview) -> list[bytes]:
        blobs, pieces = _pieces(raw)
        self._ship(pieces)
        return blobs

    def _ship(self, blobs: Mapping[bytes, Payload]) -> None:
        new = {blob: payload for blob, payload in blobs.items() if blob not in self._shipped}
        if new:
            self.unsent.append(new)
            self._shipped.update(new)


def _pieces(raw: memoryview) -> tuple[list[bytes], dict[bytes, Payload]]:
    """The ids of a buffer's pieces, in order, and the payload of each."""
    pieces = cut(raw)
    blobs = side_by_side(lambda piece: blob_id([piece]), pieces)
    return blobs, {blob: [piece] for blob, piece in zip(blobs, pieces, strict=True)}


def _place(raw: memoryview) -> Place | None:
    """Where in memory a NumPy array's buffer lies, and its size; None for a buffer of another object."""
    interface = getattr(raw.obj, "__array_interface__", None)
    return (interface["data"][0], raw.nbytes) if interface else None


def _owner(array: Any, place: Place) -> Any:
    """The array that lives as long as the data: NumPy pickles a Fortran-ordered one through a view made for that."""
    base: Any = getattr(array, "base", None)
    interface = getattr(base, "__array_interface__", None)
    return base if interface and base is not None and (interface["data"][0], base.nbytes) == place else array


class _Beside:
    """What goes beside one pickle: its large buffers or references to them, and the ids of the blobs that it needs.

    It is apart from the pickler: a pickler whose callback is its own method is in a cycle. The data that it has
    pickled would then stay until a garbage collection.
    """

    def __init__(self, interner: Interner | None, in_function: bool) -> None:
        self.interner = interner
        self.in_function = in_function
        self.buffers: Payload = []
        self.needed: list[bytes] = []

    def in_band(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether the buffer is to go into the pickle itself."""
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND_BYTES or len(self.buffers) >= MAX_BUFFERS:
            return True
        stand_in = self.interner.reference(raw, self.in_function) if self.interner is not None else None
        if stand_in is None:
            self.buffers.append(raw)
        else:
            for blob in names_in(stand_in):
                self.need(blob)
            self.buffers.append(stand_in)
        return False

    def need(self, blob: bytes) -> None:
        """Note that the pickle needs this blob, and the blobs that it refers to."""
        if blob not in self.needed:
            self.needed.append(blob)
            if self.interner is not None:
                self.needed += [other for other in self.interner.refers_to(blob) if other not in self.needed]


_CACHED = type(functools.cache(len))


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler, with large buffers kept beside the pickle and ids in the place of shared objects."""

    dispatch_table: ClassVar[Any] = REDUCERS

    dump = pickle.Pickler.dump  # cloudpickle's own has another text for a RecursionError, which `dumps_naming` has too

    def __init__(self, file: io.BytesIO, beside: _Beside) -> None:
        # Not cloudpickle's `__init__`, a third of the time that a small pickle takes: it only makes `globals_ref`.
        pickle.Pickler.__init__(self, file, 5, buffer_callback=beside.in_band)
        self._beside = beside
        self._interner = beside.interner

    @functools.cached_property
    def globals_ref(self) -> dict[int, Any]:
        """The globals of functions that this pickle holds, by id: what cloudpickle asks for by this name."""
        return {} if self._interner is None else GlobalsOfModules()

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is types.BuiltinFunctionType:
            return obj.__reduce__()
        if type(obj) is types.CodeType:
            return code_with_its_file(obj)
        if type(obj) is _CACHED and not importable(obj):
            return reduce_cached(obj)
        if self._interner is not None:
            blob = self._interner.find(obj, self._beside.in_function)
            if blob:
                self._beside.need(blob)
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
    """Pickle one object. Nothing of it becomes a blob.

    Args:
        what: names the object in the error.

    Raises:
        SerializationError: the object cannot be pickled.
    """
    return dumps_naming(obj, what, None)[0]


def dumps_naming(
    obj: Any, what: str, interner: Interner | None, *, in_function: bool = False
) -> tuple[Payload, list[bytes]]:
    """Pickle one object, with ids of blobs in the place of what the interner knows.

    Args:
        what: names the object in the error.
        interner: decides what becomes a blob; new blobs wait in it to be sent. None: nothing does.
        in_function: whether the object is a function, or a class, that is about to become a blob itself.

    Returns:
        The payload, and the ids of all blobs that the receiver needs for it.

    Raises:
        SerializationError: the object cannot be pickled.
    """
    send_mp_main_by_value()
    file, beside = io.BytesIO(), _Beside(interner, in_function)
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
    return [file.getvalue(), *beside.buffers], beside.needed
