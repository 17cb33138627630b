"""How blobs get from clients to workers, and from worker to worker; whatever passes through here is not kept.

small   client ─PutBlob─► shelf ─PutBlob─► worker
large   client ─OfferBlob─►  ─NeedBlob(source)─► worker ◄─parts─► source: another worker
                                                        ◄─parts─► scheduler ◄─parts─► client
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from minidask.errors import ProtocolError
from minidask.wire import messages as m
from minidask.wire.frames import AUTHENTICATED
from minidask.wire.large import BLOB_ID_BYTES, answer

from .blobs import RELAY, BlobRecord, BlobTable, Copy
from .tasks import ClientRecord, WorkerRecord

MAX_TEXT = 10_000


class BlobRouter:
    """Tells workers where to get blobs.

    Args:
        shelf: all blobs.
        workers, clients: all there are, by peer; the scheduler's own tables.
        send: takes the messages to send, each with its peer.
    """

    def __init__(
        self,
        shelf: BlobTable,
        workers: dict[int, WorkerRecord],
        clients: dict[int, ClientRecord],
        send: Callable[[int, m.Message], None],
    ) -> None:
        self.shelf = shelf
        self._clients = clients
        self._workers = workers
        self._send = send
        self._serving: dict[int, WorkerRecord] = {}  # the workers at which others can fetch

    # --- workers ---

    def join(self, worker: WorkerRecord) -> None:
        """A worker has joined."""
        if worker.serves:
            self._serving[worker.peer] = worker

    def lose(self, worker: WorkerRecord) -> None:
        """A worker is gone: those that fetched from it need another source."""
        self._serving.pop(worker.peer, None)
        for name in worker.blobs:
            for peer in self.shelf.lose_copy(name, worker.peer):
                self._direct(name, self._workers[peer], f"machine {worker.name}, which had it, was lost")

    def give(self, names: Iterable[bytes], worker: WorkerRecord) -> None:
        """See to it that a worker has these blobs before the next message to it."""
        for name in names:
            if name not in worker.blobs:
                worker.blobs.add(name)
                record = self.shelf.records[name]
                if record.size:
                    self._direct(name, worker, "")
                else:
                    self._send(worker.peer, m.PutBlob(name, record.payload))

    def forget(self, names: list[bytes]) -> None:
        """These blobs are gone here: workers need them no more either."""
        for worker in self._workers.values() if names else ():
            known = worker.blobs.intersection(names)
            if known:
                worker.blobs -= known
                self._send(worker.peer, m.ReleaseBlobs(sorted(known)))

    def _direct(self, name: bytes, worker: WorkerRecord, why: str) -> None:
        """Tell a worker where to fetch a blob; or, for the reason `why`, that it cannot be had."""
        record = self.shelf.records[name]
        if not self.shelf.choose_source(name, worker.peer, self._serving):
            worker.blobs.discard(name)  # the next task that needs it starts afresh
            peers = self.shelf.lose_copy(name, worker.peer)
            self._send(worker.peer, m.BlobLost(name, why))
            for peer in peers:
                self._direct(name, self._workers[peer], f"machine {worker.name}, which was to have it, has not got it")
            return
        source = self._serving.get(record.copies[worker.peer].source)
        address = source.serves if source else ""
        self._send(worker.peer, m.NeedBlob(name, record.size, address, self._places(record, worker)))

    def _places(self, record: BlobRecord, worker: WorkerRecord) -> list[str]:
        """The stores on a worker's own machine that have a blob."""
        places = [place for place in record.holders.values() if place]
        places += [self._workers[peer].place for peer, copy in record.copies.items() if copy.complete]
        return [place for place in places if place and place.partition(":")[0] == worker.place.partition(":")[0]]

    # --- what workers say ---

    def have(self, worker: WorkerRecord, message: m.HaveBlob) -> None:
        """A worker has all of a blob."""
        copy = self._copy(worker, message.blob)
        if copy is not None:
            copy.complete = True

    def failed(self, worker: WorkerRecord, message: m.FetchFailed) -> None:
        """A worker cannot have a blob from where it was told; a stale word of an earlier source is ignored."""
        copy = self._copy(worker, message.blob)
        source = self._serving.get(copy.source) if copy is not None else None
        if copy is not None and not copy.complete and message.source == (source.serves if source else ""):
            copy.failed.add(copy.source)
            self._direct(message.blob, worker, message.text[:MAX_TEXT])

    def chunk_wanted(self, worker: WorkerRecord, message: m.FetchChunk) -> None:
        """A worker wants a chunk from a client that holds the blob, or, if its bytes are here, from the scheduler."""
        record = self._record(message.blob)
        holder = _offering(record) if record is not None else None
        if holder is not None:
            self._send(holder, message._replace(peer=worker.peer))
            return
        content = memoryview(record.payload[0]) if record is not None and record.payload else memoryview(b"")

        def read(offset: int, size: int) -> memoryview | None:
            return content[offset : offset + size] if offset + size <= len(content) else None

        self._send(worker.peer, answer(message._replace(peer=0), read, "no client holds it any more"))

    def _record(self, blob: bytes) -> BlobRecord | None:
        record = self.shelf.records.get(blob)
        return record if record is not None and record.size else None

    def _copy(self, worker: WorkerRecord, blob: bytes) -> Copy | None:
        record = self._record(blob)
        return record.copies.get(worker.peer) if record is not None else None

    # --- what clients say ---

    def put(self, client: ClientRecord, message: m.PutBlob) -> None:
        """A client sends a small blob."""
        _check_name(message.blob)
        if not message.payload:
            raise ProtocolError(f"blob {message.blob.hex()} has no buffer, so it is nothing")
        self.shelf.put(message.blob, message.payload, client.peer)
        client.blobs.add(message.blob)

    def offer(self, client: ClientRecord, message: m.OfferBlob) -> None:
        """A client has a large one."""
        _check_name(message.blob)
        if not 0 < message.size <= AUTHENTICATED.total:
            raise ProtocolError(f"a blob of {message.size} bytes cannot be offered")
        self.shelf.offer(message.blob, message.size, message.place, client.peer)
        client.blobs.add(message.blob)

    def release(self, client: ClientRecord, message: m.ReleaseBlobs) -> None:
        """A client needs these no more."""
        self._let_go(client, client.blobs.intersection(message.blobs))

    def leave(self, client: ClientRecord) -> None:
        """A client is gone: workers that fetched from it go on with another one that has the same, if there is one."""
        self._let_go(client, set(client.blobs))

    def _let_go(self, client: ClientRecord, names: set[bytes]) -> None:
        client.blobs -= names
        sources = {name: _offering(self.shelf.records[name]) for name in names}
        self.forget(self.shelf.release(names, client.peer))
        for name, source in sources.items():
            if source == client.peer and name in self.shelf.records:
                for peer in self.shelf.relayed(name):
                    self._direct(name, self._workers[peer], "")

    def answer(self, client: ClientRecord, message: m.Chunk | m.NoBlob) -> None:
        """A client answers what a worker wanted; nobody else is sent anything."""
        worker = self._workers.get(message.peer)
        copy = self._copy(worker, message.blob) if worker is not None else None
        if worker is not None and copy is not None and not copy.complete and copy.source == RELAY:
            self._send(worker.peer, message._replace(peer=0))

    # --- results, from a worker to a client: passed on as they come ---

    def result_chunk_wanted(self, client: ClientRecord, message: m.FetchChunk) -> None:
        """A client wants a chunk of a result."""
        if message.peer in self._workers:
            self._send(message.peer, message._replace(peer=client.peer))
        else:
            self._send(client.peer, m.NoBlob(message.blob, message.peer, "its machine was lost"))

    def result_chunk(self, worker: WorkerRecord, message: m.Chunk | m.NoBlob) -> None:
        """A worker answers what a client wanted, which may have left."""
        if message.peer in self._clients:
            self._send(message.peer, message._replace(peer=worker.peer))

    def result_taken(self, client: ClientRecord, message: m.ResultTaken) -> None:
        """A client needs a buffer of a result no more."""
        if message.peer in self._workers:
            self._send(message.peer, message._replace(peer=0))


def _check_name(blob: bytes) -> None:
    if len(blob) != BLOB_ID_BYTES:
        raise ProtocolError(f"a blob's name has {BLOB_ID_BYTES} bytes, and not {len(blob)}")


def _offering(record: BlobRecord) -> int | None:
    """The client that sends the chunks of a blob."""
    return next((client for client, place in record.holders.items() if place is not None), None)
