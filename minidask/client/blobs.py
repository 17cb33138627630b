"""Sends the blobs that a client holds on the cluster. They are counted, so that each is sent once and released once.

Large ones go into a store in shared memory, and only their ids are sent. If the cluster is on this machine, it is the
cluster's store. Else this process has a store of its own, and sends workers the chunks that they ask for.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from minidask.client.connection import Connection
from minidask.client.core import ClientCore
from minidask.data.store import BlobStore, warn_of_sending
from minidask.errors import SchedulerLost, SerializationError
from minidask.host.folders import place_of
from minidask.host.signals import pass_on
from minidask.wire.chunks import answer
from minidask.wire.frames import Buffer
from minidask.wire.large import OUT_OF_BAND_BYTES
from minidask.wire.messages import Chunk, FetchChunk, Message, NoBlob, OfferBlob, Payload, ReleaseBlobs


class Source(Protocol):
    """An object that makes new blobs: an `Interner`, or a description of the caller.

    Attributes:
        unsent: payloads of new blobs, by blob.
    """

    unsent: collections.deque[Mapping[bytes, Payload]]

    def forget_unsent(self) -> None:
        """Note that the new blobs cannot be sent."""


class HeldBlobs:
    """Announces blobs to the scheduler and releases them. `ClientCore` counts who needs them.

    Args:
        core: of the client.
        lock: held while the core is asked and while what it returns is posted.
        connection: to the scheduler.
        shared: the store of this machine, if the cluster uses the same; else one is made when it is first needed.
    """

    def __init__(
        self, core: ClientCore[Any], lock: threading.RLock, connection: Connection, shared: BlobStore | None
    ) -> None:
        self.dropped: collections.deque[list[bytes]] = collections.deque()
        """Blobs to be released. A handle may be dropped anywhere, inside any lock, so it only adds to this."""
        self._core = core
        self._lock = lock
        self._connection = connection
        self._store = shared
        self._own: BlobStore | None = None
        self._full = False  # there was no room for some, so no more are offered
        self._offering: dict[int, set[bytes]] = {}  # blobs that a thread writes into the store now
        self._writing = threading.RLock()  # a user's `__del__`, called by a garbage collection, may lead here again

    def announce(self, source: Source) -> None:
        """Have the scheduler know the new blobs of a source: large ones are put into the store, others are sent.

        Raises:
            SerializationError: somebody has changed an array since it was pickled.
            SchedulerLost: there is no connection any more.
        """
        offering: set[bytes] = set()
        self._offering[id(offering)] = offering
        try:
            while source.unsent:
                self._announce_first(source.unsent, offering)
        except SerializationError:
            source.forget_unsent()
            raise
        finally:
            del self._offering[id(offering)]
        self._connection.flush()

    def _announce_first(self, unsent: collections.deque[Mapping[bytes, Payload]], offering: set[bytes]) -> None:
        """Announce the first blobs of these, and have them held.

        They are written into the store outside of the lock, for that takes long. Meanwhile other threads may announce
        some of them, or release others: so the core is asked again.
        """
        offers: dict[bytes, OfferBlob] = {}
        blobs: Mapping[bytes, Payload] | None = None
        while True:
            with self._lock:
                first = unsent[0] if unsent else None
                if first is None or (blobs is not None and first is not blobs):
                    return  # another thread has announced them
                blobs = first
                offering |= {blob for blob in self._core.lacking(blobs) if _is_large(blobs[blob])}
                large = {blob: blobs[blob][0] for blob in offering - offers.keys() if blob in blobs}
                if not large or self._full:
                    self._connection.post(self._core.announce(blobs, offers))
                    self._core.hold(blobs, offers)
                    unsent.popleft()
                    return
            offers |= self._offer(large)

    def _offer(self, large: Mapping[bytes, Buffer]) -> dict[bytes, OfferBlob]:
        """Put large blobs into the store, and return their offers. Without room: none, now and later."""
        with self._writing:
            store = self._store_for(large)
        if store is None:
            return {}
        place = place_of(store.folder)
        return {blob: OfferBlob(blob, len(data), place) for blob, data in large.items()}

    def _store_for(self, large: Mapping[bytes, Buffer]) -> BlobStore | None:
        """Put blobs into the store and return it; None if there is no room. The first blobs make the store."""
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

    def release(self, blobs: Collection[bytes]) -> None:
        """Release blobs: each has one holder less. The scheduler is told of those that have none any more."""
        if blobs:
            with self._lock:
                self.post(self._core.release(blobs))
            self.flush()

    def post(self, messages: Sequence[Message]) -> None:
        """Post messages that only tidy up, if there is a connection. The caller holds the lock.

        The store releases the blobs that the scheduler may forget, unless a thread is about to announce them anew.
        """
        for message in messages:
            if type(message) is ReleaseBlobs:
                offered = set().union(*self._offering.values())
                self._unpin(blob for blob in message.blobs if blob not in offered)
        if messages and not self._core.closed:
            self._connection.post(messages)

    def flush(self) -> None:
        """Write all messages that were posted, if there is a connection."""
        if not self._core.closed:
            with contextlib.suppress(SchedulerLost):
                self._connection.flush()

    def _unpin(self, blobs: Iterable[bytes]) -> None:
        """Release blobs in the store; blobs that are not in it are ignored."""
        if self._store is not None:
            for blob in blobs:
                self._store.unpin(blob)

    def abandon(self, lock: threading.RLock) -> None:
        """In a forked child: forget all blobs, which are the parent's, and use the core's new lock."""
        self._store = self._own = None
        self._lock, self._writing = lock, threading.RLock()

    def close(self) -> None:
        """Release all blobs in the store, as the connection is gone. A store of this process's own is removed."""
        self._unpin(self._core.stored())
        if self._own is not None:
            self._own.remove()


def _is_large(payload: Payload) -> bool:
    """Whether a blob goes into the store, and is not sent whole."""
    return len(payload) == 1 and len(payload[0]) >= OUT_OF_BAND_BYTES
