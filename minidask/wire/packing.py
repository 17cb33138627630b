"""msgpack for any text of Python's, with lone surrogates too.

A file's name may be bytes that are no UTF-8. Python turns those into lone surrogates, which msgpack refuses. Here each
is sent as the three bytes that UTF-8 would have for it ("surrogatepass").
"""

from __future__ import annotations

from typing import Any

import msgpack


def pack(value: Any) -> bytes:
    """Pack a plain value into bytes. A value with lone surrogates in a text takes twice the time."""
    try:
        packed: bytes = msgpack.packb(value)
    except UnicodeEncodeError:
        packed = msgpack.packb(value, unicode_errors="surrogatepass")
    return packed


def unpack(packed: Any) -> Any:
    """Unpack the value that `pack` has made bytes of.

    Raises:
        ValueError, msgpack.UnpackException, RecursionError: the bytes are no packed value.
    """
    try:
        return msgpack.unpackb(packed)
    except UnicodeDecodeError:
        return msgpack.unpackb(packed, unicode_errors="surrogatepass")
