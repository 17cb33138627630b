"""The key of a call: a hash of what it consists of, the same one in each run of a program.

A pickle alone is no key. It has sets in the order of their hashes, which differ from process to process. It has
functions by name, or with the lines that they stand on. So a pickler walks through the call, and puts something else in
the place of such objects:

    a function or class of the user's own  ─► a hash of its code, and of all that it refers to, wherever that is defined
    a function, class or module of a library  ─► its name, and the version of the library
    a set  ─► the hashes of its members, sorted
    a text  ─► itself: pickles tell whether two equal texts are one object
    a large buffer  ─► the blob ids of its pieces, by the `Interner`: an array is hashed once a call of `Parallel`
    what scikit-learn sends along and changes no result: callbacks, filters of warnings, the search itself  ─► nothing

Code is what runs: bytecode, constants and names, without places in the file, so comments and moved lines change
nothing. A function refers to its defaults, its closure, and the globals that its code names. Of a module of the user's
own these are the attributes that the code names. What it reaches in another way, by `getattr` or in a file, is not
seen.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import cloudpickle

from minidask.host.signals import pass_on
from minidask.pickling.functions import cell_content, fingerprint, importable, is_wrapper
from minidask.pickling.scattered import Scattered
from minidask.pickling.sharing import REDUCERS, Interner
from minidask.task.sources import is_library
from minidask.wire.large import LARGE_BYTES

FORMAT = b"1"
"""Part of each key: to be changed with what a key, or the record under it, is made of."""
MAX_KNOWN = 1000
_BYTES = 16
_CACHED = type(functools.cache(len))
_OF_EACH_PROCESS = "sklearn.callback"
_FIT = "_fit_and_score"
_TO_SHOW = {"caller", "callback_ctx", "split_progress", "candidate_progress", "verbose"}
"""Arguments of `_FIT` that are for callbacks and for printing. With them, a search with another `n_jobs` is another."""
_NOT_CONTENT = {
    *("__module__", "__doc__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__", "_abc_impl"),
    *("__slotnames__", "__annotations_cache__"),  # Python adds these to a class that is used
}


class Contents:
    """Hashes calls. Within its life, a function, a class and a large array count as they were first seen.

    It is to be used by one thread at a time.
    """

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Any, bytes]] = {}  # by `fingerprint` or id(), and what keeps those ids
        self._met: dict[int, int] | None = None  # by id(), those within the one that is being hashed, numbered
        self._large = Interner(functions=False, large=LARGE_BYTES)

    def key(self, *parts: Any) -> bytes:
        """Return the key of what has these parts.

        Raises:
            Exception: a part cannot be pickled.
        """
        return self._hash((FORMAT, sys.version_info[:2], parts))

    def _hash(self, obj: Any) -> bytes:
        file, buffers = io.BytesIO(), list[bytes]()
        _Walker(file, self, lambda buffer: buffers.append(self._buffer(buffer.raw()))).dump(obj)
        return _joined([file.getvalue(), *buffers])

    def _buffer(self, raw: memoryview) -> bytes:
        reference = self._large.reference(raw) if raw.nbytes >= LARGE_BYTES else None
        self._large.unsent.clear()
        self._large.take_gone()
        return _joined([raw]) if reference is None else reference

    def stand_in(self, obj: Any) -> bytes | None:
        """Return what stands for an object in a key; None for one that is walked through."""
        kind = type(obj)
        if kind is str:
            return b"text " + str.encode(obj, "utf-8", "surrogatepass")
        if kind is bytes:
            return b"".join((b"bytes ", obj))
        if kind is set or kind is frozenset:
            return b"set " + kind.__name__.encode() + _joined(sorted(map(self._member, obj)))
        if kind is _CACHED:
            obj, kind = obj.__wrapped__, types.FunctionType
        if kind is types.FunctionType or issubclass(kind, type):
            return self._definition(obj)
        if kind is types.ModuleType:
            return _named(obj.__name__, "")
        if kind is Scattered:
            return b"scattered " + bytes(obj.blob)
        if kind.__module__.startswith(_OF_EACH_PROCESS):
            return _named(kind.__module__, kind.__qualname__)
        if callable(obj) and not is_own(kind.__module__) and getattr(obj, "__qualname__", None) and importable(obj):
            return _named(obj.__module__, obj.__qualname__)  # in C: a ufunc, for example
        if kind.__module__ in ("numpy", "numpy.dtypes") and isinstance(obj, sys.modules["numpy"].dtype):
            return b"dtype " + pickle.dumps(obj, 5)  # as with a text: those of a loaded array are other objects
        return None

    def _member(self, obj: Any) -> bytes:
        """The hash of a member of a set, whatever the order in which they come."""
        before = self._met
        try:
            self._met = None if before is None else dict(before)
            return self._hash(obj)
        finally:
            self._met = before

    def _definition(self, obj: Any) -> bytes:
        """What stands for a function or class. One that refers to itself has its number there."""
        if self._met is not None:
            number = self._met.get(id(obj))
            return self._described(obj, self._met) if number is None else b"again %d" % number
        key, held = fingerprint(obj) if type(obj) is types.FunctionType else (id(obj), obj)
        if key in self._known:
            return self._known[key][1]
        self._met = {}
        try:
            found = self._described(obj, self._met)
        finally:
            self._met = None
        if len(self._known) < MAX_KNOWN:  # a call with more has most likely a closure for each task
            self._known[key] = held, found
        return found

    def _described(self, obj: Any, met: dict[int, int]) -> bytes:
        module = getattr(obj, "__module__", None) or "builtins"
        if not is_own(module) and importable(obj):
            return _named(module, obj.__qualname__)
        met[id(obj)] = len(met)
        return b"own " + (self._class(obj) if isinstance(obj, type) else self._function(obj))

    def _function(self, function: Any) -> bytes:
        code = function.__code__
        parts = {
            "name": function.__qualname__,
            "code": _code(code),
            "defaults": function.__defaults__,
            "keywords": function.__kwdefaults__,
            "closure": tuple(map(cell_content, function.__closure__ or ())),
            **{f"attribute {name}": value for name, value in vars(function).items()},
            **{f"global {name}": value for name, value in referred_to(code, function.__globals__)},
        }
        return self._parts(parts)

    def _class(self, cls: type) -> bytes:
        own = {f"attribute {name}": value for name, value in vars(cls).items() if name not in _NOT_CONTENT}
        if not own.get("attribute __annotations__"):
            own.pop("attribute __annotations__", None)  # Python adds an empty dict when it is asked
        return self._parts({"name": cls.__qualname__, "kind": type(cls), "bases": cls.__bases__, **own})

    def _parts(self, parts: Mapping[str, Any]) -> bytes:
        return _joined(part for name, value in parts.items() for part in (name.encode(), self._part(value)))

    def _part(self, value: Any) -> bytes:
        """The hash of a part of a definition; of one that cannot be pickled, as a lock, that of its class' name."""
        if isinstance(value, property):
            value = value.fget, value.fset, value.fdel
        elif isinstance(value, classmethod | staticmethod):
            value = type(value).__name__, value.__func__
        try:
            return self._hash(value)
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a user's object raises
            pass_on(error)
            return f"{type(value).__module__}.{type(value).__qualname__}".encode()


class _Walker(cloudpickle.Pickler):  # type: ignore[misc]
    """The pickler that walks through a call."""

    dispatch_table: ClassVar[Any] = REDUCERS

    def __init__(self, file: io.BytesIO, contents: Contents, on_buffer: Callable[[pickle.PickleBuffer], None]) -> None:
        super().__init__(file, 5, on_buffer)
        self._contents = contents

    def persistent_id(self, obj: Any) -> bytes | None:
        return self._contents.stand_in(obj)

    def reducer_override(self, obj: Any) -> Any:
        if is_wrapper(obj):  # a new one for each call, and with all filters of warnings
            return tuple, ((vars(obj).get("function"), vars(obj).get("config")),)
        if type(obj) is types.CodeType:
            return tuple, (_code(obj),)
        return super().reducer_override(obj)


def that_count(function: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return those keyword arguments of a call that may change its result."""
    is_fit = is_wrapper(function) and vars(function).get("__name__") == _FIT
    return {name: value for name, value in kwargs.items() if not (is_fit and name in _TO_SHOW)}


def _joined(parts: Iterable[Any]) -> bytes:
    digest = hashlib.blake2b(digest_size=_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _named(module: str, name: str) -> bytes:
    return f"name {module}:{name} {_version(module)}".encode("utf-8", "surrogatepass")


@functools.cache
def _version(module: str) -> str:
    """The version of the library that a module is of; empty if it tells none."""
    return str(getattr(sys.modules.get(module.partition(".")[0]), "__version__", ""))


def is_own(module: str) -> bool:
    """Whether a module is the user's own: the program, or one that is not from a library folder."""
    top = module.partition(".")[0]
    if top in ("builtins", "minidask"):
        return False
    if top in ("__main__", "__mp_main__"):
        return True
    spec = getattr(sys.modules.get(module), "__spec__", None)
    if spec is None:
        return True
    if not spec.has_location or spec.origin is None:
        return spec.origin not in ("built-in", "frozen")
    return not is_library(spec.origin)


def _code(code: types.CodeType) -> tuple[Any, ...]:
    """What a piece of code does, without where it stands."""
    constants = tuple(_code(value) if isinstance(value, types.CodeType) else value for value in code.co_consts)
    return (
        code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars,
        code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags,
        getattr(code, "co_exceptiontable", b""),
    )  # fmt: skip


def referred_to(code: types.CodeType, names: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the globals that code names, by name: sorted. A module of the user's own stands for its attributes.

    Args:
        names: the globals of the code.
    """
    found: dict[str, Any] = {}
    used: dict[str, Any] = {}
    attributes = set[str]()
    package = names.get("__package__") or ""
    for piece in _pieces(code):
        attributes.update(piece.co_names)
        for instruction in dis.get_instructions(piece):
            name = instruction.argval
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and name in names:
                used[name] = names[name]
            elif instruction.opname == "IMPORT_NAME":
                used.update((n, sys.modules[n]) for n in (name, f"{package}.{name}".rstrip(".")) if n in sys.modules)
    modules: list[types.ModuleType] = []
    for name in sorted(used):
        _add(found, name, used[name], attributes, modules)
    return sorted(found.items())


def _add(found: dict[str, Any], name: str, value: Any, attributes: set[str], modules: list[types.ModuleType]) -> None:
    if not isinstance(value, types.ModuleType) or not is_own(value.__name__):
        found[name] = value
    elif value not in modules:  # else they refer to one another
        modules.append(value)
        for attribute in sorted(attributes & vars(value).keys()):
            _add(found, f"{value.__name__}.{attribute}", vars(value)[attribute], attributes, modules)


def _pieces(code: types.CodeType) -> Iterable[types.CodeType]:
    yield code
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _pieces(value)
