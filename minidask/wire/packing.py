"""msgpack, for text too that is no Unicode: a name or path of bytes that are no UTF-8 has lone surrogates in Python.

Those go as the three bytes that UTF-8 would have for them ("surrogatepass").
"""

from __future__ import annotations

from typing import Any

import msgpack


def pack(value: Any) -> bytes:
    """Pack a value; text without lone surrogates, nearly all, at msgpack's full speed."""
    try:
        packed: bytes = msgpack.packb(value)
    except UnicodeEncodeError:
        packed = msgpack.packb(value, unicode_errors="surrogatepass")
    return packed


def unpack(packed: Any) -> Any:
    """Unpack a value.

    Raises:
        ValueError, msgpack.UnpackException, RecursionError: it is none.
    """
    try:
        return msgpack.unpackb(packed)
    except UnicodeDecodeError:
        return msgpack.unpackb(packed, unicode_errors="surrogatepass")
