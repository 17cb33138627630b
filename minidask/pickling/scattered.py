"""The handle that `Client.scatter` returns. It holds the data that it stands for on the cluster."""

from __future__ import annotations

import collections
from collections.abc import Collection
from typing import Any, Protocol

from minidask.errors import SerializationError


class Holder(Protocol):
    """Counts the needs of each blob: the shell of a client."""

    dropped: collections.deque[list[bytes]]
    """Ids of blobs to be held once less. A garbage collection appends here, inside any lock."""

    def release(self, blobs: Collection[bytes]) -> None:
        """Hold each of these blobs once less."""


class Scattered:
    """A handle on data that `Client.scatter` has sent ahead. Pass it, at any depth, in the place of the data.

    The data stays on the cluster until the handle is released, or dropped.

    Args:
        blob: the id of the data's blob.
        refers_to: the ids of the blobs of large buffers in the data.
        kind: the name of the data's type.
        holder: holds all these blobs once for this handle.
    """

    def __init__(self, blob: bytes, refers_to: list[bytes], kind: str, holder: Holder) -> None:
        self.blob = blob
        self.refers_to = refers_to
        self._kind = kind
        self._holder: Holder | None = holder

    def is_of(self, holder: object) -> bool:
        """Whether this holder has made it, and it was not released."""
        return self._holder is holder

    def release(self) -> None:
        """Let the cluster forget the data once the tasks that use it have ended. A second call does nothing."""
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.release([self.blob, *self.refers_to])

    def __del__(self) -> None:
        if self._holder is not None:
            self._holder.dropped.append([self.blob, *self.refers_to])

    def __reduce__(self) -> Any:
        raise SerializationError("a scattered handle can only be sent as an argument of a task of its own client")

    def __repr__(self) -> str:
        return f"<minidask.Scattered {self._kind} {self.blob.hex()[:8]}>"
