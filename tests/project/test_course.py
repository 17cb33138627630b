"""Each lesson of the course runs, as a program and as a notebook, with its exercises' answers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "docs" / "course").glob("lesson*.md"))


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all lessons as notebooks, made as a learner makes it."""
    folder = tmp_path_factory.mktemp("course") / "new"
    subprocess.run([sys.executable, "docs/course/notebooks.py", str(folder)], cwd=ROOT, timeout=60, check=True)
    return folder


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


@pytest.mark.timeout(300)
@pytest.mark.parametrize("lesson", LESSONS, ids=[lesson.stem for lesson in LESSONS])
def test_a_lesson_runs_as_a_notebook(lesson: Path, notebooks: Path) -> None:
    book = nbformat.read(notebooks / f"{lesson.stem}.ipynb", as_version=4)
    nbformat.validate(book)
    assert sum(cell.cell_type == "code" for cell in book.cells) == lesson.read_text().count("```python\n")
    nbclient.NotebookClient(book, timeout=280, resources={"metadata": {"path": str(ROOT)}}).execute()


@pytest.mark.parametrize("lesson", LESSONS, ids=[lesson.stem for lesson in LESSONS])
def test_a_lesson_ends_in_exercises_with_tests_and_answers(lesson: Path) -> None:
    _, _, exercises = lesson.read_text().partition("\n## Exercises\n")
    tests, _, answer = exercises.partition("\n### An answer\n")
    named = re.findall(r"^def (check_\w+)", tests, re.MULTILINE)
    each = re.split(r"^\*\*\d+\. ", tests, flags=re.MULTILINE)[1:]
    assert each and [exercise.partition("**")[0] for exercise in each if "\ndef check_" not in exercise] == []
    assert [name for name in named if f"\n{name}(" not in answer] == []
