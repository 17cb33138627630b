"""Which slot is stopped when memory runs out."""

from __future__ import annotations

from minidask.worker.memory import MemoryLimits, over_limit


def test_the_largest_slot_goes_first_when_memory_runs_out() -> None:
    limits = MemoryLimits(slot=100, machine=1000)
    assert over_limit({}, limits) is None
    assert over_limit({0: 100, 1: 90}, limits) is None
    assert over_limit({0: 50, 1: 101}, limits) is not None
    victim = over_limit({0: 500, 1: 460}, MemoryLimits(slot=None, machine=1000))
    assert victim is not None
    assert victim[0] == 0
