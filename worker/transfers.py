"""The worker daemon's file I/O for large blobs: chunks that come are written, chunks that others ask for are read.

    NeedBlob ─► want ─► FetchChunk ─► source           FetchChunk of another worker, or of a client ─► received
                           │                                                                             │
              received ◄─ Chunk                                            Chunk or NoBlob, now or later ◄┘

`minidask.data.downloads` decides what to ask for, and whose request waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from minidask.data.downloads import Downloads, Send, Serve
from minidask.data.files import Draft
from minidask.data.store import RESULT, BlobStore
from minidask.host.folders import folders_here
from minidask.wire.chunks import answer
from minidask.wire.messages import Chunk, FetchChunk, Message, NoBlob

from .events import BlobFailed, BlobHere, Event, NoRoom
from .peers import Peer

SCHEDULER = ""
"""In the place of a peer's address: the scheduler, which passes on chunks between workers and clients."""

Transfer: TypeAlias = Chunk | NoBlob | FetchChunk
"""The messages that are about bytes under way."""


class Transfers:
    """The blobs on their way into and out of this machine's store.

    Args:
        store: of this machine.
        shared: whether the clients use this store themselves, so that all they offer is in it.
        post: takes what there is to tell the core.
        send: takes a message and the peer that it is for: `SCHEDULER`, or what `Peers` calls another worker.
    """

    def __init__(
        self,
        store: BlobStore,
        shared: bool,
        post: Callable[[Event], None],
        send: Callable[[Peer, Message], None],
    ) -> None:
        self._store = store
        self._shared = shared
        self._post = post
        self._send = send
        self._downloads: Downloads[Peer] = Downloads()
        self._drafts: dict[bytes, Draft] = {}

    def want(self, blob: bytes, size: int, source: str, places: list[str]) -> None:
        """Get a blob into the store: from another store on this machine, or else from `source`, chunk by chunk.

        The core is sent `BlobHere` when the blob is there, at once if it was there before. It is sent `NoRoom` if there
        is no room for it. If the blob is under way already, it goes on from the new source.
        """
        if blob in self._drafts and self._downloads.size(blob) != size:
            self._drafts.pop(blob).abandon()  # it was another one's, who has told another size
            self._carry_out(self._downloads.drop([blob], "its size is another one"))
        if blob not in self._drafts:
            try:
                if self._shared or self._store.pin(blob) or self._store.adopt(blob, folders_here(places)):
                    self._post(BlobHere(blob))
                    return
                self._drafts[blob] = self._store.begin(blob, size)
            except (OSError, ValueError, OverflowError) as error:  # also of a size that nothing can have
                self._post(NoRoom(blob, f"no room for its {size} bytes of data: {error}"))
                return
        self._carry_out(self._downloads.want(blob, size, source))

    def forget(self, blobs: Sequence[bytes], why: str = "it is wanted no more") -> None:
        """Release blobs. Those that are under way are given up; the store keeps the others as long as it has room.

        Args:
            blobs: their ids.
            why: what other workers are told that wait for chunks of them.
        """
        for blob in blobs:
            self._store.unpin(blob)
            draft = self._drafts.pop(blob, None)
            if draft is not None:
                draft.abandon()
        self._carry_out(self._downloads.drop(blobs, why))

    def close(self) -> None:
        """Release all blobs: the scheduler is gone, and no task needs them any more."""
        self.forget(list(self._drafts))
        self._store.unpin_all()

    def received(self, peer: Peer, message: Transfer) -> None:
        """Handle a peer's message: write its chunk, report its refusal to the core, or answer its request."""
        if isinstance(message, FetchChunk):
            self._carry_out(self._downloads.serve(peer, message))
        elif isinstance(message, NoBlob):
            if self._downloads.source(message.blob) == peer:
                self._post(BlobFailed(message.blob, str(peer), message.text))
        elif self._downloads.is_next(message):
            self._write(message)

    def source_lost(self, source: str, why: str) -> None:
        """Report to the core that all blobs on their way from a lost source need another one."""
        for blob in self._downloads.from_source(source):
            self._post(BlobFailed(blob, source, f"{source}: {why}"))

    def _write(self, chunk: Chunk) -> None:
        blob = chunk.blob
        source, draft = str(self._downloads.source(blob)), self._drafts[blob]
        answers: list[Send[Peer] | Serve[Peer]] = []
        try:
            draft.write(chunk.offset, chunk.payload[0])
            answers = self._downloads.wrote(chunk)
            if blob not in self._downloads:
                sound = draft.finish()
                del self._drafts[blob]
                why = "the bytes that came are not what the name says"
                self._post(BlobHere(blob) if sound else BlobFailed(blob, source, why))
        except OSError as error:
            self.forget([blob], "it cannot be written where it was to come from")
            self._post(NoRoom(blob, f"its data cannot be written: {error}"))
        self._carry_out(answers)

    def _carry_out(self, steps: Iterable[Send[Peer] | Serve[Peer]]) -> None:
        for step in steps:
            self._send(step.peer, step.message if isinstance(step, Send) else self._answer(*step))

    def _answer(self, peer: Peer, request: FetchChunk) -> Chunk | NoBlob:
        """The bytes that a peer has asked for. The scheduler asks for those of results only."""
        blob = request.blob
        if peer == SCHEDULER:
            return answer(request, lambda offset, size: self._store.read(blob, offset, size, RESULT), "it is gone")
        draft = self._drafts.get(blob)
        read = draft.read if draft is not None else lambda offset, size: self._store.read(blob, offset, size)
        return answer(request, read, "it is not here")
