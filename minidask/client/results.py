"""Large results of tasks that ran on other machines: fetched part by part, before the task is told to be done."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minidask.data.chunks import CHUNK_BYTES, ROOM, ChunkProgress
from minidask.errors import SerializationError
from minidask.wire.messages import Chunk, FetchChunk, Message, NoBlob, ResultOffered, ResultTaken


@dataclass(eq=False)
class _Arrival:
    """One part of a result under way into memory that will be the user's."""

    task: int
    peer: int
    parts: ChunkProgress
    memory: memoryview


class Results:
    """What is under way, and what has come and not been used; to be called by whoever reads the connection.

    Args:
        send: takes what is to be sent.
        wanted: whether a task's result is still waited for.
    """

    def __init__(self, send: Callable[[Sequence[Message]], None], wanted: Callable[[int], bool]) -> None:
        self._send = send
        self._wanted = wanted
        self._arrivals: dict[bytes, _Arrival] = {}
        self._coming: dict[int, dict[bytes, _Arrival]] = {}  # by worker: those that are not complete, in order

    def offered(self, message: ResultOffered) -> None:
        """A worker has a part of a result."""
        self.forget_others()
        if not self._wanted(message.task):
            return  # the scheduler has told the worker
        self._forget(lambda arrival: arrival.task == message.task and arrival.peer != message.peer)  # it was lost
        try:
            memory = memoryview(mmap.mmap(-1, message.size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        except (OSError, ValueError, OverflowError):  # no memory, or it is gone already: `take` will tell
            self._send([ResultTaken(message.blob, message.peer)])
            return
        arrival = _Arrival(message.task, message.peer, ChunkProgress(message.size), memory)
        self._arrivals[message.blob] = self._coming.setdefault(message.peer, {})[message.blob] = arrival
        self._ask(message.peer)

    def part(self, message: Chunk) -> None:
        """Bytes have come."""
        arrival = self._coming.get(message.peer, {}).get(message.blob)
        if arrival is None or len(message.payload) != 1:
            return
        data = message.payload[0]
        if arrival.parts.came(message.offset, len(data)):
            arrival.memory[message.offset : message.offset + len(data)] = data
        if arrival.parts.complete:
            self._over(message.blob, message.peer)
            self._send([ResultTaken(message.blob, message.peer)])
        self._ask(message.peer)

    def refused(self, message: NoBlob) -> None:
        """It is gone: if its worker is too, the task is tried again, and else `take` will tell."""
        if message.blob in self._coming.get(message.peer, {}):
            del self._arrivals[message.blob]
            self._over(message.blob, message.peer)
            self._send([ResultTaken(message.blob, message.peer)])
            self._ask(message.peer)

    def take(self, blob: bytes) -> memoryview:
        """A part that has come whole.

        Raises:
            SerializationError: it has not.
        """
        arrival = self._arrivals.get(blob)
        if arrival is None or not arrival.parts.complete:
            raise SerializationError("its worker does not have it any more, or there is no memory for it here")
        return self._arrivals.pop(blob).memory

    def forget_others(self) -> None:
        """Drop what came of tasks that are over or cancelled, and was not taken."""
        if self._arrivals:
            self._forget(lambda arrival: not self._wanted(arrival.task))

    def _forget(self, gone: Callable[[_Arrival], bool]) -> None:
        peers = set()
        for blob, arrival in [(blob, arrival) for blob, arrival in self._arrivals.items() if gone(arrival)]:
            del self._arrivals[blob]
            self._over(blob, arrival.peer)
            peers.add(arrival.peer)
        for peer in peers:
            self._ask(peer)

    def _over(self, blob: bytes, peer: int) -> None:
        """Nothing more of it comes."""
        coming = self._coming.get(peer, {})
        coming.pop(blob, None)
        if not coming:
            self._coming.pop(peer, None)

    def _ask(self, peer: int) -> None:
        """Ask a worker for what there is room for: the scheduler passes it on, and should not have to keep much."""
        room, wanted = ROOM, []
        for blob, arrival in self._coming.get(peer, {}).items():
            room -= arrival.parts.under_way
            asked = arrival.parts.wanted(room)
            room -= sum(size for _, size in asked)
            wanted += [FetchChunk(blob, offset, size, peer) for offset, size in asked]
            if room < CHUNK_BYTES:
                break
        if wanted:
            self._send(wanted)
