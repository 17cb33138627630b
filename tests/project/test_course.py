"""Each lesson of the course runs, block after block, with its exercises' answers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "docs" / "course").glob("lesson*.md"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("lesson", LESSONS, ids=[lesson.stem for lesson in LESSONS])
def test_a_lesson_runs(lesson: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", lesson.read_text(), re.MULTILINE | re.DOTALL)
    program = tmp_path / f"{lesson.stem}.py"
    program.write_text("\n\n".join(blocks))
    result = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("lesson", LESSONS, ids=[lesson.stem for lesson in LESSONS])
def test_a_lesson_ends_in_exercises_with_tests_and_answers(lesson: Path) -> None:
    _, _, exercises = lesson.read_text().partition("\n## Exercises\n")
    tests, _, answer = exercises.partition("\n### An answer\n")
    named = re.findall(r"^def (check_\w+)", tests, re.MULTILINE)
    each = re.split(r"^\*\*\d+\. ", tests, flags=re.MULTILINE)[1:]
    assert each and [exercise.partition("**")[0] for exercise in each if "\ndef check_" not in exercise] == []
    assert [name for name in named if f"\n{name}(" not in answer] == []
