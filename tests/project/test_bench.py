"""The benchmark works; what it measures is never judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.workloads import WORKLOADS, chosen

ROOT = Path(__file__).parents[2]


def bench(*options: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *options]
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else None
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.timeout(300)
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


def test_what_cannot_be_imported_is_told_in_the_table(tmp_path: Path) -> None:
    (tmp_path / "dask").mkdir()
    (tmp_path / "dask" / "__init__.py").write_text("raise ImportError('broken on purpose')")
    (tmp_path / "distributed.py").write_text("")
    result = bench("--short", "--engines", "dask,threading", "one_task", path=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "left out: dask: ImportError: broken on purpose" in result.stdout


def test_without_minidask_there_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    without = "import sys\nif '-c' in sys.orig_argv: sys.modules['minidask'] = None\n"  # where it is tried to import it
    (tmp_path / "sitecustomize.py").write_text(without)
    result = bench("--short", "--engines", "minidask,threading", path=tmp_path)
    assert result.returncode == 1
    assert "minidask cannot be measured" in result.stderr
    assert "pip install --editable" in result.stderr
    assert not result.stdout


def test_where_the_microseconds_go_can_be_asked_for_help_and_shown() -> None:
    command = [sys.executable, "-m", "bench.hops"]
    helped = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "usage: python -m bench.hops" in helped.stdout
    shown = subprocess.run([*command, "20"], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True)
    assert "one step, alone and warm" in shown.stdout
