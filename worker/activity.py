"""What a worker tells while somebody looks: what its slots do, and how busy its machine is. A part of the shell.

    slot ─ shared memory ─► Recorder.look ┐
    psutil: processor, memory, network    ├─► Activity, each `SECONDS` ─► scheduler ─► whoever looks
    the store                             ┘

All times are ages: seconds before the message was made. For other machines have other clocks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import psutil

from minidask.data.store import BlobStore
from minidask.wire.observing import Activity
from minidask.wire.packing import pack

from .slot.recorder import CallRecord, Recorder, Seen

SECONDS = 0.5
MOST_CALLS = 4000
"""Of one message. What is more is left out, and counted."""


class ActivityReport:
    """Makes the messages of one worker.

    Args:
        store: of its machine.
    """

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._network = (0, 0)
        self._at = 0.0

    def begin(self) -> None:
        """Somebody looks from now on."""
        psutil.cpu_percent()  # counts from here
        self._network, self._at = _network(), time.perf_counter()

    def message(self, recorders: Mapping[int, Recorder], memory: Mapping[int, int]) -> Activity:
        """Return what has happened since the last one.

        Args:
            recorders: of the slots, by number.
            memory: bytes that busy slots use.
        """
        now = time.perf_counter()
        seen = {number: recorder.look() for number, recorder in sorted(recorders.items())}
        calls = [_call(number, call, now) for number, slot in seen.items() for call in slot.calls]
        missed = sum(slot.missed for slot in seen.values()) + max(0, len(calls) - MOST_CALLS)
        slots = [_slot(number, slot, memory.get(number, 0), now) for number, slot in seen.items()]
        return Activity([pack([self._machine(now), slots, calls[-MOST_CALLS:], missed])])

    def _machine(self, now: float) -> dict[str, Any]:
        passed, self._at = max(now - self._at, 1e-3), now
        before, self._network = self._network, _network()
        received, sent = (max(0, after - b) / passed for b, after in zip(before, self._network, strict=True))
        memory = psutil.virtual_memory()
        figures = {
            "cpu": psutil.cpu_percent(),
            "memory": memory.total - memory.available,
            "memory_total": memory.total,
            "received": received,
            "sent": sent,
        }
        with contextlib.suppress(OSError):  # somebody has removed it
            figures["store"] = self._store.used()
        return figures


def _network() -> tuple[int, int]:
    """The bytes that this machine has received and sent, over all its network cards."""
    with contextlib.suppress(OSError):  # a sandbox hides it
        cards = [card for name, card in psutil.net_io_counters(pernic=True).items() if name != "lo"]
        return sum(card.bytes_recv for card in cards), sum(card.bytes_sent for card in cards)
    return 0, 0


def _slot(number: int, seen: Seen, memory: int, now: float) -> list[Any]:
    """A row of the message: a slot, what runs in it, and its sums."""
    present = [] if seen.present is None else _call(number, seen.present, now)
    return [number, seen.over, seen.failed, seen.seconds, memory, present]


def _call(slot: int, call: CallRecord, now: float) -> list[Any]:
    """A row of the message: a call."""
    age = max(0.0, now - call.began)
    return [slot, call.task, call.attempt, call.call, call.name, age, call.seconds, call.cpu, call.memory, call.failed]
