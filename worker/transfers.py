"""Large blobs on their way into this machine's store, and out of it to other workers.

    NeedBlob ─► want ─► FetchChunk ─► source          FetchChunk of another worker ─► serve
                  ▲                    │                                              │
                  └── part ◄─ Chunk ┘               Chunk, once those bytes are here

What has come of a blob is passed on at once, also while the rest is still under way: `serve` keeps a request
that is ahead of that until its bytes come.

A source is asked for a few parts at a time, whatever the number of blobs, so that neither it nor the scheduler has to
keep much: for those of the first blob by name, and of the next ones while there is room. As all workers have the
same order, those that fetch from one another never wait in a ring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from minidask.data.chunks import CHUNK_BYTES, ROOM
from minidask.data.files import Incoming
from minidask.data.store import RESULT, BlobStore
from minidask.host.folders import folders_here
from minidask.wire.messages import Chunk, FetchChunk, Message, NoBlob

from .events import BlobFailed, BlobHere, Event, NoRoom

Answer = Callable[[Message], None]


@dataclass(eq=False)
class _Transfer:
    """One blob under way, where it comes from, and who waits for parts of it."""

    incoming: Incoming
    source: str
    waiting: list[tuple[FetchChunk, Answer]] = field(default_factory=list)


class Transfers:
    """See the module's docstring.

    Args:
        store: of this machine.
        shared: whether the clients use this store themselves, so that all they offer is in it.
        post: takes what there is to tell the core.
        send: takes requests for a source: the address where a worker serves, or an empty text for the scheduler.
    """

    def __init__(
        self,
        store: BlobStore,
        shared: bool,
        post: Callable[[Event], None],
        send: Callable[[str, Sequence[Message]], None],
    ) -> None:
        self._store = store
        self._shared = shared
        self._post = post
        self._send = send
        self._coming: dict[bytes, _Transfer] = {}

    # --- for this machine ---

    def want(self, blob: bytes, size: int, source: str, places: list[str]) -> None:
        """Have a blob here, from the store, from another one on this machine, or from `source`."""
        transfer = self._coming.get(blob)
        if transfer is None:
            try:
                if self._shared or self._store.pin(blob) or self._store.adopt(blob, folders_here(places)):
                    self._post(BlobHere(blob))
                    return
                transfer = self._coming[blob] = _Transfer(self._store.begin(blob, size), source)
            except (OSError, ValueError, OverflowError) as error:  # also of a size that nothing can have
                self._post(NoRoom(blob, f"no room for its {size} bytes of data: {error}"))
                return
        before, transfer.source = transfer.source, source
        transfer.incoming.parts.again()
        for each in {before, source}:
            self._ask(each)

    def forget(self, blobs: Sequence[bytes]) -> None:
        """These are needed no more: the store keeps them while it has room."""
        sources = set()
        for blob in blobs:
            self._store.unpin(blob)
            transfer = self._coming.pop(blob, None)
            if transfer is not None:
                sources.add(transfer.source)
                transfer.incoming.abandon()
                self._refuse(blob, transfer, "it is wanted no more")
        for source in sources:
            self._ask(source)

    def close(self) -> None:
        """The scheduler is gone, and with it all need for data."""
        self.forget(list(self._coming))
        self._store.unpin_all()

    def part(self, message: Chunk) -> None:
        """Bytes have come."""
        transfer = self._coming.get(message.blob)
        if transfer is None or len(message.payload) != 1:
            return
        try:
            transfer.incoming.write(message.offset, message.payload[0])
            if transfer.incoming.parts.complete:
                self._finish(message.blob, transfer)
            else:
                self._serve_waiting(transfer)
        except OSError as error:  # the disk is full, or the store was removed
            if self._coming.pop(message.blob, None) is not None:
                transfer.incoming.abandon()
                self._refuse(message.blob, transfer, "it cannot be written where it was to come from")
            self._post(NoRoom(message.blob, f"its data cannot be written: {error}"))
        self._ask(transfer.source)

    def refused(self, source: str, message: NoBlob) -> None:
        """A source does not have the blob."""
        transfer = self._coming.get(message.blob)
        if transfer is not None and transfer.source == source:
            self._post(BlobFailed(message.blob, source, message.text))

    def source_lost(self, source: str, why: str) -> None:
        """Nothing more comes from there."""
        for blob, transfer in list(self._coming.items()):
            if transfer.source == source:
                self._post(BlobFailed(blob, source, f"{source}: {why}"))

    def _ask(self, source: str) -> None:
        """Ask a source for what there is room for, and always for a part of the first blob."""
        blobs = sorted(blob for blob, transfer in self._coming.items() if transfer.source == source)
        room = ROOM - sum(self._coming[blob].incoming.parts.under_way for blob in blobs)
        wanted = []
        for blob in blobs:
            parts = self._coming[blob].incoming.parts
            asked = parts.wanted(max(room, CHUNK_BYTES - parts.under_way) if blob == blobs[0] else room)
            room -= sum(size for _, size in asked)
            wanted += [FetchChunk(blob, offset, size, 0) for offset, size in asked]
            if room < CHUNK_BYTES:
                break
        if wanted:
            self._send(source, wanted)

    def _finish(self, blob: bytes, transfer: _Transfer) -> None:
        del self._coming[blob]
        if transfer.incoming.finish():
            self._post(BlobHere(blob))
            for message, answer in transfer.waiting:
                self.serve(message, answer)
        else:
            self._refuse(blob, transfer, "its bytes were not what its name says")
            self._post(BlobFailed(blob, transfer.source, "the bytes that came are not what the name says"))

    # --- for other machines ---

    def serve(self, message: FetchChunk, answer: Answer) -> None:
        """Another worker wants a part: `answer` is called with it, at once or when it has come."""
        if message.offset < 0 or not 0 < message.size <= CHUNK_BYTES:
            answer(NoBlob(message.blob, message.peer, f"a part has 1 to {CHUNK_BYTES} bytes"))
            return
        transfer = self._coming.get(message.blob)
        read = transfer.incoming.read if transfer is not None else lambda o, n: self._store.read(message.blob, o, n)
        data = read(message.offset, message.size)
        if data is not None:
            answer(Chunk(message.blob, message.offset, message.peer, [data]))
        elif transfer is not None and message.offset + message.size <= transfer.incoming.parts.size:
            transfer.waiting.append((message, answer))
        else:
            answer(NoBlob(message.blob, message.peer, "it is not here"))

    def result_part(self, message: FetchChunk) -> Chunk | NoBlob:
        """The answer to a client that wants a part of a result."""
        data = None
        if message.offset >= 0 and 0 < message.size <= CHUNK_BYTES:
            data = self._store.read(message.blob, message.offset, message.size, RESULT)
        if data is None:
            return NoBlob(message.blob, message.peer, "the result is gone")
        return Chunk(message.blob, message.offset, message.peer, [data])

    def _serve_waiting(self, transfer: _Transfer) -> None:
        waiting, transfer.waiting = transfer.waiting, []
        for message, answer in waiting:
            self.serve(message, answer)

    def _refuse(self, blob: bytes, transfer: _Transfer, why: str) -> None:
        for message, answer in transfer.waiting:
            answer(NoBlob(blob, message.peer, why))
