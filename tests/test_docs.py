"""The documents name only what exists."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
MAX_TERMS = 75
TERM = re.compile(r"^\| ([^|`]+) \| [^|]+ \| `([\w/]+\.py)` `([\w.]+)` \|$", re.MULTILINE)


def module_of(file: str) -> str:
    """The module that a file of the repository is imported as."""
    dotted = file.removesuffix(".py").replace("/", ".")
    return dotted if dotted.startswith("minidask.") else f"minidask.{dotted}"


def terms() -> list[tuple[str, str, str]]:
    """Each term of the glossary, with the file and the name that embody it."""
    return TERM.findall((ROOT / "docs/glossary.md").read_text())


@pytest.mark.parametrize(("term", "file", "name"), terms(), ids=[term for term, _, _ in terms()])
def test_what_embodies_a_term_exists(term: str, file: str, name: str) -> None:
    start: Any = importlib.import_module(module_of(file))
    found = reduce(getattr, name.split("."), start)
    assert found.__module__ == module_of(file)


def test_every_row_of_the_glossary_is_a_term_and_there_are_few() -> None:
    rows = re.findall(r"^\| (?!term)\w.*$", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    assert len(rows) == len(terms()) <= MAX_TERMS


def test_no_term_is_there_twice() -> None:
    assert [term for term, count in Counter(term for term, _, _ in terms()).items() if count > 1] == []
