"""Slots that are killed while calls go through a call queue; `tests/kills.py` is the long form."""

from __future__ import annotations

import sys

from tests.helpers import Programs


def test_no_call_is_lost_or_runs_twice_at_once_and_the_right_one_is_blamed(programs: Programs) -> None:
    options = ("--calls", "2000", "--kills", "10", "--poisons", "3", "--replacements", "5", "--seconds", "0.1")
    program = programs.start(sys.executable, "-m", "tests.kills", *options)
    assert program.exit_code(50) == 0, program.text
    assert "kills: Summary(calls=" in program.text
