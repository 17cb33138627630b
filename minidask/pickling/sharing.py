"""What the tasks of a call share, named and shipped once: functions, scattered data, large buffers.

pickling a task ─► find(object), reference(buffer) ─► a name ─► the task's pickle
                              └─ the first time ─► put(name, payload) ─► the cluster
"""

from __future__ import annotations

import collections
import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from minidask.data.files import blob_id
from minidask.data.pieces import cut, reference, side_by_side
from minidask.errors import SerializationError
from minidask.pickling.functions import Key, fingerprint, importable, is_wrapper, parts_of_wrapper
from minidask.pickling.payload import BY_NAME, PRIVATE, SHARED, dumps_naming
from minidask.wire.large import REPEATED_BYTES
from minidask.wire.messages import Payload

MAX_REPEATED = 256
MAX_TWINS = 100

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
        self.refers_to = parts
        self._kind = kind
        self._release = release
        self._dropped = dropped

    def release(self) -> None:
        """Let the cluster forget the data once the tasks that already use it have ended."""
        release, self._release, self._dropped = self._release, _do_nothing, _do_nothing
        release([self.blob, *self.refers_to])

    def __del__(self) -> None:
        self._dropped([self.blob, *self.refers_to])

    def __reduce__(self) -> Any:
        raise SerializationError("a scattered handle can only be sent as an argument of a task of its own client")

    def __repr__(self) -> str:
        return f"<minidask.Scattered {self._kind} {self.blob.hex()[:8]}>"


def _do_nothing(blobs: list[bytes]) -> None:
    pass


class Interner:
    """Gives the objects that a call's tasks share a name, and ships each of them once.

    Args:
        put: called with the payloads of blobs, by their names; holds each, once for each call.
        drop: called with the names of blobs to hold once less, from anywhere: a garbage collection may do it.
        functions: whether to ship functions and classes that cannot be imported; else only scattered handles
            get a name.
        large: buffers of at least so many bytes become blobs too; None: none do.
        mode: whether tasks see those read-only, `SHARED`, or as a copy of their own, `PRIVATE`.
        files: whether tasks run on this machine, and find files under the same names.
    """

    def __init__(
        self,
        put: Callable[[Mapping[bytes, Payload]], None],
        drop: Callable[[list[bytes]], None],
        *,
        functions: bool = True,
        large: int | None = None,
        mode: bytes = SHARED,
        files: bool = False,
    ) -> None:
        self.files = files
        self._put = put
        self._drop = drop
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

    def begin(self) -> None:
        """The next task is pickled, so the one before it is on its way, and holds what it needs."""
        while self._gone:
            self._drop(list(set(self._gone.popleft())))

    def close(self) -> None:
        """No more tasks will come."""
        self._copies.clear()
        self.begin()
        data, self._data = self._data, {}
        self._drop([*self._shipped, *(name for _, names in data.values() for name in set(names))])
        self._shipped.clear()

    def alias(self, obj: Any, handle: Scattered) -> None:
        """From now on, `obj` (by identity) is sent as what the handle stands for."""
        self._known[id(obj)] = (obj, handle.blob)
        self._refers_to[handle.blob] = handle.refers_to

    def refers_to(self, blob: bytes) -> list[bytes]:
        """The blobs that this one refers to."""
        return self._refers_to.get(blob, [])

    def find(self, obj: Any) -> bytes | None:
        """The blob that stands for `obj`, `BY_NAME` for what is imported, None for anything else."""
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
        """The blob of a function or wrapper that consists of the same; None if there are too many different ones."""
        is_function = type(obj) is types.FunctionType
        key, held = fingerprint(obj) if is_function else parts_of_wrapper(obj)
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
        payload, parts = dumps_naming(obj, what, _InFunction(self))
        blob = blob_id(payload)
        self._ship({blob: payload})
        self._refers_to[blob] = parts
        return blob

    def find_data(self, obj: Any) -> bytes | None:
        """As `find`, for what was scattered."""
        known = self._known.get(id(obj))
        if known is not None:
            return known[1]
        if type(obj) is Scattered:
            self._refers_to[obj.blob] = obj.refers_to
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
            names = self._ship_pieces(raw)
        elif place in self._data:
            names = self._data[place][1]
        else:
            names, pieces = _pieces(raw)
            self._put(pieces)
            self._data[place] = (weakref.ref(_owner(raw.obj, place), lambda _: self._forget(place)), names)
        return reference(names, self._mode)

    def reference_in_function(self, raw: memoryview) -> bytes | None:
        """As `reference`, for what a function holds: all its calls in a slot share that, so none may write to it.

        It is held as long as the function is, also where the buffer is a copy that was made to be pickled.
        """
        if self._large is None or raw.nbytes < self._large:
            return None
        return reference(self._ship_pieces(raw), SHARED)

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
        self._ship({blob: [raw]})
        return reference([blob], PRIVATE)

    def _ship_pieces(self, raw: memoryview) -> list[bytes]:
        names, pieces = _pieces(raw)
        self._ship(pieces)
        return names

    def _ship(self, blobs: Mapping[bytes, Payload]) -> None:
        new = {blob: payload for blob, payload in blobs.items() if blob not in self._shipped}
        if new:
            self._put(new)
            self._shipped.update(new)


class _InFunction:
    """Gives the large data that a function holds a name; functions in it go along: they may refer to one another."""

    def __init__(self, interner: Interner) -> None:
        self.find = interner.find_data
        self.reference = interner.reference_in_function
        self.refers_to = interner.refers_to
        self.contiguous = interner.contiguous
        self.files = interner.files

    def begin(self) -> None:
        """It is within the pickle of a task."""


def _pieces(raw: memoryview) -> tuple[list[bytes], dict[bytes, Payload]]:
    """The names of a buffer's pieces, in order, and what each name stands for."""
    pieces = cut(raw)
    names = side_by_side(lambda piece: blob_id([piece]), pieces)
    return names, {name: [piece] for name, piece in zip(names, pieces, strict=True)}


def _place(raw: memoryview) -> Place | None:
    """Where in memory a NumPy array's buffer lies, and its size; None for what does not tell."""
    interface = getattr(raw.obj, "__array_interface__", None)
    return (interface["data"][0], raw.nbytes) if interface else None


def _owner(array: Any, place: Place) -> Any:
    """The array that lives as long as the data: NumPy pickles a Fortran-ordered one through a view made for that."""
    base: Any = getattr(array, "base", None)
    interface = getattr(base, "__array_interface__", None)
    return base if interface and base is not None and (interface["data"][0], base.nbytes) == place else array
