"""Two questions about functions and classes, asked before one is pickled.

Can a worker import it? Then its name is enough. Is it the same as one that was sent before? Then nothing is sent. A
lambda in a loop is a new object each time, so identity answers the second question wrongly, and pickling both functions
to compare them costs what it is to save. What a function consists of is the answer: see `fingerprint`.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import cloudpickle

Key = tuple[Any, ...]


def name_of(function: Any) -> str:
    """Return the name of a function for messages: its qualified name, or that of its type if it has none."""
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def importable(obj: Any) -> bool:
    """Whether a worker gets this very function or class by importing its module; cloudpickle then sends its name."""
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
    levels = module.split(".")
    return [".".join(levels[: index + 1]) for index in range(len(levels))]


def fingerprint(function: types.FunctionType) -> tuple[Key, Key]:
    """Return what a function consists of. Two functions with the same key are pickled to the same bytes.

    A lambda in a comprehension is a new function for every item, mostly with the same code, globals and closure. A
    closure whose variable was assigned is another function.

    Returns:
        The key, made of identities; and the objects with those identities. They must live as long as the key.
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
    """Return the value of a closure's variable; the cell itself while the variable has no value."""
    try:
        return cell.cell_contents
    except ValueError:
        return cell


def is_wrapper(obj: Any) -> bool:
    """Whether this is scikit-learn's wrapper of a function: a new one for each task of a call, with the same contents.

    It has the function, scikit-learn's configuration and all filters of warnings: several KiB when pickled.
    """
    kind = type(obj)
    return kind.__name__ == "_FuncWrapper" and kind.__module__ == "sklearn.utils.parallel"


def fingerprint_of_wrapper(obj: Any) -> tuple[Key, Key]:
    """Return what a wrapper of scikit-learn's consists of, as `fingerprint` does for a function."""
    held = tuple(vars(obj).values())
    return (type(obj), *vars(obj), *map(id, held)), held


def copy_of_wrapper(obj: Any) -> Any:
    """Return a copy of scikit-learn's wrapper, with lists and dicts of its own, which a task may change."""
    copy = object.__new__(type(obj))
    for name, value in vars(obj).items():
        setattr(copy, name, value.copy() if type(value) in (list, dict) else value)
    return copy
