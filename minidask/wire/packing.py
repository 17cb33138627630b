"""msgpack for any text of Python's, with lone surrogates too.

A file's name may be bytes that are no UTF-8. Python turns those into lone surrogates, which msgpack refuses. Here each
is sent as the three bytes that UTF-8 would have for it ("surrogatepass").
"""

from __future__ import annotations

from typing import Any

import msgpack


def pack(value: Any) -> bytes:
    """Return a value as bytes. Text with lone surrogates takes twice the time; nearly none has any."""
    try:
        packed: bytes = msgpack.packb(value)
    except UnicodeEncodeError:
        packed = msgpack.packb(value, unicode_errors="surrogatepass")
    return packed


def unpack(packed: Any) -> Any:
    """Return the value that was packed.

    Raises:
        ValueError, msgpack.UnpackException, RecursionError: the bytes are no packed value.
    """
    try:
        return msgpack.unpackb(packed)
    except UnicodeDecodeError:
        return msgpack.unpackb(packed, unicode_errors="surrogatepass")
