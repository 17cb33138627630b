"""The short form of `python -m tests.fuzz` for the scheduler's core, and what it has found."""

from __future__ import annotations

import pytest

from tests.fuzz.core import talk


@pytest.mark.parametrize("seed", range(4))
def test_an_honest_client_gets_its_results_among_liars(seed: int) -> None:
    words, refused = talk(seed, 2000)
    assert words == 2000 and refused > 50
