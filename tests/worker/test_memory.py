"""Which slot is stopped when memory runs out."""

from __future__ import annotations

import pytest

from minidask.worker.memory import HURRIED_SECONDS, LOOK_SECONDS, MemoryLimits, over_limit

MIB = 1 << 20
GIB = 1 << 30


def victim(usage: dict[int, int], limits: MemoryLimits, left: int | None) -> int | None:
    chosen = over_limit(usage, limits, left)
    return None if chosen is None else chosen[0]


def test_a_slot_over_its_limit_goes() -> None:
    limits = MemoryLimits(slot=100, machine=10 * GIB)
    assert victim({}, limits, GIB) is None
    assert victim({0: 100, 1: 90}, limits, GIB) is None
    assert victim({0: 50, 1: 101}, limits, GIB) == 1


@pytest.mark.parametrize(
    ("machine", "reserve"),
    [(1536 * MIB, 153 * MIB), (4 * GIB, 256 * MIB), (24 * GIB, 1228 * MIB), (1024 * GIB, 4 * GIB)],
)
def test_the_largest_slot_goes_before_memory_is_used_up_whoever_uses_it(machine: int, reserve: int) -> None:
    limits = MemoryLimits(None, machine)
    assert limits.reserve // MIB == reserve // MIB
    usage = {0: 500 * MIB, 1: 4 * GIB, 2: 460 * MIB}
    assert victim(usage, limits, limits.reserve) is None
    assert victim(usage, limits, limits.reserve - 1) == 1


def test_no_slot_goes_for_what_others_use() -> None:
    limits = MemoryLimits(None, 24 * GIB)
    assert victim({0: 30 * MIB, 1: 20 * MIB}, limits, 0) is None


def test_where_nobody_tells_what_is_left_it_is_all_that_slots_do_not_use() -> None:
    limits = MemoryLimits(None, 24 * GIB)
    assert victim({0: 12 * GIB, 1: 10 * GIB}, limits, None) is None
    assert victim({0: 12 * GIB, 1: 11 * GIB}, limits, None) == 0


def test_looks_come_sooner_when_memory_gets_short() -> None:
    limits = MemoryLimits(None, 24 * GIB)
    assert limits.seconds_until_next_look(None) == limits.seconds_until_next_look(12 * GIB) == LOOK_SECONDS
    assert limits.seconds_until_next_look(2 * GIB) == HURRIED_SECONDS
