"""Which slot uses too much memory. The worker kills it before the kernel's out-of-memory killer picks at random. Pure.

The kernel may pick the worker daemon, and then all of its tasks are lost. Or the user's own program. The worker kills
the slot with the most memory, so one task fails, and its error tells the figures.
"""

from __future__ import annotations

from typing import NamedTuple

from minidask.host.sizes import format_bytes

LOOK_SECONDS = 0.5
HURRIED_SECONDS = 0.05
RESERVE = 0.05
SMALL_RESERVE = 256 << 20
LARGE_RESERVE = 4 << 30


class MemoryLimits(NamedTuple):
    """Limits in bytes: for each `slot`, None without one; and how much memory the `machine` has."""

    slot: int | None
    machine: int

    @property
    def reserve(self) -> int:
        """How much of the machine's memory has to be left: a task may take a gigabyte in a second."""
        least = min(SMALL_RESERVE, self.machine // 10)
        return min(max(least, int(RESERVE * self.machine)), LARGE_RESERVE)

    def seconds_until_next_look(self, left: int | None) -> float:
        """How soon to look again at what is left: sooner if that may soon be too little."""
        return HURRIED_SECONDS if left is not None and left < 4 * self.reserve else LOOK_SECONDS


def over_limit(usage: dict[int, int], limits: MemoryLimits, left: int | None) -> tuple[int, str] | None:
    """Choose the slot to kill. Returns its number and a text with the figures; None if memory suffices.

    Args:
        usage: the bytes that each busy slot uses, by the slot's number.
        limits: the bytes that they may use.
        left: the bytes that are left for all programs; None if nobody tells: then the others may use none.
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
    if left is None:
        left = limits.machine - together
    if left < limits.reserve < together:  # else it is others that use it, and a kill would help nobody
        return slot, (
            f"it used {format_bytes(most)}, and all workers together {format_bytes(together)}, when the machine had"
            f" {format_bytes(max(0, left))} left of its {format_bytes(limits.machine)}: run fewer workers, or use less"
            " memory in the task"
        )
    return None
