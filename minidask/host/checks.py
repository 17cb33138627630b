"""What users pass, checked and converted where they pass it: a wrong value ends a call, never a connection.

Each function takes the argument's name and value and returns the value as the rest of minidask wants it.

Raises, in all of them:
    TypeError: the value is of a kind that makes no sense there.
    ValueError: it is of the right kind, and out of range.
"""

from __future__ import annotations

import math
import operator
import os
from typing import Any

from minidask.host.sizes import parse_bytes

LEAST, MOST = -(2**63), 2**63 - 1  # what the wire's whole numbers can be
MOST_WORKERS = 10_000
MOST_LIMIT = 2**31
LONGEST_WAIT = 2_000_000.0
"""Seconds, about three weeks: poll() cannot wait longer, and nobody notices the difference."""
FOREVER = 1e9
"""Seconds, about thirty years: a longer time limit is none."""


def whole(name: str, value: Any, least: int = LEAST, most: int = MOST) -> int:
    """A whole number: an int or what stands for one, as NumPy's do; no bool, no float."""
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
    """Seconds to wait: any real number from 0 on, or above 0; infinity, too, is cut to `LONGEST_WAIT`."""
    number = _real(name, value)
    if not (number >= 0 if zero else number > 0):
        raise ValueError(f"{name} must be {'at least' if zero else 'above'} 0 seconds, got {_shown(value)}")
    return min(number, LONGEST_WAIT)


def time_limit(name: str, value: Any) -> float | None:
    """Seconds above 0 after which something is stopped; None for never, as for infinity."""
    if value is None:
        return None
    number = _real(name, value)
    if not number > 0:
        raise ValueError(f"{name} must be above 0 seconds, got {_shown(value)}")
    return None if number > FOREVER else number


def flag(name: str, value: Any) -> bool:
    """True or False, NumPy's too."""
    if not _is_flag(value):
        raise TypeError(f"{name} must be True or False, got {_shown(value)}")
    return bool(value)


def text(name: str, value: Any) -> str:
    """Text that can be sent."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, got {_shown(value)}")
    return str(value)


def path(name: str, value: Any) -> str | None:
    """A file's path, as text or as what stands for one; or None."""
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


def workers(name: str, value: Any) -> int:
    """A number of workers; any other value is a ValueError."""
    try:
        return whole(name, value, 1, MOST_WORKERS)
    except (TypeError, ValueError):
        text = f"{name}: the number of workers must be a whole number above 0 and at most {MOST_WORKERS}"
        raise ValueError(f"{text}, got {_shown(value)}") from None


def memory(name: str, value: Any) -> int | None:
    """Bytes, as a number or as "4GiB"; None without a limit of its own: for None, 0 and "auto"."""
    if value is None or (isinstance(value, str) and value == "auto"):
        return None
    if isinstance(value, str):
        try:
            return parse_bytes(value) or None
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return whole(name, value, 0) or None


def _real(name: str, value: Any) -> float:
    if _is_flag(value) or isinstance(value, str | bytes | bytearray | complex):
        raise TypeError(f"{name} must be a number of seconds, got {_shown(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be a number of seconds, got {_shown(value)}") from None


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
