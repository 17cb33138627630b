"""The benchmark works; what it measures is never judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.workloads import WORKLOADS, chosen

ROOT = Path(__file__).parent.parent


def bench(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)


@pytest.mark.timeout(120)
def test_a_short_run_fills_the_table_and_two_can_be_compared(tmp_path: Path) -> None:
    result = bench("--short", "--engines", "minidask,threading,floor", "--json", str(tmp_path / "a.json"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "A SHORT RUN" in result.stdout
    for workload in chosen([]):
        assert workload.title in result.stdout
    figures = json.loads((tmp_path / "a.json").read_text())["figures"]
    for name, row in figures.items():
        assert set(row) >= {"minidask"} | ({"threading"} if not WORKLOADS[name].engines else set()), name
        assert all(len(values) == 1 for values in row.values()), name
    assert "one echo" in result.stdout
    compared = bench("compare", str(tmp_path / "a.json"), str(tmp_path / "a.json"))
    rows = sum(len(row) for row in figures.values())
    assert compared.stdout.count("x 1.00") + compared.stdout.count("x ?") == rows
    assert compared.stdout.count("x 1.00") > rows / 2


def test_wrong_names_are_told() -> None:
    assert "there is no workload" in bench("nonsense").stderr
    assert "there is no engine" in bench("--engines", "nonsense").stderr
