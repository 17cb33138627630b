"""The examples that are in no other test run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.timeout(180)
def test_short_calls_with_a_large_global_take_less_than_with_loky() -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "large_global.py")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    ours, theirs = (float(rate.replace(",", "")) for rate in re.findall(r"([\d,]+) calls a second", result.stdout))
    assert ours > 2 * theirs


@pytest.mark.parametrize("program", ["client.js", "worker_from_scratch.py"])
def test_what_was_written_from_the_protocol_is_read_in_a_quarter_of_an_hour(program: str) -> None:
    assert len((EXAMPLES / program).read_text().splitlines()) <= 250
