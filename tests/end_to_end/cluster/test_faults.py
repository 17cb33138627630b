"""The commands that inject faults and look for leaks: `tests.faults`, `tests.soak`, `tests.leaks`, in short forms."""

from __future__ import annotations

import sys

import pytest

from tests.faults.table import FAULTS
from tests.helpers import Programs

pytestmark = pytest.mark.timeout(120)


def test_some_faults_and_what_their_users_see(programs: Programs) -> None:
    names = ("slot-exit", "poison")
    program = programs.start(sys.executable, "-m", "tests.faults", *names)
    assert program.exit_code(110) == 0, program.text
    assert [line.split()[0] for line in program.text.splitlines()[1:]] == list(names), program.text


def test_all_faults_are_listed(programs: Programs) -> None:
    program = programs.start(sys.executable, "-m", "tests.faults", "--list")
    assert program.exit_code(20) == 0, program.text
    assert [line.split()[0] for line in program.text.splitlines()] == [fault.name for fault in FAULTS]


def test_three_clients_under_random_faults_for_a_few_seconds(programs: Programs) -> None:
    program = programs.start(sys.executable, "-m", "tests.soak", "--minutes", "0.1", "--seed", "7")
    assert program.exit_code(110) == 0, program.text
    assert "all was right" in program.text


def test_a_few_clusters_in_one_process_leave_nothing_behind(programs: Programs) -> None:
    program = programs.start(sys.executable, "-m", "tests.leaks", "--clusters", "10")
    assert program.exit_code(110) == 0, program.text
    assert "left behind: nothing" in program.text
