"""Downloads the large results of tasks that ran on other machines, before their futures are done.

A worker offers each buffer, and the client fetches it in chunks through the scheduler. The task's outcome follows when
all its buffers are here. So `Future.result()` never waits for bytes, and memory is taken as they come.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterable, Sequence

from minidask.client.outcomes import Lost, Outcome, Returned
from minidask.data.downloads import Downloads, Send, Serve
from minidask.errors import SerializationError
from minidask.pickling.payload import left_in, taken
from minidask.wire.frames import Buffer
from minidask.wire.messages import Chunk, Message, NoBlob, ResultOffered, ResultTaken


class Results:
    """The results that are being downloaded, and those that are here and were not taken.

    Only the thread that reads the connection uses it.

    Args:
        send: sends messages to the scheduler.
        wanted: whether somebody still waits for the task of this number.
    """

    def __init__(self, send: Callable[[Sequence[Message]], None], wanted: Callable[[int], bool]) -> None:
        self._send = send
        self._wanted = wanted
        self._downloads: Downloads[int] = Downloads()
        self._origins: dict[bytes, tuple[int, int]] = {}  # task and worker
        self._memory: dict[bytes, memoryview] = {}  # it will be the user's

    def offered(self, message: ResultOffered) -> None:
        """Begin to fetch a buffer that a worker offers. Another worker's buffers of that task go: it was lost."""
        task, blob, size, peer = message
        self.forget_others()
        if not self._wanted(task):
            return  # the scheduler has told the worker
        self._forget([other for other, origin in self._origins.items() if origin[0] == task and origin[1] != peer])
        try:
            self._memory[blob] = memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        except (OSError, ValueError, OverflowError):  # no memory, or it is gone already: `take` will tell
            self._send([ResultTaken(blob, peer)])
            return
        self._origins[blob] = task, peer
        self._carry_out(self._downloads.want(blob, size, peer, rank=task))

    def received(self, chunk: Chunk) -> None:
        """Store a chunk, and ask for the next one."""
        if self._downloads.source(chunk.blob) == chunk.peer and self._downloads.is_next(chunk):
            data = chunk.payload[0]
            self._memory[chunk.blob][chunk.offset : chunk.offset + len(data)] = data
            steps = self._downloads.wrote(chunk)
            if chunk.blob not in self._downloads:
                self._send([ResultTaken(chunk.blob, chunk.peer)])
            self._carry_out(steps)

    def refused(self, message: NoBlob) -> None:
        """Note that a worker has a buffer no more. If it was lost, the task is tried again; else `take` raises."""
        if self._downloads.source(message.blob) == message.peer:
            self._send([ResultTaken(message.blob, message.peer)])
            self._forget([message.blob])

    def take(self, blob: bytes) -> memoryview:
        """Return a buffer that is here whole, and forget it.

        Raises:
            SerializationError: the buffer is not here, or not whole.
        """
        if blob not in self._memory or blob in self._downloads:
            raise SerializationError("its worker does not have it any more, or there is no memory for it here")
        del self._origins[blob]
        return self._memory.pop(blob)

    def forget_others(self) -> None:
        """Drop the buffers that nobody will take: their tasks are over or were cancelled."""
        if self._origins:
            self._forget([blob for blob, (task, _) in self._origins.items() if not self._wanted(task)])

    def clear(self) -> None:
        """Drop all: the connection is lost, and the tasks will run again."""
        self._downloads, self._origins, self._memory = Downloads(), {}, {}

    def _forget(self, blobs: Sequence[bytes]) -> None:
        for blob in blobs:
            del self._origins[blob], self._memory[blob]
        self._carry_out(self._downloads.drop(blobs, ""))

    def _carry_out(self, steps: Iterable[Send[int] | Serve[int]]) -> None:
        sends = [step for step in steps if isinstance(step, Send)]
        if sends:
            self._send([send.message._replace(peer=send.peer) for send in sends])


def complete(outcome: Outcome, take: Callable[[bytes], Buffer]) -> Outcome:
    """Return an outcome together with those of its large buffers that were left in a store.

    If one of them cannot be had, the outcome is an error, and the others are taken out of the store too: nobody else
    would, and they would fill the memory until this client leaves.

    Args:
        take: takes the buffer with this id out of the store, and returns it.
    """
    if not isinstance(outcome, Returned) or len(outcome.payload) == 1:
        return outcome
    left: list[bytes] = []
    try:
        left = left_in(outcome.payload)
        return outcome._replace(payload=taken(outcome.payload, take))
    except (SerializationError, OSError) as error:
        for blob in left:
            with contextlib.suppress(SerializationError, OSError):  # it was taken before the error
                take(blob)
        return Lost(SerializationError(f"a task's large result cannot be had: {error}"))
    except Exception as error:  # noqa: BLE001 - what a worker has sent concerns that task alone
        text = f"{outcome.worker} has sent a task's result in a form that cannot be read"
        return Lost(SerializationError(f"{text}: {type(error).__name__}: {error}"))
