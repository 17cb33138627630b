"""Writes the lessons as notebooks: `python docs/course/notebooks.py FOLDER`.

It needs nbformat, which Jupyter brings along. Each block of Python of a lesson is a cell, and the text between two of
them is another one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

LESSONS = sorted(Path(__file__).parent.glob("lesson*.md"))


def notebook(lesson: Path) -> nbformat.NotebookNode:
    """Return a lesson as a notebook."""
    parts = re.split(r"^```python\n(.*?)^```$", lesson.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    cells = []
    for number, part in enumerate(map(str.strip, parts)):
        if part:
            cells.append(new_code_cell(part) if number % 2 else new_markdown_cell(part))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # else it is drawn at random, and the file is another one each time
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return new_notebook(cells=cells, metadata=kernel)


def write(folder: Path) -> None:
    """Write all lessons into a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for lesson in LESSONS:
        nbformat.write(notebook(lesson), folder / f"{lesson.stem}.ipynb")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/course/notebooks.py FOLDER")
    write(Path(sys.argv[1]))
