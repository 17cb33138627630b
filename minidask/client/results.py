"""Large results of tasks that ran on other machines: fetched part by part, before the task is told to be done."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minidask.errors import SerializationError
from minidask.parts import Parts
from minidask.wire.messages import BlobPart, FetchPart, Message, NoBlob, ResultOffered, ResultTaken


@dataclass(eq=False)
class _Arrival:
    """One part of a result under way into memory that will be the user's."""

    task: int
    peer: int
    parts: Parts
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

    def offered(self, message: ResultOffered) -> None:
        """A worker has a part of a result."""
        self.forget_others()
        if not self._wanted(message.task):
            return  # the scheduler has told the worker
        try:
            memory = memoryview(mmap.mmap(-1, message.size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        except (OSError, ValueError):  # no memory, or it is gone already: `take` will tell
            self._send([ResultTaken(message.blob, message.peer)])
            return
        arrival = _Arrival(message.task, message.peer, Parts(message.size), memory)
        self._arrivals[message.blob] = arrival
        self._ask(message.blob, arrival)

    def part(self, message: BlobPart) -> None:
        """Bytes have come."""
        arrival = self._arrivals.get(message.blob)
        if arrival is None or arrival.peer != message.peer or len(message.payload) != 1:
            return
        data = message.payload[0]
        if arrival.parts.came(message.offset, len(data)):
            arrival.memory[message.offset : message.offset + len(data)] = data
        self._ask(message.blob, arrival)

    def refused(self, message: NoBlob) -> None:
        """It is gone: if its worker is too, the task is tried again, and else `take` will tell."""
        arrival = self._arrivals.get(message.blob)
        if arrival is not None and arrival.peer == message.peer:
            del self._arrivals[message.blob]
            self._send([ResultTaken(message.blob, message.peer)])

    def take(self, blob: bytes) -> memoryview:
        """A part that has come whole.

        Raises:
            SerializationError: it has not.
        """
        arrival = self._arrivals.pop(blob, None)
        if arrival is None or not arrival.parts.complete:
            raise SerializationError("its worker does not have it any more, or there is no memory for it here")
        return arrival.memory

    def forget_others(self) -> None:
        """Drop what came of tasks that are over or cancelled, and was not taken."""
        if self._arrivals:
            for blob in [blob for blob, arrival in self._arrivals.items() if not self._wanted(arrival.task)]:
                del self._arrivals[blob]

    def _ask(self, blob: bytes, arrival: _Arrival) -> None:
        if arrival.parts.complete:
            self._send([ResultTaken(blob, arrival.peer)])
        else:
            wanted = arrival.parts.wanted()
            if wanted:
                self._send([FetchPart(blob, offset, size, arrival.peer) for offset, size in wanted])
