"""The documents name only what exists: terms, files, functions."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.workloads import WORKLOADS
from tests.faults.table import FAULTS

ROOT = Path(__file__).parents[2]
GLOSSARY = (ROOT / "docs/glossary.md").read_text()
TOUR = (ROOT / "docs/tour.md").read_text()
MAX_TERMS = 75
MAX_LINE = 120
MAX_SPINE = 4500

TERMS: list[tuple[str, str, str]] = re.findall(
    r"^\| ([^|`]+) \| [^|]+ \| `([\w/]+\.py)` `([\w.]+)` \|$", GLOSSARY, re.MULTILINE
)
"""Each term with the file and the name that embody it."""

STEPS: list[tuple[str, str, str]] = re.findall(r"^ ?(\d+)  (\S+\.py) +([\w.]+)  ", TOUR, re.MULTILINE)
"""Each step of the tour's diagrams: its number, file and function."""

SPINE: list[str] = re.findall(r"^\| `([\w/]+\.py)` \| \d+ \|", TOUR, re.MULTILINE)


def module_of(file: str) -> str:
    """The module that a file of the repository is imported as."""
    dotted = file.removesuffix(".py").replace("/", ".")
    return dotted if dotted.startswith("minidask.") else f"minidask.{dotted}"


@functools.cache
def definitions(file: str) -> set[str]:
    """All functions, classes and methods of a file, as `Class.method`."""
    found: set[str] = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            inside = node.body if isinstance(node, ast.ClassDef) else []
            found |= {f"{node.name}.{n.name}" for n in inside if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    return found


# --- the glossary ---


@pytest.mark.parametrize(("term", "file", "name"), TERMS, ids=[term for term, _, _ in TERMS])
def test_what_embodies_a_term_exists(term: str, file: str, name: str) -> None:
    start: Any = importlib.import_module(module_of(file))
    found = functools.reduce(getattr, name.split("."), start)
    assert found.__module__ == module_of(file)


def test_every_row_of_the_glossary_is_a_term_and_there_are_few() -> None:
    rows = re.findall(r"^\| (?!term)\w.*$", GLOSSARY, re.MULTILINE)
    assert len(rows) == len(TERMS) <= MAX_TERMS


def test_no_term_is_there_twice() -> None:
    assert [term for term, count in Counter(term for term, _, _ in TERMS).items() if count > 1] == []


def test_no_two_public_classes_share_a_name() -> None:
    files = [path for folder in ("minidask", "scheduler", "worker") for path in (ROOT / folder).rglob("*.py")]
    trees = [ast.parse(path.read_text()) for path in files]
    names = Counter(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1 and not name.startswith("_")] == []


# --- the tour ---


def test_every_step_of_a_journey_names_a_function_that_its_file_defines() -> None:
    assert [(file, name) for _, file, name in STEPS if name not in definitions(file)] == []


def test_the_steps_of_each_journey_are_numbered_from_one() -> None:
    diagrams = [numbers for block in TOUR.split("```") if (numbers := re.findall(r"^ ?(\d+)  ", block, re.MULTILINE))]
    assert [int(number) for number, _, _ in STEPS] == [n for d in diagrams for n in range(1, len(d) + 1)]
    assert len(diagrams) >= 4


def test_the_spine_can_be_read_in_an_evening() -> None:
    assert 0 < sum(len((ROOT / file).read_text().splitlines()) for file in SPINE) <= MAX_SPINE


def test_the_tour_fits_into_a_terminal() -> None:
    assert [line for line in TOUR.splitlines() if len(line) > MAX_LINE and not line.startswith("| `")] == []


# --- all documents ---


@pytest.mark.parametrize(
    "document", ["README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
)
def test_every_file_that_a_document_names_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    named = re.findall(r"`((?:minidask|scheduler|worker|tests|bench|examples)/[\w/]+\.py)`", text)
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert [file for file in named if not (ROOT / file).is_file()] == []
    assert [file for file in linked if not ((ROOT / document).parent / file).exists()] == []


def test_the_first_screen_is_one_and_its_commands_show_what_they_say() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 80
    assert set(re.findall(r"`python -m bench (\w+)`", text)) <= set(WORKLOADS)
    assert set(re.findall(r"`python -m tests.faults ([\w-]+)`", text)) <= {fault.name for fault in FAULTS}
    assert [file for file in re.findall(r"`python (examples/\w+\.py)`", text) if not (ROOT / file).is_file()] == []


# --- faults ---


def test_every_test_and_fault_that_faults_md_names_exists() -> None:
    text = (ROOT / "docs/faults.md").read_text()
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(tests) > 60
    assert [test for test in tests if test[1] not in definitions(test[0])] == []
    named = set(re.findall(r"`([a-z-]+)`", text))
    assert {fault.name for fault in FAULTS} <= named, "faults that it does not tell of"
    rows = re.findall(r"^\| (?!fault|place)\w.*$", text, re.MULTILINE)
    shown = [row.split("|")[3] for row in rows]
    assert [row for row, by in zip(rows, shown, strict=True) if not by.strip()] == []
