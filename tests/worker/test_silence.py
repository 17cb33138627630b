"""A worker notices that its scheduler is silent."""

from __future__ import annotations

from minidask.worker.silence import LOOKS, Silence


def test_so_many_looks_at_nothing_new_are_silence() -> None:
    silence = Silence()
    assert [silence.look(7) for _ in range(LOOKS + 1)] == [False] * LOOKS + [True]


def test_whatever_comes_ends_it() -> None:
    silence = Silence()
    for reads in range(3):
        assert not any(silence.look(reads) for _ in range(LOOKS))
