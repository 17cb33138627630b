"""The blobs that a client holds on the cluster: counted, so that each is sent once and released once.

Large ones go into the store of the machine, if the cluster is on this one; then only their names are sent.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable

from minidask.blobstore import BlobStore
from minidask.payload import OUT_OF_BAND_BYTES
from minidask.wire.messages import Payload, PutBlob, ReleaseBlobs


class HeldBlobs:
    """Counts who needs a blob: calls, scattered handles, and the tasks that will map it.

    Args:
        put: sends the message.
        release: sends the message, if there is still a connection.
        store: of this machine, shared with the cluster; None if there is none.
    """

    def __init__(
        self, put: Callable[[PutBlob], None], release: Callable[[ReleaseBlobs], None], store: BlobStore | None
    ) -> None:
        self._send_put = put
        self._send_release = release
        self._store = store
        self._full = False
        self._counts: dict[bytes, int] = {}
        self._stored: set[bytes] = set()
        self._lock = threading.RLock()  # held while sending: whoever finds a blob held may name it at once

    def put(self, blob: bytes, payload: Payload) -> None:
        """Hold a blob, once more; the first time it is sent."""
        with self._lock:
            if blob not in self._counts:
                self._send_put(PutBlob(blob, [] if self._keep(blob, payload) else payload))
            self._counts[blob] = self._counts.get(blob, 0) + 1

    def _keep(self, blob: bytes, payload: Payload) -> bool:
        """Put a large blob into the store; returns whether it is there."""
        if self._store is None or self._full or len(payload) != 1 or len(payload[0]) < OUT_OF_BAND_BYTES:
            return False
        try:
            self._store.put(blob, payload[0])
        except OSError as error:
            warnings.warn(
                f"no room for {len(payload[0])} bytes in {self._store.folder} ({error}): large data is sent instead,"
                " which is slower and takes more memory",
                stacklevel=2,
            )
            self._full = True
            return False
        self._stored.add(blob)
        return True

    def hold(self, blobs: Iterable[bytes]) -> None:
        """Hold these, which are held already, once more."""
        with self._lock:
            for blob in blobs:
                self._counts[blob] += 1

    def use(self, blobs: Iterable[bytes]) -> list[bytes]:
        """A task will map these: those of them that are in the store stay there until they are given to `release`."""
        if not self._stored:
            return []
        with self._lock:
            used = [blob for blob in blobs if blob in self._stored]
            self.hold(used)
        return used

    def release(self, blobs: Iterable[bytes]) -> None:
        """Hold these once less; those that nobody holds any more are released."""
        with self._lock:
            gone = []
            for blob in blobs:
                self._counts[blob] -= 1
                if not self._counts[blob]:
                    del self._counts[blob]
                    gone.append(blob)
            for blob in self._stored.intersection(gone):
                self._stored.discard(blob)
                self._unpin(blob)
            if gone:
                self._send_release(ReleaseBlobs(gone))

    def _unpin(self, blob: bytes) -> None:
        if self._store is not None:
            self._store.unpin(blob)

    def close(self) -> None:
        """The connection is gone: nothing is held any more."""
        with self._lock:
            for blob in self._stored:
                self._unpin(blob)
            self._stored.clear()
