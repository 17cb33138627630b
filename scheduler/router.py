"""How blobs get from clients to workers, and from worker to worker. What passes through the scheduler is not kept.

    small   client ─PutBlob─► BlobTable ─PutBlob─► worker
    large   client ─OfferBlob─► BlobTable ─NeedBlob(source)─► worker ◄─chunks─► source: another worker,
                                                              or through the scheduler: a client

**A broadcast.** A client calls `Parallel` with an array of 256 MiB, and eight machines need it. If the client sent it
to each, its network card would send 2 GiB. In a tree with two branches, the client and each inner machine would still
send it twice. Here the machines form a chain. Each sends the data once, and passes on every chunk as soon as it has
come. (The array travels as eight blobs, its pieces. The picture shows it as one.)

    client ─chunks─► w1 ─chunks─► w2 ─chunks─► w3 ─► … ─► w8      (told by NeedBlob: source "", w1, w2, … w7)

    time    w1 has     w2 has     w3 has            w8 has
      1     chunk 1
      2     chunk 2    chunk 1
      3     chunk 3    chunk 2    chunk 1
      …
      8     chunk 8    chunk 7    chunk 6    …      chunk 1
      …
    263                                             chunk 256

With chunks of 1 MiB the last of n machines has all of it n chunks later than the first. So the time hardly grows with
the number of machines, and each network card carries the blob once in and once out.

**One rule makes the chain** (`BlobTable.choose_source`): fetch from the machine that feeds the fewest others, and that
does not itself get the blob through you. A machine counts as a source from the moment it was told to fetch. The first
machine finds nobody, and fetches from the client. The second finds the first; the third finds that the second feeds
nobody; and so on. Once the blob is everywhere, a newcomer fetches from a machine that is not busy.

**Failures.** A source that is lost, or refuses, is replaced by the same rule, and the chain behind it stays as it is:
its machines keep what they have, and wait. Two facts keep this from going wrong. A machine never gets a source that
hangs on it, directly or through others, so there is no ring. And a source that has failed once is not named again;
after two failures the client sends the blob itself, as a firewall may stand between the workers. Where no client holds
the blob any more and no other machine has it, the worker is told `BlobLost`, and the tasks that need it fail there.

**Through the scheduler** goes only what a client sends to the first machine, or to machines that can reach no other,
and the chunks of large results. A receiver asks for 8 MiB in advance (`minidask/data/downloads.py`), so at most that
much of a transfer is in the scheduler at a time. The bytes stay with the client that offers them. When it leaves, the
next client with the same content is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from minidask.errors import ProtocolError
from minidask.wire import messages as m
from minidask.wire.chunks import answer
from minidask.wire.fields import MAX_BLOBS
from minidask.wire.frames import AUTHENTICATED
from minidask.wire.large import BLOB_ID_BYTES

from .blobs import RELAY, BlobRecord, BlobTable, Copy
from .quota import size_of
from .stream import EventStream
from .tasks import ClientRecord, WorkerRecord
from .windows import Windows

MAX_TEXT = 10_000
MAX_SHOWN_BLOBS = 10_000
TOO_MUCH = "too much was asked for that has not come yet"


class BlobRouter:
    """Tells workers where to get blobs, and passes on what they cannot get from one another.

    Args:
        table: all blobs.
        workers: all there are, by peer; the scheduler's own table.
        clients: the same of clients.
        stream: is told what workers have fetched.
        send: takes each message to send, with the peer that it is for.
    """

    def __init__(
        self,
        table: BlobTable,
        workers: dict[int, WorkerRecord],
        clients: dict[int, ClientRecord],
        stream: EventStream,
        send: Callable[[int, m.Message], None],
    ) -> None:
        self.table = table
        self._clients = clients
        self._workers = workers
        self._stream = stream
        self._send = send
        self._windows = Windows()
        self._serving: dict[int, WorkerRecord] = {}  # the workers at which others can fetch

    # --- workers ---

    def join(self, worker: WorkerRecord) -> None:
        """Enter a new worker. Other workers may be told to fetch from it."""
        if worker.serves:
            self._serving[worker.peer] = worker

    def lose(self, worker: WorkerRecord) -> None:
        """Forget a worker that is gone. Workers that were fetching from it are told of another source."""
        self._serving.pop(worker.peer, None)
        self._windows.lose(worker.peer)
        for blob in worker.blobs:
            for peer in self.table.lose_copy(blob, worker.peer):
                self._direct(blob, self._workers[peer], f"machine {worker.name}, which had it, was lost")

    def give(self, blobs: Iterable[bytes], worker: WorkerRecord) -> None:
        """Send a worker those of these blobs that it lacks; for a large one, where to fetch it. A task follows."""
        for blob in blobs:
            if blob not in worker.blobs:
                worker.blobs.add(blob)
                record = self.table.records[blob]
                if record.size:
                    self._direct(blob, worker, "")
                else:
                    self._send(worker.peer, m.PutBlob(blob, record.payload))

    def unuse(self, blobs: list[bytes]) -> None:
        """A task, or a hold, needs these blobs no more."""
        self.forget(self.table.unuse(blobs))

    def forget(self, blobs: list[bytes]) -> None:
        """Tell all workers to forget these blobs: no client holds them, and no task uses them."""
        for worker in self._workers.values() if blobs else ():
            known = worker.blobs.intersection(blobs)
            if known:
                worker.blobs -= known
                some = sorted(known)
                for start in range(0, len(some), MAX_BLOBS):
                    self._send(worker.peer, m.ReleaseBlobs(some[start : start + MAX_BLOBS]))

    def _direct(self, blob: bytes, worker: WorkerRecord, why: str) -> None:
        """Tell a worker where to fetch a blob.

        If no source is left, tell it that the blob is lost, for the reason `why`.
        """
        record = self.table.records[blob]
        if not self.table.choose_source(blob, worker.peer, self._serving):
            worker.blobs.discard(blob)  # the next task that needs it starts afresh
            peers = self.table.lose_copy(blob, worker.peer)
            self._send(worker.peer, m.BlobLost(blob, why))
            for peer in peers:
                self._direct(blob, self._workers[peer], f"machine {worker.name}, which was to have it, has not got it")
            return
        source = self._serving.get(record.copies[worker.peer].source)
        address = source.serves if source else ""
        if source is None:
            self._windows.begin(worker.peer, RELAY)
        self._send(worker.peer, m.NeedBlob(blob, record.size, address, self._places(record, worker)))

    def _places(self, record: BlobRecord, worker: WorkerRecord) -> list[str]:
        """The places on a worker's own machine where a store has the blob."""
        places = [place for place in record.holders.values() if place]
        places += [self._workers[peer].place for peer, copy in record.copies.items() if copy.complete]
        return [place for place in places if place and place.partition(":")[0] == worker.place.partition(":")[0]]

    def holders(self) -> list[tuple[bytes, int, list[str]]]:
        """The blobs, the largest first, each with its bytes and the addresses of the workers that have all of it.

        A worker that shares a client's store has what that client has written there.
        """
        blobs = sorted(((self.table.size(blob), blob) for blob in self.table.records), reverse=True)[:MAX_SHOWN_BLOBS]
        at: dict[str | None, set[int]] = {}  # by place
        having: dict[bytes, set[int]] = {blob: set() for _, blob in blobs}
        small = {blob for blob in having if not self.table.records[blob].size}
        for worker in self._workers.values():
            at.setdefault(worker.place or None, set()).add(worker.peer)
            for blob in small & worker.blobs:
                having[blob].add(worker.peer)
        for blob in having.keys() - small:
            record = self.table.records[blob]
            having[blob].update(peer for peer, copy in record.copies.items() if copy.complete)
            having[blob].update(*(at.get(place, ()) for place in record.holders.values() if place))
        return [(blob, size, [self._workers[peer].address for peer in sorted(having[blob])]) for size, blob in blobs]

    # --- what workers say ---

    def have(self, worker: WorkerRecord, message: m.HaveBlob) -> None:
        """A worker has all of a blob: note that its copy is complete. Ignored if nobody needs the blob any more."""
        copy = self._copy(worker, message.blob)
        if copy is not None:
            copy.complete = True
            size = self.table.records[message.blob].size
            self._stream.fetched(message.blob, size, worker, self._serving.get(copy.source))

    def failed(self, worker: WorkerRecord, message: m.FetchFailed) -> None:
        """A worker cannot get a blob from its source: name another one. A message about an earlier source is stale."""
        copy = self._copy(worker, message.blob)
        source = self._serving.get(copy.source) if copy is not None else None
        if copy is not None and not copy.complete and message.source == (source.serves if source else ""):
            if copy.source != RELAY or not self._refute(self.table.records[message.blob]):
                copy.failed.add(copy.source)
            self._direct(message.blob, worker, message.text[:MAX_TEXT])

    def _refute(self, record: BlobRecord) -> bool:
        """Ask the client for a blob no more that has given none, or other bytes. Returns whether another one offers it.

        Any client may offer any name. So what one has told, the size too, holds for its own offer alone.
        """
        liar = record.offering()
        if liar is not None:
            record.refuted.add(liar)
        other = record.offering()
        if other is not None:
            record.size = record.sizes[other]
        return other is not None

    def chunk_wanted(self, worker: WorkerRecord, message: m.FetchChunk) -> None:
        """Pass a worker's request for a chunk to a client that offers the blob; answer it if the bytes are here."""
        record = self._record(message.blob)
        holder = record.offering() if record is not None else None
        if holder is not None and self._windows.ask(worker.peer, RELAY, message.size):
            self._send(holder, message._replace(peer=worker.peer))
            return
        if holder is not None:
            self._send(worker.peer, m.NoBlob(message.blob, 0, TOO_MUCH))
            return
        content = memoryview(record.payload[0]) if record is not None and record.payload else memoryview(b"")

        def read(offset: int, size: int) -> memoryview | None:
            return content[offset : offset + size] if offset + size <= len(content) else None

        self._send(worker.peer, answer(message._replace(peer=0), read, "no client holds it any more"))

    def _record(self, blob: bytes) -> BlobRecord | None:
        record = self.table.records.get(blob)
        return record if record is not None and record.size else None

    def _copy(self, worker: WorkerRecord, blob: bytes) -> Copy | None:
        record = self._record(blob)
        return record.copies.get(worker.peer) if record is not None else None

    # --- what clients say ---

    def put(self, client: ClientRecord, message: m.PutBlob) -> None:
        """A client sends a small blob: keep it until the client releases it.

        Raises:
            ProtocolError: the id or the payload cannot be one, or there is no room for it.
        """
        _check_id(message.blob)
        if not message.payload:
            raise ProtocolError(f"blob {message.blob.hex()} has no buffer, so it is nothing")
        more = self.table.room_for(message.blob, size_of(message), client.peer)
        self.table.put(message.blob, message.payload, client.peer)
        self.table.charge(message.blob, more, client.peer)
        client.blobs.add(message.blob)

    def offer(self, client: ClientRecord, message: m.OfferBlob) -> None:
        """A client offers a large blob: note that chunks can be had there.

        Raises:
            ProtocolError: the id or the size cannot be one, or there is no room for what is noted of it.
        """
        _check_id(message.blob)
        if not 0 < message.size <= AUTHENTICATED.total:
            raise ProtocolError(f"a blob of {message.size} bytes cannot be offered")
        more = self.table.room_for(message.blob, size_of(message), client.peer)
        self.table.offer(message.blob, message.size, message.place, client.peer)
        self.table.charge(message.blob, more, client.peer)
        client.blobs.add(message.blob)

    def release(self, client: ClientRecord, message: m.ReleaseBlobs) -> None:
        """A client releases blobs: forget those that nobody needs any more. Blobs that it does not hold are ignored."""
        self._release(client, client.blobs.intersection(message.blobs))

    def leave(self, client: ClientRecord) -> None:
        """Release all blobs of a client that is gone. Workers go on with another client that has the same."""
        self._windows.lose(client.peer)
        self._release(client, set(client.blobs))

    def _release(self, client: ClientRecord, blobs: set[bytes]) -> None:
        client.blobs -= blobs
        sources = {blob: self.table.records[blob].offering() for blob in blobs}
        self.forget(self.table.release(blobs, client.peer))
        for blob, source in sources.items():
            if source == client.peer and blob in self.table.records:
                for peer in self.table.relayed(blob):
                    self._direct(blob, self._workers[peer], "")

    def answer(self, client: ClientRecord, message: m.Chunk | m.NoBlob) -> None:
        """Pass the answer of the client that is asked for a blob to the worker that fetches it; drop any other."""
        worker = self._workers.get(message.peer)
        copy = self._copy(worker, message.blob) if worker is not None else None
        if worker is None or copy is None or self.table.records[message.blob].offering() != client.peer:
            return
        self._windows.came(worker.peer, RELAY, *_size(message))  # it may be from before the worker has begun anew
        if not copy.complete and copy.source == RELAY:
            self._send(worker.peer, message._replace(peer=0))

    # --- results, from a worker to a client ---

    def result_chunk_wanted(self, client: ClientRecord, message: m.FetchChunk) -> None:
        """Pass a client's request to the worker that has the result; refuse it if that worker was lost."""
        if message.peer not in self._workers:
            self._send(client.peer, m.NoBlob(message.blob, message.peer, "its machine was lost"))
        elif self._windows.ask(client.peer, message.peer, message.size):
            self._send(message.peer, message._replace(peer=client.peer))
        else:
            self._send(client.peer, m.NoBlob(message.blob, message.peer, TOO_MUCH))

    def result_chunk(self, worker: WorkerRecord, message: m.Chunk | m.NoBlob) -> None:
        """Pass a worker's answer to the client that has asked; an answer for any other one is dropped."""
        due = self._windows.came(message.peer, worker.peer, *_size(message))
        if due and message.peer in self._clients:
            self._send(message.peer, message._replace(peer=worker.peer))

    def result_taken(self, client: ClientRecord, message: m.ResultTaken) -> None:
        """Tell a worker that the client has a buffer of a result, or wants it no more."""
        if message.peer in self._workers:
            self._send(message.peer, message._replace(peer=0))


def _check_id(blob: bytes) -> None:
    if len(blob) != BLOB_ID_BYTES:
        raise ProtocolError(f"a blob's id has {BLOB_ID_BYTES} bytes, and not {len(blob)}")


def _size(answer: m.Chunk | m.NoBlob) -> list[int]:
    return [len(answer.payload[0])] if isinstance(answer, m.Chunk) and answer.payload else []
