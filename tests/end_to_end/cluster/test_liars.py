"""The short form of `python -m tests.fuzz` for the daemons."""

from __future__ import annotations

from tests.fuzz.cluster import Siege
from tests.helpers import Programs


def test_an_honest_client_gets_its_results_among_liars(programs: Programs) -> None:
    siege = Siege(programs, 1)
    siege.go_on(5)
    assert siege.words > 1000
