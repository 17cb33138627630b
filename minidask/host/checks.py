"""Checks of users' arguments: a wrong value ends the call that it was given to, and not a connection later.

A message of the wire has typed fields, and a peer that sends a wrong type is disconnected. So a float for a priority
would cost a user all pending tasks. Each function here takes the name and the value of an argument. It returns the
value as the wire needs it, as a plain int, float, bool or str. NumPy's numbers are welcome. All errors name the
argument, say what is allowed, and show the value.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minidask.host.sizes import parse_bytes

LEAST, MOST = -(2**63), 2**63 - 1  # the range of the wire's whole numbers
MOST_WORKERS = 10_000
MOST_LIMIT = 2**31
MOST_RESOURCES, MOST_NAME = 100, 200
LEAST_AMOUNT, MOST_AMOUNT = 1e-6, 1e15
LONGEST_WAIT = 2_000_000.0
"""Seconds, about three weeks: `poll` cannot wait longer, and nobody notices the difference."""
FOREVER = 1e9
"""Seconds, about thirty years: a longer time limit is taken for none."""


def is_module_name(name: str) -> bool:
    """Whether a module can have this name, as "sklearn.ensemble"."""
    return all(part.isidentifier() for part in name.split("."))


def whole(name: str, value: Any, least: int = LEAST, most: int = MOST) -> int:
    """Check a whole number, and return it as an int. NumPy's integers pass; bools and floats do not.

    Raises:
        TypeError: the value is no whole number.
        ValueError: the number is below `least` or above `most`.
    """
    if _is_flag(value):
        raise TypeError(f"{name} must be a whole number, got {_shown(value)}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {_shown(value)}") from None
    if not least <= number <= most:
        raise ValueError(f"{name} must be a whole number {_range(least, most)}, got {_shown(number)}")
    return number


def seconds(name: str, value: Any, *, zero: bool = True) -> float:
    """Check a time to wait, in seconds. Longer times than `LONGEST_WAIT`, and infinity, are cut to that.

    Raises:
        TypeError: the value is no number.
        ValueError: the number is below 0, or it is 0 and `zero` is False.
    """
    number = _real(name, value)
    if not (number >= 0 if zero else number > 0):
        raise ValueError(f"{name} must be {'at least' if zero else 'above'} 0 seconds, got {_shown(value)}")
    return min(number, LONGEST_WAIT)


def time_limit(name: str, value: Any) -> float | None:
    """Check a time limit, in seconds. None, infinity and times above `FOREVER` give None: no limit.

    Raises:
        TypeError: the value is no number.
        ValueError: the number is not above 0.
    """
    if value is None:
        return None
    number = _real(name, value)
    if not number > 0:
        raise ValueError(f"{name} must be above 0 seconds, got {_shown(value)}")
    return None if number > FOREVER else number


def flag(name: str, value: Any) -> bool:
    """Check a flag, and return it as a bool. NumPy's bools pass.

    Raises:
        TypeError: the value is neither True nor False.
    """
    if not _is_flag(value):
        raise TypeError(f"{name} must be True or False, got {_shown(value)}")
    return bool(value)


def text(name: str, value: Any) -> str:
    """Check a text, and return it as a plain str.

    Raises:
        TypeError: the value is no text.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, got {_shown(value)}")
    return str(value)


def function(method: str, value: object) -> None:
    """Check that a method was given something to call."""
    if not callable(value):
        raise TypeError(f"{method} needs a function to call, got {type(value).__name__}")


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Check that a text is one of those that are allowed, and return it.

    Raises:
        ValueError: it is none of them.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got {_shown(value)}")
    return value


def exceptions(name: str, value: Any) -> tuple[type[Exception], ...]:
    """Check a class of exceptions, or a tuple of such, as `except` takes them; return a tuple.

    Raises:
        TypeError: there is something else, or a class that is not under `Exception`, as `KeyboardInterrupt` is not.
        ValueError: the tuple is empty.
    """
    found = value if isinstance(value, tuple) else (value,)
    if not found:
        raise ValueError(f"{name} must be a class of exceptions or a tuple of such, got an empty tuple")
    for kind in found:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(f"{name} must be a class under Exception, or a tuple of such, got {_shown(value)}")
    return found


def path(name: str, value: Any) -> str | None:
    """Check the path of a file, a str or a path object, and return it as a str. None stays None.

    Raises:
        TypeError: the value is no path, or one of bytes.
        ValueError: the path is empty, or contains a NUL.
    """
    if value is None:
        return None
    try:
        found = os.fspath(value)
    except TypeError:
        found = b""
    if not isinstance(found, str):
        raise TypeError(f"{name} must be a path, got {_shown(value)}")
    if "\0" in found or not found:
        raise ValueError(f"{name} must be a path, got {_shown(value)}")
    return found


def outcomes(name: str, value: Any) -> Path:
    """Check the path of a file of outcomes, and return it, absolute. Without a suffix, it gets `.resume`.

    Raises:
        TypeError: the value is no path, or one of bytes.
        ValueError: the path is empty, contains a NUL, or is that of a folder.
    """
    found = path(name, value)
    if found is None:
        raise TypeError(f"{name} must be a path, got None")
    whole = Path(found).expanduser().absolute()
    if whole.is_dir() or found.endswith(os.sep):
        raise ValueError(f"{name} must be the path of a file, and {found} is a folder: add a name")
    return whole if whole.suffix else whole.with_name(f"{whole.name}.resume")


def workers(name: str, value: Any) -> int:
    """Check a number of workers, and return it as an int.

    Raises:
        ValueError: the value is no whole number from 1 to `MOST_WORKERS`.
    """
    try:
        return whole(name, value, 1, MOST_WORKERS)
    except (TypeError, ValueError):
        text = f"{name}: the number of workers must be a whole number above 0 and at most {MOST_WORKERS}"
        raise ValueError(f"{text}, got {_shown(value)}") from None


def resources(name: str, value: Any) -> dict[str, float]:
    """Check amounts of resources by name, and return them as a dict of plain values. None gives none.

    Raises:
        TypeError: the value is no dict, or a name in it no text, or an amount no number.
        ValueError: a name is empty or too long, an amount is not above 0, or too small or large; or there are too many.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f'{name} must be a dict of amounts, as {{"gpu": 1}}, got {_shown(value)}')
    if len(value) > MOST_RESOURCES:
        raise ValueError(f"{name} must have at most {MOST_RESOURCES} names, got {len(value)}")
    found: dict[str, float] = {}
    for key, amount in value.items():
        if not isinstance(key, str):
            raise TypeError(f"{name}: the names must be texts, got {_shown(key)}")
        if not 0 < len(key) <= MOST_NAME:
            raise ValueError(f"{name}: a name must have 1 to {MOST_NAME} characters, got {_shown(key)}")
        number = _real(f"{name}: the amount of {key}", amount, "a number")
        if not LEAST_AMOUNT <= number <= MOST_AMOUNT:
            allowed = f"above 0, from {LEAST_AMOUNT:f} to {MOST_AMOUNT:g}"
            raise ValueError(f"{name}: the amount of {key} must be {allowed}, got {_shown(amount)}")
        found[str(key)] = number
    return found


def resources_in(text: str) -> dict[str, float]:
    """Read resources as on a command line, as "gpu=1,memory=0.5".

    Raises:
        ValueError: that is not what the text has.
    """
    found: dict[str, float] = {}
    for part in text.replace(",", " ").split():
        name, equals, amount = part.partition("=")
        try:
            number = float(amount)
        except ValueError:
            number = math.nan
        if not name or not equals or not LEAST_AMOUNT <= number <= MOST_AMOUNT or name in found:
            why = "is there twice" if name in found else "is no NAME=AMOUNT with a number above 0"
            raise ValueError(f"{part!r} {why}: write for example gpu=1,memory=0.5")
        found[name] = number
    if not found:
        raise ValueError(f"{text!r} names nothing: write for example gpu=1,memory=0.5")
    return resources("resources", found)


def memory(name: str, value: Any) -> int | None:
    """Check a memory limit, a number of bytes or a text as "4GiB", and return it in bytes.

    None, 0 and "auto" give None: no limit for the single worker.

    Raises:
        TypeError: the value is neither a text nor a whole number.
        ValueError: the text names no number of bytes, or the number is negative.
    """
    if value is None or (isinstance(value, str) and value == "auto"):
        return None
    if isinstance(value, str):
        try:
            return parse_bytes(value) or None
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return whole(name, value, 0) or None


def _real(name: str, value: Any, what: str = "a number of seconds") -> float:
    if _is_flag(value) or isinstance(value, str | bytes | bytearray | complex):
        raise TypeError(f"{name} must be {what}, got {_shown(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be {what}, got {_shown(value)}") from None


def _is_flag(value: Any) -> bool:
    kind = type(value)
    return kind is bool or (kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_"))


def _range(least: int, most: int) -> str:
    if most == MOST:
        return "of 64 bits" if least == LEAST else f"from {least} on"
    return f"from {least} to {most}"


def _shown(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {value.bit_length()} bits"
    shown = repr(value)
    return f"{shown if len(shown) <= 80 else shown[:77] + '...'} ({type(value).__name__})"
