"""What a slot does, written into memory that it shares with its daemon. So nobody is sent anything, and the daemon sees
what runs now, and for how long, also while the slot is deep in compiled code.

    head       whether somebody looks · calls that are over, those of them that have failed, seconds that they took
    present    the innermost call that runs now
    ring       the last `RING` calls that are over; only written while somebody looks

It knows the calls of leases too, which no daemon is told of one by one. To write it costs a slot 0.8 microseconds a
call, and 3.4 while somebody looks.

A daemon may read while the slot writes. A call has a number, which is written first and again last, and is read in the
other order. So what was read counts only if both are the same. The numbers that miss tell what the ring has lost.
"""

from __future__ import annotations

import mmap
import resource
import struct
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from minidask.wire.messages import Run

RING = 2048
_LOOKED_AT = struct.Struct("<Q")
_SUMS = struct.Struct("<QQdQ")
"""The last one is the number of the present call: all are written at its end."""
_CALL = struct.Struct("<QQQQdddQB63sQ")
_NUMBER = struct.Struct("<Q")
_SUMS_AT = 16  # the first 8 bytes are those of `OutputCount`, the next whether somebody looks
_PRESENT_AT = _SUMS_AT + _SUMS.size - _NUMBER.size
_RING_AT = 256
RECORDER_BYTES = _RING_AT + RING * _CALL.size
_UNIT = 1 if sys.platform == "darwin" else 1024  # of `ru_maxrss`
_NAME_BYTES = 63


class CallRecord(NamedTuple):
    """A call: one that runs, or one that is over.

    Attributes:
        task, attempt: of its `Run`. For a call of a lease, those of the lease.
        call: the client's number for a call of a lease; else 0.
        began: on the clock of `time.perf_counter`, which is the same for all processes of a machine.
        seconds: how long it took; 0 while it runs.
        cpu: processor seconds of its process meanwhile; below 0 if nobody looked when it began.
        memory: the most bytes that its process has had, until its end.
        failed: whether it has raised.
        name: the first bytes of its name.
    """

    task: int
    attempt: int
    call: int
    began: float
    seconds: float
    cpu: float
    memory: int
    failed: bool
    name: str


class Seen(NamedTuple):
    """What a daemon has read: the call that runs, sums over all that are over, and the last of those.

    So many of them were `missed`: the ring has lost them.
    """

    present: CallRecord | None
    over: int
    failed: int
    seconds: float
    calls: list[CallRecord]
    missed: int


class Recorder:
    """One slot's record.

    Args:
        file: descriptor of a file of `RECORDER_BYTES`; None: the slot is a thread of the daemon.
    """

    def __init__(self, file: int | None = None) -> None:
        self._memory = mmap.mmap(-1 if file is None else file, RECORDER_BYTES)
        self._processor: Callable[[], float] = time.thread_time if file is None else time.process_time
        self._running: dict[float, tuple[Run, int, float]] = {}  # by when each began, the innermost last
        self._numbers = self._over = self._failed = self._read = 0
        self._seconds = 0.0
        self._name, self._packed_name = "", b""

    # --- for the slot ---

    def begin(self, run: Run, call: int, on_top: bool) -> float:
        """Note that a call begins. Returns the time, which names the call at its end.

        Args:
            call: the client's number for it, if it is one of a lease; else 0.
            on_top: whether other calls in this slot wait meanwhile.
        """
        if not on_top:
            self._running.clear()
        cpu = self._processor() if self.looked_at else -1.0
        began = time.perf_counter()
        self._running[began] = run, call, cpu
        self._show(began, run, call)
        return began

    def _show(self, began: float, run: Run, call: int) -> None:
        number = self._numbers = self._numbers + 1
        self._write(_PRESENT_AT, number, began, run, call, 0.0, 0.0, 0, False)

    def end(self, began: float, failed: bool) -> None:
        """Note that a call has ended."""
        run, call, cpu = self._running.pop(began)
        seconds = time.perf_counter() - began
        self._over += 1
        self._failed += failed
        self._seconds += seconds
        if self.looked_at:
            cpu = self._processor() - cpu if cpu >= 0 else -1.0
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
            at = _RING_AT + self._over % RING * _CALL.size
            self._write(at, self._over, began, run, call, seconds, cpu, most, failed)
        _SUMS.pack_into(self._memory, _SUMS_AT, self._over, self._failed, self._seconds, 0)
        if self._running:
            began, (run, call, _) = next(reversed(self._running.items()))
            self._show(began, run, call)

    def _write(
        self, at: int, number: int, began: float, run: Run, call: int, seconds: float, cpu: float, memory: int,
        failed: bool,
    ) -> None:  # fmt: skip
        if run.name is not self._name:
            self._name, self._packed_name = run.name, run.name.encode("utf-8", "replace")[:_NAME_BYTES]
        _CALL.pack_into(
            self._memory, at, number, run.task, run.attempt, call, began, seconds, cpu, memory, failed,
            self._packed_name, number,
        )  # fmt: skip

    # --- for the daemon ---

    @property
    def looked_at(self) -> bool:
        """Whether somebody looks, and the ring is written."""
        return self._memory[8] != 0

    @looked_at.setter
    def looked_at(self, on: bool) -> None:
        if on and not self.looked_at:
            self._read = int(_SUMS.unpack_from(self._memory, _SUMS_AT)[0])
        _LOOKED_AT.pack_into(self._memory, 8, on)

    def look(self) -> Seen:
        """Read what has happened since this was called last."""
        over, failed, seconds, _ = _SUMS.unpack_from(self._memory, _SUMS_AT)
        first = max(self._read + 1, over - RING + 1)
        found = [self._call(_RING_AT + number % RING * _CALL.size, number) for number in range(first, over + 1)]
        calls = [call for call in found if call is not None]
        missed = over - self._read - len(calls)
        self._read = over
        return Seen(self._call(_PRESENT_AT), over, failed, seconds, calls, missed)

    def _call(self, at: int, number: int = 0) -> CallRecord | None:
        """The call that was written there, with this number; 0: any. None if it is gone, or just being written."""
        (last,) = _NUMBER.unpack_from(self._memory, at + _CALL.size - _NUMBER.size)
        _, task, attempt, call, began, took, cpu, memory, failed, name, _ = _CALL.unpack_from(self._memory, at)
        (first,) = _NUMBER.unpack_from(self._memory, at)
        if not first or first != last or (number and number != first):
            return None
        text = name.rstrip(b"\0").decode("utf-8", "ignore")
        return CallRecord(task, attempt, call, began, took, cpu, memory, bool(failed), text)

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()
