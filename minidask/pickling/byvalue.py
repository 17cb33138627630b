"""Functions and classes that travel by value, those of `__main__` above all, and what pickles call to make them.

cloudpickle sends such a class whole, and tracks it in tables of the process, so that it stays one class. minidask sends
one task in several pickles, and a process may run tasks of several callers. For both, those tables are too coarse:

- In a task, all its pickles make their classes and globals in one `Namespace`, as if they were one pickle. A class is
  made once, and functions of one module share their globals. The namespace is the task's own.
- In the caller, where results arrive, a class that this process has, or has sent, stays as it is. The pickle does not
  change it.
"""

from __future__ import annotations

import functools
import sys
import threading
import typing
from collections.abc import Callable
from typing import Any

import cloudpickle

_cloudpickle: Any = cloudpickle.cloudpickle
_MAKERS = (_cloudpickle._make_skeleton_class, _cloudpickle._make_skeleton_enum)
MP_MAIN = "__mp_main__"
MAKER = b"make_class"
"""In each pickle that has a class by value: the name of the function that it calls."""
_MADE_WITH_A_CLASS = {
    *("__module__", "__doc__", "__dict__", "__weakref__", "__slots__", "__annotations__", "__abstractmethods__"),
    *("__firstlineno__", "__static_attributes__"),
}


class Namespace:
    """The classes and the modules' globals that one task's pickles have made.

    Args:
        to_process: whether no other task runs in this process meanwhile. Then a task that itself unpickles with
            cloudpickle finds these classes too.
    """

    def __init__(self, to_process: bool = False) -> None:
        self.classes: dict[str, Any] = {}  # by what cloudpickle tells classes apart by
        self.globals: dict[int, dict[str, Any]] = {}
        self.uses = 0
        self._whole_process = to_process

    def begin(self) -> None:
        """Have this thread unpickle into this namespace from now on."""
        this_thread.namespace = self
        if self.classes and self._whole_process:
            _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.update(self.classes)

    def size(self) -> int:
        """Return the number of classes and modules that were made here."""
        return len(self.classes) + len(self.globals)

    def adopt(self, tracker: str, cls: Any) -> None:
        """Note a class that was just made. Pickled again, it keeps the tracker that it was sent with."""
        self.classes[tracker] = cls
        with _cloudpickle._DYNAMIC_CLASS_TRACKER_LOCK:
            _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS[cls] = tracker
            if self._whole_process:
                _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID[tracker] = cls

    def claim(self, tracker: str, cls: Any) -> None:
        """Take a class that a task pickles out of the table of the process, if the task has made it itself."""
        if self._whole_process or _is_in_its_module(cls):
            return
        with _cloudpickle._DYNAMIC_CLASS_TRACKER_LOCK:
            if _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker) is cls:
                del _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID[tracker]
                self.classes[tracker] = cls


def _is_in_its_module(cls: Any) -> bool:
    found = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is cls


class ThisThread(threading.local):
    """The blobs and the namespace of the task that this thread runs; None outside of tasks."""

    task: Any = None
    namespace: Namespace | None = None

    def __init__(self) -> None:
        self.unfinished: list[Any] = []  # classes whose state is still to come


this_thread = ThisThread()


def what_it_has() -> Callable[[], None]:
    """Return a function that has the thread that calls it unpickle for the same task as this thread."""
    task, namespace = this_thread.task, this_thread.namespace

    def share() -> None:
        this_thread.task, this_thread.namespace = task, namespace

    return share


# --- the sending side ---


class SharedGlobals(dict[str, Any]):
    """Stands for a module's globals in a pickle: cloudpickle puts in what all functions of the module need."""

    def __init__(self, key: int) -> None:
        super().__init__()
        self._key = key

    def __reduce_ex__(self, protocol: Any) -> Any:
        return shared_globals, (self._key, dict(self))


class GlobalsOfModules(dict[int, SharedGlobals]):
    """In the place of cloudpickle's table of the globals that one pickle holds, by id."""

    def setdefault(self, key: int, default: Any = None) -> SharedGlobals:
        """Return the globals under this key, made if there are none. The default of cloudpickle is not used."""
        if key not in self:
            self[key] = SharedGlobals(key)
        return self[key]


def with_our_makers(obj: Any, reduction: Any) -> Any:
    """Return a reduction of cloudpickle's, with `make_class` in the place of its own maker of classes."""
    if type(reduction) is not tuple or reduction[0] not in _MAKERS:
        return reduction
    make, arguments, state = reduction[:3]
    if make is _MAKERS[0] and "__slots__" in vars(obj) and typing.NamedTuple not in arguments[2]:
        arguments[3]["__slots__"] = obj.__slots__  # set later, they would be an attribute without effect
    if make is _MAKERS[0]:
        state = ({**_equal_overrides(obj), **state[0]}, *state[1:])
    if this_thread.namespace is not None:
        this_thread.namespace.claim(arguments[-2], obj)
    return make_class, (make, *arguments), state, None, None, set_class_state


def _equal_overrides(cls: type) -> dict[str, Any]:
    """Attributes of a class that are the very object that a base has: cloudpickle takes them for inherited."""
    return {
        name: value
        for name, value in vars(cls).items()
        if name not in _MADE_WITH_A_CLASS and any(vars(base).get(name, cls) is value for base in cls.__mro__[1:])
    }


def reduce_cached(function: Any) -> Any:
    """Reduce a function with `functools.lru_cache` that no worker can import. It is made again, with an empty cache."""
    own = {name: value for name, value in vars(function).items() if name != "__wrapped__"}
    return make_cached, (function.__wrapped__, function.cache_parameters()), own


def send_mp_main_by_value() -> None:
    """Register the program of a child of multiprocessing to be sent by value: no worker can import `__mp_main__`."""
    module = sys.modules.get(MP_MAIN)
    if module is not None and MP_MAIN not in _cloudpickle._PICKLE_BY_VALUE_MODULES:
        cloudpickle.register_pickle_by_value(module)


def classes_in(text: bytes) -> dict[str, tuple[str, str]]:
    """Return module and qualified name of those classes of this process that a pickle names by a tracker."""
    if MAKER not in text:
        return {}
    with _cloudpickle._DYNAMIC_CLASS_TRACKER_LOCK:
        known = dict(_cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID)
    return {t: (cls.__module__, cls.__qualname__) for t, cls in known.items() if t.encode() in text}


# --- the receiving side: what pickles call ---


def shared_globals(key: int, names: dict[str, Any]) -> dict[str, Any]:
    """Return the globals that the functions of one of the sender's modules share. Pickles call this."""
    namespace = this_thread.namespace
    if namespace is None:
        return names
    namespace.uses += 1
    return namespace.globals.setdefault(key, names)


def make_class(make: Callable[..., Any], *arguments: Any) -> Any:
    """Return the class that is known here, else a new one, whose state comes next. Pickles call this."""
    *what, tracker, extra = arguments
    namespace = this_thread.namespace
    if namespace is not None:
        namespace.uses += 1
        known = namespace.classes.get(tracker)
    else:
        known = _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)
    if known is not None:
        return known
    made = make(*what, None, extra)
    if namespace is not None:
        namespace.adopt(tracker, made)
    elif _cloudpickle._lookup_class_or_track(tracker, made) is not made:
        return make_class(make, *arguments)  # another thread was faster
    this_thread.unfinished.append(made)
    return made


def set_class_state(cls: Any, state: Any) -> None:
    """Set the attributes of a new class. A class that was here before keeps its own. Pickles call this."""
    for index, unfinished in enumerate(this_thread.unfinished):
        if unfinished is cls:
            del this_thread.unfinished[index]
            _cloudpickle._class_setstate(cls, state)
            return


def make_cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """Wrap a function with `functools.lru_cache`. Pickles call this."""
    return functools.lru_cache(**parameters)(function)
