"""Numbers of bytes as people write and read them, for options, arguments and messages. Pure."""

from __future__ import annotations

import re

_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_UNITS |= {f"{unit}IB": size for unit, size in _UNITS.items() if unit not in ("", "B")}
_UNITS |= {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_bytes(text: str | int) -> int:
    """Read a number of bytes: 4294967296, "4GiB", "4GB", "512M" or "1e9". K, M, G and T are powers of 1,024.

    Raises:
        ValueError: the text or value is no such number.
    """
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([A-Z]*)", str(text).strip(), re.IGNORECASE)
    try:
        if match is None or isinstance(text, bool | float):
            raise ValueError
        return int(float(match[1]) * _UNITS[match[2].upper()])
    except (ValueError, KeyError, OverflowError):
        raise ValueError(f"{text!r} is no number of bytes: use forms like 4294967296, 4GiB, 4GB or 512M") from None


def count(number: float, noun: str) -> str:
    """A number with its noun, in the plural unless it is one: "1 machine", "2 machines"."""
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"


def format_bytes(count: int) -> str:
    """A number of bytes for people to read, as "1.5 GiB"."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1023.95:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
