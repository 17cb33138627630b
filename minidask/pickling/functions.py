"""Functions and classes as things that are sent: whether a worker can import them, and whether two are the same."""

from __future__ import annotations

import sys
import types
from typing import Any

import cloudpickle

Key = tuple[Any, ...]


def name_of(function: Any) -> str:
    """What people are told that a function is called: its qualified name, or that of its type where it has none."""
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def importable(obj: Any) -> bool:
    """Whether a worker finds this very function or class by importing its module; cloudpickle then sends its name."""
    module = sys.modules.get(obj.__module__ or "")
    if module is None or obj.__module__ == "__main__":
        return False
    if any(name in cloudpickle.list_registry_pickle_by_value() for name in _parents(obj.__module__)):
        return False
    found: Any = module
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: index + 1]) for index in range(len(parts))]


def fingerprint(function: types.FunctionType) -> tuple[Key, Key]:
    """What a function consists of; two of which all this is identical are pickled to the same bytes.

    A lambda in a comprehension is a new function for every item, and most often the same one nevertheless; a closure
    whose variable has got another value is not what it was.

    Returns:
        The key, made of identities; and the objects whose identities those are: they must live as long as the key.
    """
    held: list[Any] = [function.__code__, function.__globals__]
    if function.__closure__:
        held += map(cell_content, function.__closure__)
    if function.__defaults__:
        held += function.__defaults__
    if function.__kwdefaults__:
        held += function.__kwdefaults__.values()
    held += function.__dict__.values()
    return (function.__qualname__, *function.__dict__, *map(id, held)), tuple(held)


def cell_content(cell: types.CellType) -> Any:
    """The value of a closure's variable; the cell itself while that has none."""
    try:
        return cell.cell_contents
    except ValueError:
        return cell


def is_wrapper(obj: Any) -> bool:
    """Whether this is scikit-learn's wrapper of a function: a new one for each task of a call, all with the same parts.

    Those are the function, scikit-learn's configuration and all filters of warnings, several KiB when pickled.
    """
    kind = type(obj)
    return kind.__name__ == "_FuncWrapper" and kind.__module__ == "sklearn.utils.parallel"


def parts_of_wrapper(obj: Any) -> tuple[Key, Key]:
    """What a wrapper of scikit-learn's consists of: a key of identities, and the objects that must live as long."""
    held = tuple(vars(obj).values())
    return (type(obj), *vars(obj), *map(id, held)), held


def copy_of_wrapper(obj: Any) -> Any:
    """One that a task may do with what it likes."""
    copy = object.__new__(type(obj))
    for name, value in vars(obj).items():
        setattr(copy, name, value.copy() if type(value) in (list, dict) else value)
    return copy
