"""Objects to bytes and back: cloudpickle, protocol 5, large buffers beside the pickle and not inside it.

A payload is `[pickle, buffer, buffer, ...]`. What many tasks of a call share, functions defined in
`__main__` above all, is pickled once as a *blob* named by a hash of its content, and every task's own
pickle only names it: `Interner` on the sending side, `BlobTable` on the receiving one.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import cloudpickle

from minidask.errors import SerializationError
from minidask.wire.messages import Payload

OUT_OF_BAND_BYTES = 32 * 1024
MAX_BUFFERS = 1024
BLOB_ID_BYTES = 16
BY_NAME = b""  # in the place of a blob's name: the receiver imports the function


class Scattered:
    """A handle on data that `Client.scatter` has sent ahead; pass it, at any depth, where a task takes the data.

    It holds the data on the cluster until it is released, or dropped.
    """

    def __init__(
        self, blob: bytes, kind: str, release: Callable[[bytes], None], dropped: Callable[[bytes], None]
    ) -> None:
        self.blob = blob
        self._kind = kind
        self._release = release
        self._dropped = dropped

    def release(self) -> None:
        """Let the cluster forget the data once the tasks that already use it have ended."""
        release, self._release, self._dropped = self._release, _do_nothing, _do_nothing
        release(self.blob)

    def __del__(self) -> None:
        self._dropped(self.blob)

    def __reduce__(self) -> Any:
        raise SerializationError("a scattered handle can only be sent as an argument of a task of its own client")

    def __repr__(self) -> str:
        return f"<minidask.Scattered {self._kind} {self.blob.hex()[:8]}>"


def _do_nothing(blob: bytes) -> None:
    pass


class Interner:
    """Gives the objects that a call's tasks share a name, and ships each of them once.

    Args:
        put: called with a blob's name and payload the first time that it is named.
        functions: whether to ship functions that cannot be imported; else only scattered handles get a name.
    """

    def __init__(self, put: Callable[[bytes, Payload], None], *, functions: bool = True) -> None:
        self._put = put
        self._functions = functions
        self._known: dict[int, tuple[Any, bytes]] = {}  # by id(); the object is held so that the id stays its own
        self._shipped: set[bytes] = set()

    def blobs(self) -> list[bytes]:
        """The names of all blobs that were shipped."""
        return list(self._shipped)

    def alias(self, obj: Any, blob: bytes) -> None:
        """From now on, `obj` (by identity) is sent as this blob, which the receiver has already."""
        self._known[id(obj)] = (obj, blob)

    def find(self, obj: Any) -> bytes | None:
        """The blob that stands for `obj`, `BY_NAME` for a function that is imported, None for anything else."""
        known = self._known.get(id(obj))
        if known is not None:
            return known[1]
        if type(obj) is Scattered:
            return obj.blob
        if not self._functions or type(obj) is not types.FunctionType:
            return None
        blob = BY_NAME if _importable(obj) else self._ship(obj)
        self._known[id(obj)] = (obj, blob)
        return blob

    def _ship(self, function: types.FunctionType) -> bytes:
        """Send a function that cannot be imported, unless that was done; returns its blob."""
        payload = dumps(function, f"function {function.__qualname__}")
        blob = blob_id(payload)
        if blob not in self._shipped:
            self._put(blob, payload)
            self._shipped.add(blob)
        return blob


def _importable(function: types.FunctionType) -> bool:
    """Whether a worker finds this very function by importing its module (cloudpickle then sends its name only)."""
    module = sys.modules.get(function.__module__ or "")
    if module is None or function.__module__ == "__main__":
        return False
    if any(name in cloudpickle.list_registry_pickle_by_value() for name in _parents(function.__module__)):
        return False
    found: Any = module
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: index + 1]) for index in range(len(parts))]


def blob_id(payload: Payload) -> bytes:
    """The name of a blob: `BLOB_ID_BYTES` bytes of a hash over its content."""
    digest = hashlib.blake2b(digest_size=BLOB_ID_BYTES)
    for part in payload:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler, with the large buffers kept beside and the shared objects named."""

    def __init__(self, file: io.BytesIO, interner: Interner | None) -> None:
        super().__init__(file, protocol=5, buffer_callback=self._in_band)
        self.buffers: Payload = []
        self.named: list[bytes] = []
        self._interner = interner

    def _in_band(self, buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND_BYTES or len(self.buffers) >= MAX_BUFFERS:
            return True
        self.buffers.append(raw)
        return False

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is types.BuiltinFunctionType:
            return obj.__reduce__()
        if self._interner is not None:
            blob = self._interner.find(obj)
            if blob:
                if blob not in self.named:
                    self.named.append(blob)
                return resolve_blob, (blob,)
            if blob == BY_NAME:
                return NotImplemented
        return super().reducer_override(obj)


def dumps(obj: Any, what: str) -> Payload:
    """Pickle one object; `what` names it in the error.

    Raises:
        SerializationError: it cannot be pickled.
    """
    return dumps_naming(obj, what, None)[0]


def dumps_naming(obj: Any, what: str, interner: Interner | None) -> tuple[Payload, list[bytes]]:
    """As `dumps`, with what the interner knows sent by name; also returns the names used."""
    file = io.BytesIO()
    pickler = _Pickler(file, interner)
    try:
        pickler.dump(obj)
    except SerializationError:
        raise
    except Exception as error:
        raise SerializationError(
            f"{what} cannot be pickled, so it cannot be sent: {type(error).__name__}: {error}."
            " Look for open files, locks, connections or generators in it, and create those inside the task"
        ) from error
    return [file.getvalue(), *pickler.buffers], pickler.named


def loads(payload: Payload, what: str) -> Any:
    """Unpickle one object; `what` names it in the error.

    Raises:
        SerializationError: it cannot be unpickled here.
    """
    try:
        return pickle.loads(payload[0], buffers=payload[1:])
    except SerializationError:
        raise
    except Exception as error:
        hint = ""
        if isinstance(error, ModuleNotFoundError):
            hint = f". Install {error.name!r} for {sys.executable} (Python {sys.version.split()[0]})"
        raise SerializationError(f"{what} cannot be unpickled here: {type(error).__name__}: {error}{hint}") from error


class BlobTable:
    """The blobs that one slot was sent, each unpickled when a task first names it and shared by later tasks.

    Arrays inside a blob are read-only, as joblib's memory maps are: no task may change what others see.
    """

    def __init__(self) -> None:
        self._payloads: dict[bytes, Payload] = {}
        self._objects: dict[bytes, Any] = {}

    def put(self, blob: bytes, payload: Payload) -> None:
        self._payloads[blob] = [memoryview(part).toreadonly() for part in payload]

    def forget(self, blob: bytes) -> None:
        self._payloads.pop(blob, None)
        self._objects.pop(blob, None)

    def resolve(self, blob: bytes) -> Any:
        if blob not in self._objects:
            if blob not in self._payloads:
                raise SerializationError(f"the task names blob {blob.hex()}, which was not sent along")
            self._objects[blob] = loads(self._payloads[blob], f"blob {blob.hex()[:8]}")
        return self._objects[blob]


_current = threading.local()


def use_blobs(table: BlobTable) -> None:
    """From now on, what this thread unpickles finds its blobs in `table`."""
    _current.table = table


def inside_task() -> bool:
    """Whether this thread is a slot's."""
    return getattr(_current, "table", None) is not None


def resolve_blob(blob: bytes) -> Any:
    """What a pickle calls in the place of a shared object."""
    table: BlobTable | None = getattr(_current, "table", None)
    if table is None:
        raise SerializationError("a pickle that names blobs can only be loaded inside a task")
    return table.resolve(blob)
