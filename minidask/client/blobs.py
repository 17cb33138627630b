"""The blobs that a client holds on the cluster: counted, so that each is sent once and released once.

Large ones go into a store in shared memory, and only their ids are sent. If the cluster is on this machine, it is the
cluster's store. Else this process has a store of its own, and sends workers the chunks that they ask for.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Mapping

from minidask.data.store import BlobStore, warn_of_sending
from minidask.host.folders import place_of
from minidask.host.signals import pass_on
from minidask.wire.frames import Buffer
from minidask.wire.large import OUT_OF_BAND_BYTES, answer
from minidask.wire.messages import Chunk, FetchChunk, Message, NoBlob, OfferBlob, Payload, PutBlob, ReleaseBlobs


class HeldBlobs:
    """Counts who needs a blob: calls, scattered handles, and the tasks that will map it.

    Args:
        send: takes what has to arrive.
        send_if_connected: takes what may be lost with the connection.
        shared: the store of this machine, if the cluster uses the same; else one is made when it is first needed.
    """

    def __init__(
        self, send: Callable[[Message], None], send_if_connected: Callable[[Message], None], shared: BlobStore | None
    ) -> None:
        self._send = send
        self._send_if_connected = send_if_connected
        self._store = shared
        self._own: BlobStore | None = None
        self._full = False
        self._counts: dict[bytes, int] = {}
        self._stored: set[bytes] = set()
        self._lock = threading.RLock()  # held while sending: whoever finds a blob held may name it at once

    def put(self, blobs: Mapping[bytes, Payload]) -> None:
        """Hold these blobs, each once more. One that was not held is sent, or offered if it is large."""
        with self._lock:
            new = {blob: payload for blob, payload in blobs.items() if blob not in self._counts}
            offers = self._offer({blob: payload[0] for blob, payload in new.items() if _is_large(payload)})
            for blob, payload in new.items():
                self._send(offers.get(blob) or PutBlob(blob, payload))
            for blob in blobs:
                self._counts[blob] = self._counts.get(blob, 0) + 1

    def _offer(self, large: Mapping[bytes, Buffer]) -> dict[bytes, OfferBlob]:
        """Put large blobs into the store, and return their offers; none, now and later, if there is no room."""
        store = self._store_for(large)
        if store is None:
            return {}
        self._stored.update(large)
        place = place_of(store.folder)
        return {blob: OfferBlob(blob, len(data), place) for blob, data in large.items()}

    def _store_for(self, large: Mapping[bytes, Buffer]) -> BlobStore | None:
        """The store, with these blobs in it; None if there is no room. The first blobs make the store."""
        if self._full or not large:
            return None
        try:
            if self._store is None:
                self._store = self._own = BlobStore.make()
            self._full = not self._store.put_all(large)
        except OSError as error:
            pass_on(error)
            self._full = True
            warn_of_sending(large.values(), error)
        return None if self._full else self._store

    def chunk(self, wanted: FetchChunk) -> Chunk | NoBlob:
        """Return the answer to a worker that wants a chunk of a blob."""
        store = self._store
        read = store.read if store is not None else lambda blob, offset, size: None
        return answer(wanted, functools.partial(read, wanted.blob), "the client does not have it any more")

    def hold(self, blobs: Iterable[bytes]) -> None:
        """Hold these blobs, which are held already, once more."""
        with self._lock:
            for blob in blobs:
                self._counts[blob] += 1

    def missing(self, blobs: Iterable[bytes]) -> bool:
        """Whether one of these blobs is not held."""
        counts = self._counts
        return any(blob not in counts for blob in blobs)

    def use(self, blobs: Iterable[bytes]) -> list[bytes]:
        """Hold those blobs that a task will map. Returns them, for `release` when the task is over."""
        if not self._stored:
            return []
        with self._lock:
            used = [blob for blob in blobs if blob in self._stored]
            self.hold(used)
        return used

    def release(self, blobs: Iterable[bytes]) -> None:
        """Hold these blobs once less. The cluster is told of those that are not held any more."""
        with self._lock:
            gone = []
            for blob in blobs:
                count = self._counts.get(blob, 0) - 1  # 0: a signal's handler has ended what would have counted it
                if count > 0:
                    self._counts[blob] = count
                elif self._counts.pop(blob, 0):
                    gone.append(blob)
            for blob in self._stored.intersection(gone):
                self._stored.discard(blob)
                self._unpin(blob)
            if gone:
                self._send_if_connected(ReleaseBlobs(gone))

    def _unpin(self, blob: bytes) -> None:
        if self._store is not None:
            self._store.unpin(blob)

    def abandon(self) -> None:
        """In a forked child: forget all blobs, which are the parent's."""
        self._store, self._own, self._stored = None, None, set()
        self._lock = threading.RLock()

    def close(self) -> None:
        """Let the store forget all blobs: the connection is gone. A store of this process's own is removed."""
        with self._lock:
            for blob in self._stored:
                self._unpin(blob)
            self._stored.clear()
            if self._own is not None:
                self._own.remove()


def _is_large(payload: Payload) -> bool:
    return len(payload) == 1 and len(payload[0]) >= OUT_OF_BAND_BYTES
