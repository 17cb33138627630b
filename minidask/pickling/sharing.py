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

Functions inside a shared function go along with it and get no id of their own (`_InFunction`). They may refer to one
another, and no hash can contain itself. The data in them does get an id. It is read-only, for all calls in a slot share
it.

Pickling sends nothing. The shell of the client announces the blobs in `unsent` before it sends the task. They wait in a
queue, and are not returned by the pickler: a second thread may pickle a task that refers to the same blobs, before the
first thread has announced them. It then announces them itself.
"""

from __future__ import annotations

import collections
import types
import weakref
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from minidask.data.files import blob_id
from minidask.data.pieces import cut, reference, side_by_side
from minidask.errors import SerializationError
from minidask.pickling.functions import Key, fingerprint, fingerprint_of_wrapper, importable, is_wrapper
from minidask.pickling.payload import BY_NAME, PRIVATE, SHARED, dumps_naming
from minidask.wire.large import REPEATED_BYTES
from minidask.wire.messages import Payload

MAX_REPEATED = 256
MAX_TWINS = 100

Place = tuple[int, int]


class Holder(Protocol):
    """Counts the needs of each blob: the shell of a client."""

    dropped: collections.deque[list[bytes]]
    """Ids of blobs to be held once less. A garbage collection appends here, inside any lock."""

    def release(self, blobs: Collection[bytes]) -> None:
        """Hold each of these blobs once less."""


class Scattered:
    """A handle on data that `Client.scatter` has sent ahead. Pass it, at any depth, in the place of the data.

    The data stays on the cluster until the handle is released, or dropped.

    Args:
        blob: the id of the data's blob.
        refers_to: the ids of the blobs of large buffers in the data.
        kind: the name of the data's type.
        holder: holds all these blobs once for this handle.
    """

    def __init__(self, blob: bytes, refers_to: list[bytes], kind: str, holder: Holder) -> None:
        self.blob = blob
        self.refers_to = refers_to
        self._kind = kind
        self._holder: Holder | None = holder

    def release(self) -> None:
        """Let the cluster forget the data once the tasks that use it have ended. A second call does nothing."""
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.release([self.blob, *self.refers_to])

    def __del__(self) -> None:
        if self._holder is not None:
            self._holder.dropped.append([self.blob, *self.refers_to])

    def __reduce__(self) -> Any:
        raise SerializationError("a scattered handle can only be sent as an argument of a task of its own client")

    def __repr__(self) -> str:
        return f"<minidask.Scattered {self._kind} {self.blob.hex()[:8]}>"


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
        gone = self.take_gone()
        data, self._data = self._data, {}
        gone += [*self._shipped, *(blob for _, blobs in data.values() for blob in set(blobs))]
        self._shipped.clear()
        return gone

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

    def find(self, obj: Any) -> bytes | None:
        """Return the id of the blob that stands for an object. A function or class that is new becomes a blob.

        Returns:
            `BY_NAME` for what a worker imports; None for any other object.

        Raises:
            SerializationError: the function or class cannot be pickled.
        """
        known = self._known.get(id(obj))
        if known is not None:
            return known[1]
        kind = type(obj)
        if not self._functions:
            return self.find_data(obj)
        if kind is types.FunctionType or is_wrapper(obj):
            return self._find_twin(obj)
        if isinstance(obj, type):
            return None if obj.__module__ == "builtins" else self._find_class(obj)
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
        payload, refers_to = dumps_naming(obj, what, _InFunction(self))
        blob = blob_id(payload)
        self._ship({blob: payload})
        self._refers_to[blob] = refers_to
        return blob

    def find_data(self, obj: Any) -> bytes | None:
        """Return the id of the blob of a scattered handle, or of an object that was scattered; None for others."""
        known = self._known.get(id(obj))
        if known is not None:
            return known[1]
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

    def reference(self, raw: memoryview) -> bytes | None:
        """Return the reference to a buffer whose bytes are sent once for all tasks; None for one that goes along.

        A large buffer is hashed once in a call: like joblib, this does not see later changes. A smaller one goes along
        with the first task, and becomes a blob when it comes again. Each task then has its own copy of it and may write
        to it, as to any other argument.
        """
        if self._large is None or raw.nbytes < REPEATED_BYTES:
            return None
        if raw.nbytes < self._large:
            return self._repeated(raw)
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

    def reference_in_function(self, raw: memoryview) -> bytes | None:
        """Return the reference to a large buffer in a function; None for a small one, which goes along.

        It is read-only, for all calls in a slot share it. Its blobs are held as long as the function is, also if the
        buffer is a copy that was made to be pickled.
        """
        if self._large is None or raw.nbytes < self._large:
            return None
        return reference(self._ship_pieces(raw), SHARED)

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


class _InFunction:
    """Makes blobs of large data in a function. Functions in it go along, for they may refer to one another."""

    def __init__(self, interner: Interner) -> None:
        self.find = interner.find_data
        self.reference = interner.reference_in_function
        self.refers_to = interner.refers_to
        self.contiguous = interner.contiguous
        self.files = interner.files


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
