"""Large blobs under way to this process: what to ask for next, and who may have which bytes. Pure.

A blob comes in chunks, in order, and only on request. So the receiver sets the pace, and a blob whose source is lost
goes on with another source at the first missing byte. The worker daemon downloads arguments with this class, the
client results; both write the bytes themselves and send what the methods return.

    want(blob, size, source) ──► Send(source, FetchChunk) ...          up to WINDOW_BYTES for each source
    a Chunk: is_next? write it, then wrote(chunk) ──► Send(source, FetchChunk), Serve(reader, request) ...

**The window.** For each source, WINDOW_BYTES are requested and have not come. That is enough for the network to be
never idle, and so little that no machine on the way has to keep much. The window belongs to the source and not to the
blob: a thousand blobs from one source need no more memory there than one.

**The order.** The window is filled with the blobs of a source in the order of rank, then of id. The first of them may
always ask for one chunk, whatever the window says. Workers give all blobs the same rank. They fetch from one another,
and each passes on only what it has, so two of them could wait for each other: A for x from B, while the window of B is
full of y, which A is to get first. With one order for all machines that cannot be. The smallest id that is under way
anywhere comes from a machine that has it or gets it as its own first blob, and so on up to a machine that has it.

**Readers.** Another worker may ask for bytes that have not come yet. Its request waits here until they have come; with
this a blob goes through a chain of machines in hardly more time than to one (see `minidask/scheduler/router.py`).

**Stale chunks.** A chunk that is not the next one of its blob is an answer to a request that was repeated at another
source. It is ignored. The next one is welcome from any peer: the id says what the bytes must be.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from minidask.wire.chunks import is_chunk
from minidask.wire.large import CHUNK_BYTES
from minidask.wire.messages import Chunk, FetchChunk, NoBlob

WINDOW_BYTES = 8 * CHUNK_BYTES
MOST_WAITING = 64
"""How many requests of one reader wait for bytes of one blob: more than a window has."""

PeerT = TypeVar("PeerT")
"""A source or a reader, as the process names it: by an address, a connection or a number."""


class Send(NamedTuple, Generic[PeerT]):
    """Send this message: a request to a source, or a refusal to a reader."""

    peer: PeerT
    message: FetchChunk | NoBlob


class Serve(NamedTuple, Generic[PeerT]):
    """Send this reader the bytes that it has requested, or a refusal if they are not here."""

    peer: PeerT
    request: FetchChunk


@dataclass(eq=False)
class _Download(Generic[PeerT]):
    """One blob: its first `have` bytes are here, those up to `asked` were requested."""

    blob: bytes
    size: int
    source: PeerT
    rank: int
    have: int = 0
    asked: int = 0
    waiting: list[Serve[PeerT]] = field(default_factory=list)

    def next_size(self, offset: int) -> int:
        """The size of the chunk that begins at `offset`."""
        return min(CHUNK_BYTES, self.size - offset)

    def place_in_order(self) -> tuple[int, bytes]:
        return self.rank, self.blob


class Downloads(Generic[PeerT]):
    """All blobs under way to this process. Its methods return what to send, in order: `Send` and `Serve`."""

    def __init__(self) -> None:
        self._downloads: dict[bytes, _Download[PeerT]] = {}
        self._of_source: dict[PeerT, list[_Download[PeerT]]] = {}  # in order

    def __contains__(self, blob: object) -> bool:
        return blob in self._downloads

    def __len__(self) -> int:
        return len(self._downloads)

    def source(self, blob: bytes) -> PeerT | None:
        """The source of a blob; None if the blob is not under way."""
        download = self._downloads.get(blob)
        return download.source if download is not None else None

    def size(self, blob: bytes) -> int:
        """The size of a blob that is under way; 0 if it is not."""
        download = self._downloads.get(blob)
        return download.size if download is not None else 0

    def from_source(self, source: PeerT) -> list[bytes]:
        """The blobs that are under way from a source, in the order in which they are requested."""
        return [download.blob for download in self._of_source.get(source, ())]

    # --- as receiver ---

    def want(self, blob: bytes, size: int, source: PeerT, rank: int = 0) -> list[Send[PeerT]]:
        """Download a blob of `size` bytes. If it is under way, it goes on from this source at the first missing byte.

        Args:
            rank: of several blobs from one source, those with a lower rank come first.
        """
        download = self._downloads.get(blob)
        if download is None:
            download = self._downloads[blob] = _Download(blob, size, source, rank)
            before = source
        else:
            before = self._leave_source(download)
            download.source = source
            download.asked = download.have
        bisect.insort(self._of_source.setdefault(source, []), download, key=_Download.place_in_order)
        return self._requests(before) + (self._requests(source) if source != before else [])

    def is_next(self, chunk: Chunk) -> bool:
        """Whether a chunk has the next bytes of its blob, and is to be written. Otherwise it is stale or wrong."""
        download = self._downloads.get(chunk.blob)
        if download is None or len(chunk.payload) != 1 or chunk.offset != download.have:
            return False
        return len(chunk.payload[0]) == download.next_size(chunk.offset)

    def wrote(self, chunk: Chunk) -> list[Send[PeerT] | Serve[PeerT]]:
        """Note that the next chunk of a blob was written. With its last chunk, the download is over."""
        download = self._downloads[chunk.blob]
        download.have += download.next_size(download.have)
        download.asked = max(download.asked, download.have)
        ready = [serve for serve in download.waiting if _end(serve.request) <= download.have]
        download.waiting = [serve for serve in download.waiting if _end(serve.request) > download.have]
        if download.have == download.size:
            del self._downloads[chunk.blob]
            self._leave_source(download)
        return [*ready, *self._requests(download.source)]

    def drop(self, blobs: Iterable[bytes], why: str) -> list[Send[PeerT]]:
        """Give up downloads. Readers that wait for their bytes are refused, with the text `why`."""
        sends, sources = [], set()
        for blob in blobs:
            download = self._downloads.pop(blob, None)
            if download is not None:
                sources.add(self._leave_source(download))
                sends += [Send(peer, NoBlob(blob, request.peer, why)) for peer, request in download.waiting]
        for source in sources:
            sends += self._requests(source)
        return sends

    # --- as source ---

    def serve(self, reader: PeerT, request: FetchChunk) -> list[Send[PeerT] | Serve[PeerT]]:
        """Handle a reader's request for a chunk. If its bytes are still to come, it waits; nothing is returned then."""
        download = self._downloads.get(request.blob)
        if download is not None and is_chunk(request) and download.have < _end(request) <= download.size:
            if sum(waiting.peer == reader for waiting in download.waiting) >= MOST_WAITING:
                return [Send(reader, NoBlob(request.blob, request.peer, "too many requests wait for it"))]
            download.waiting.append(Serve(reader, request))
            return []
        return [Serve(reader, request)]

    # --- inside ---

    def _leave_source(self, download: _Download[PeerT]) -> PeerT:
        others = self._of_source[download.source]
        others.remove(download)
        if not others:
            del self._of_source[download.source]
        return download.source

    def _requests(self, source: PeerT) -> list[Send[PeerT]]:
        """The requests for which the window of a source has room now."""
        downloads = self._of_source.get(source, [])
        room = WINDOW_BYTES - sum(download.asked - download.have for download in downloads)
        sends: list[Send[PeerT]] = []
        for download in downloads:
            while download.asked < download.size:
                size = download.next_size(download.asked)
                may_exceed = download is downloads[0] and download.asked == download.have
                if size > room and not may_exceed:
                    return sends
                sends.append(Send(source, FetchChunk(download.blob, download.asked, size, 0)))
                download.asked += size
                room -= size
        return sends


def _end(request: FetchChunk) -> int:
    return request.offset + request.size
