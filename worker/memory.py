"""Which slot uses too much memory. The worker kills it before the kernel's out-of-memory killer picks at random. Pure.

The kernel may pick the worker daemon, and then all of its tasks are lost. The worker kills the slot with the most
memory, so one task fails, and its error tells the figures.
"""

from __future__ import annotations

from typing import NamedTuple

from minidask.host.sizes import format_bytes

HIGH_WATER = 0.95


class MemoryLimits(NamedTuple):
    """Limits in bytes: for each `slot`, None without one, and for all slots of the `machine` together."""

    slot: int | None
    machine: int


def over_limit(usage: dict[int, int], limits: MemoryLimits) -> tuple[int, str] | None:
    """Choose the slot to kill. Returns its number and a text with the figures; None if memory suffices.

    Args:
        usage: the bytes that each busy slot uses, by the slot's number.
        limits: the bytes that they may use.
    """
    if not usage:
        return None
    slot, most = max(usage.items(), key=lambda item: item[1])
    if limits.slot is not None and most > limits.slot:
        return slot, (
            f"it used {format_bytes(most)} of memory, over the limit of {format_bytes(limits.slot)} for each worker:"
            " raise memory_limit, run fewer workers, or use less memory in the task"
        )
    together = sum(usage.values())
    if together > HIGH_WATER * limits.machine:
        return slot, (
            f"it used {format_bytes(most)} when all workers of the machine used {format_bytes(together)}"
            f" of its {format_bytes(limits.machine)}: run fewer workers, or use less memory in the task"
        )
    return None
