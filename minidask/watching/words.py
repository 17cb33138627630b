"""A message as text for people. Pure.

All of it may come from strangers: what does not print is escaped, and what is long is cut. Payloads are shown as
bytes: nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from minidask.host.sizes import format_bytes
from minidask.wire.messages import Message

LONGEST_TEXT = 60
MOST_ITEMS = 3
DEEPEST = 3
FIRST_BYTES = 8


def fields_of(message: Message) -> str:
    """All fields of a message, as `task=1 name='pow' timeout=nil payload=[41 B: 80 05 95 1e 00 00 00 00 …]`."""
    values: tuple[Any, ...] = message
    names: tuple[str, ...] = message._fields
    return " ".join(f"{name}={shown(value)}" for name, value in zip(names, values, strict=True))


def shown(value: Any, depth: int = 0) -> str:
    """A value of a field, in the words of docs/protocol.md: nil, true, bytes in hex."""
    if value is None or isinstance(value, bool):
        return {None: "nil", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"{value[:LONGEST_TEXT]!r}" + ("…" if len(value) > LONGEST_TEXT else "")
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes | bytearray | memoryview):
        return _bytes(value)
    if isinstance(value, dict):
        items = (f"{shown(key, depth + 1)}: {shown(item, depth + 1)}" for key, item in value.items())
        return "{" + _first(items, len(value), depth) + "}"
    if isinstance(value, list | tuple):
        return "[" + _first((shown(item, depth + 1) for item in value), len(value), depth) + "]"
    return str(value)[:LONGEST_TEXT]


def _bytes(value: bytes | bytearray | memoryview) -> str:
    if len(value) == 16:  # most likely the id of a blob
        return bytes(value[:4]).hex() + "…"
    more = " …" if len(value) > FIRST_BYTES else ""
    return f"{format_bytes(len(value))}: {bytes(value[:FIRST_BYTES]).hex(' ')}{more}" if value else "0 B"


def _first(items: Iterable[str], size: int, depth: int) -> str:
    if size and depth >= DEEPEST:
        return "…"
    texts = [item for _, item in zip(range(MOST_ITEMS), items, strict=False)]
    if size > MOST_ITEMS:
        texts.append(f"… {size} in all")
    return ", ".join(texts)
