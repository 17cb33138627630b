"""Whether a task has changed an object, so that the next task may have the same one.

To unpickle a function for each task takes longer than many tasks. To give each task the same object is wrong as soon as
one task changes it. So a slot keeps the object, and looks for changes before it gives it to the next task.

Functions and classes change in few places: globals, attributes, lists. A `Watch` remembers what each of those places
holds, and compares by identity: some microseconds. Other objects can change where Python code cannot see it, as the
state of a random generator does. Such an object is *unknown*, and is unpickled again each time.

    unpickle ─► Watch.add: walk through all that can be reached ─► a task runs ─► unchanged()? ─► the next task
"""

from __future__ import annotations

import abc
import builtins
import collections
import copyreg
import dataclasses
import datetime
import decimal
import dis
import enum
import fractions
import functools
import logging
import operator
import pathlib
import re
import sys
import types
import typing
import uuid
from collections.abc import Iterable
from itertools import chain
from typing import Any

import cloudpickle

from minidask.pickling.functions import cell_content, importable, is_wrapper


class _Plain:
    pass


_PLAIN_BYTES = _Plain.__basicsize__  # of an instance that has nothing but its attributes
_SLOTTED = {dataclasses.Field: ("default", "default_factory", "type", "metadata")}
_ATOMS = {
    *(int, float, complex, bool, str, bytes, range, slice, object, type(None), type(...), type(NotImplemented)),
    *(types.CodeType, types.BuiltinFunctionType, types.MemberDescriptorType, types.GetSetDescriptorType),
    *(
        types.WrapperDescriptorType,
        types.MethodDescriptorType,
        types.ClassMethodDescriptorType,
        types.MethodWrapperType,
    ),
    *(types.GenericAlias, types.UnionType, typing.TypeVar, re.Pattern, decimal.Decimal, fractions.Fraction, uuid.UUID),
    *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
    *(pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath),
    *(operator.itemgetter, operator.attrgetter, logging.Logger, logging.RootLogger),
    *(type(sys.flags), type(_Plain.__dict__["__dict__"]), type(dataclasses.MISSING), dataclasses.InitVar),
    type(abc.ABC.__dict__["_abc_impl"]),
}
MAX_PLACES = 20_000  # beyond that it is as well made again
_CONTAINERS = (list, set, collections.deque)
_DICTS = (dict, collections.OrderedDict, collections.defaultdict)
_of_function = operator.attrgetter(
    *("__code__", "__defaults__", "__kwdefaults__", "__doc__", "__name__", "__qualname__", "__module__"),
    "__annotations__",
)
_of_class = operator.attrgetter("__name__", "__qualname__", "__bases__")
_of_instance = operator.attrgetter("__class__", "__dict__")
_is = operator.is_
_chained = chain.from_iterable
_of_cell = operator.attrgetter("cell_contents")


class Watch:
    """Remembers all places where a set of objects, and what they refer to, can change."""

    def __init__(self) -> None:
        self.unknown = False
        """Whether there is something that may change where it is not seen."""
        self._seen: dict[int, Any] = {}  # by id; held so that the ids stay their own
        self._live: list[Iterable[Any]] = []
        self._functions: list[types.FunctionType] = []
        self._classes: list[type] = []
        self._instances: list[Any] = []
        self._cells: list[types.CellType] = []
        self._buffers: list[Any] = []
        self._saved: tuple[list[Any], list[Any], list[Any], list[Any]] = ([], [], [], [])
        """Of live places, attributes, cells and buffers."""

    def add(self, *objects: Any) -> None:
        """Watch over these objects too, and take what all places hold now as unchanged."""
        todo = list(objects)
        while todo and not self.unknown:
            obj = todo.pop()
            if type(obj) not in _ATOMS and id(obj) not in self._seen:
                self._seen[id(obj)] = obj
                found = self._watch(obj)
                if found is None or len(self._live) > MAX_PLACES:
                    self.unknown = True
                else:
                    todo += found
        if self.unknown:
            self.__init__()  # type: ignore[misc]
            self.unknown = True
        else:
            self._saved = self._now()

    def unchanged(self) -> bool:
        """Whether each place holds the very object that it held."""
        if self.unknown:
            return False
        live, attributes, cells, buffers = self._saved
        try:
            return (
                all(map(_is, _chained(self._live), live))
                and (not attributes or all(map(_is, self._attributes(), attributes)))
                and (not cells or all(map(_is, map(_of_cell, self._cells), cells)))
                and (not buffers or list(map(_content, self._buffers)) == buffers)
            )
        except (RuntimeError, ValueError):  # a thread left behind changes it just now, or a cell is empty
            return False

    def _now(self) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
        return (
            list(_chained(self._live)),
            list(self._attributes()),
            list(map(_of_cell, self._cells)),
            list(map(_content, self._buffers)),
        )

    def _attributes(self) -> Iterable[Any]:
        """What functions, classes and instances have beside their dicts."""
        found = _chained(map(_of_function, self._functions))
        if self._classes:
            found = chain(found, _chained(map(_of_class, self._classes)))
        if self._instances:
            found = chain(found, _chained(map(_of_instance, self._instances)))
        return found

    def _look_into(self, *places: Iterable[Any]) -> None:
        for place in places:
            self._live += [place, (object(),)]  # with a mark at the end: an item cannot move to the next place unseen

    def _watch(self, obj: Any) -> Iterable[Any] | None:
        """Remember the places in one object. Returns the objects in them; None if the object is unknown."""
        kind = type(obj)
        if isinstance(obj, type):
            return self._watch_class(obj)
        if kind is types.FunctionType:
            return self._watch_function(obj)
        if obj is vars(builtins) or _is_imported(obj):
            return []
        if kind in _DICTS:
            self._look_into(obj, obj.values())
            return [*obj, *obj.values(), getattr(obj, "default_factory", None)]
        if kind in _CONTAINERS:
            self._look_into(obj)
            return list(obj)
        if isinstance(obj, tuple | frozenset):
            return [kind, *obj, getattr(obj, "__dict__", None)]
        if kind is types.MethodType:
            return [obj.__func__, obj.__self__]
        if kind is functools.partial:
            return [obj.func, obj.args, obj.keywords, vars(obj)]
        if kind in (staticmethod, classmethod):
            return [obj.__func__]
        if kind is property:
            return [obj.fget, obj.fset, obj.fdel]
        if kind is types.ModuleType:
            return [] if sys.modules.get(obj.__name__) is obj else [vars(obj)]
        if kind is types.MappingProxyType:
            return [*obj, *obj.values()]
        if kind in _SLOTTED:
            return [getattr(obj, name) for name in _SLOTTED[kind]]
        if isinstance(obj, enum.Enum):
            self._instances.append(obj)
            return [kind, vars(obj)]
        if kind.__module__ in ("typing", "dataclasses"):
            return [kind]
        return self._watch_instance(obj, kind)

    def _watch_function(self, function: types.FunctionType) -> Iterable[Any] | None:
        if importable(function):
            return []
        cells = function.__closure__ or ()
        try:
            contents = list(map(_of_cell, cells))
        except ValueError:  # one is still empty
            return None
        self._functions.append(function)
        self._cells += cells
        kept = (function.__globals__, function.__dict__, function.__annotations__)
        return [*kept, function.__defaults__, function.__kwdefaults__, *contents]

    def _watch_class(self, cls: Any) -> Iterable[Any]:
        if cls.__module__ == "builtins" or importable(cls):
            return []
        copyreg._slotnames(cls)  # type: ignore[attr-defined] # pickle and others leave these in it: now rather than later
        cls.__annotations__  # noqa: B018
        self._classes.append(cls)
        self._look_into(cls.__dict__, cls.__dict__.values())
        left_out = ("_value2member_map_",) if issubclass(cls, enum.Enum) else ()
        values = [value for name, value in cls.__dict__.items() if name not in left_out]
        return [type(cls), *cls.__bases__, *values]

    def _watch_instance(self, obj: Any, kind: Any) -> Iterable[Any] | None:
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            if kind is numpy.ndarray:
                return self._watch_array(obj)
            if isinstance(obj, numpy.generic | numpy.dtype | numpy.ufunc):
                return []
        if kind is bytearray:
            self._buffers.append(obj)
            return []
        plain = kind.__basicsize__ == _PLAIN_BYTES and not kind.__itemsize__ and hasattr(obj, "__dict__")
        if not plain or copyreg._slotnames(kind):  # type: ignore[attr-defined]
            return None
        self._instances.append(obj)
        return [kind, vars(obj)]

    def _watch_array(self, array: Any) -> Iterable[Any] | None:
        if array.dtype.hasobject:
            return None
        if array.flags.writeable:
            self._buffers.append(array)
        return []


def _is_imported(obj: Any) -> bool:
    """Whether an object is found in its module under its name, as compiled functions are."""
    module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    return isinstance(module, str) and isinstance(name, str) and importable(obj)


def _content(buffer: Any) -> Any:
    return bytes(buffer) if type(buffer) is bytearray else (buffer.shape, buffer.dtype, buffer.tobytes())


def is_generator(obj: Any) -> bool:
    """Whether this is a generator of random numbers: each draw depends on those before."""
    return type(obj).__name__ in ("RandomState", "Generator", "Random") and callable(getattr(obj, "shuffle", None))


_STORES = {"STORE_GLOBAL", "DELETE_GLOBAL", "STORE_ATTR", "DELETE_ATTR"}


def has_state(function: Any) -> bool:
    """Whether a call of this function may change an object that is sent along with it, and that the next call reads.

    In doubt it returns True. Imported objects are not sent along, and do not count.
    """
    seen: set[int] = set()
    todo = [function]
    while todo:
        obj = todo.pop()
        kind = type(obj)
        if is_generator(getattr(obj, "__self__", None)):
            return True
        if kind in _ATOMS or id(obj) in seen or (callable(obj) and _is_imported(obj)) or kind is types.ModuleType:
            continue
        seen.add(id(obj))
        if isinstance(obj, tuple | frozenset):
            todo += obj
        elif kind is types.MethodType and _is_imported(type(obj.__self__)):
            todo.append(obj.__func__)  # the object is sent like an argument
        elif is_wrapper(obj):
            todo.append(obj.function)
        elif kind is functools.partial:
            todo += [obj.func, *obj.args, *obj.keywords.values()]
        elif kind is types.FunctionType and not (obj.__kwdefaults__ or _stores(obj.__code__)):
            names, cells = cloudpickle.cloudpickle._extract_code_globals(obj.__code__), obj.__closure__ or ()
            todo += [obj.__globals__[name] for name in names if name in obj.__globals__]
            todo += [*map(cell_content, cells), *(obj.__defaults__ or ()), *vars(obj).values()]
        else:
            return True
    return False


@functools.lru_cache(maxsize=1024)
def _stores(code: types.CodeType) -> bool:
    """Whether a function sets globals, attributes, or variables of the function around it."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in _STORES:
            return True
        if instruction.opname in ("STORE_DEREF", "DELETE_DEREF") and instruction.argval in code.co_freevars:
            return True
    return any(_stores(const) for const in code.co_consts if isinstance(const, types.CodeType))
