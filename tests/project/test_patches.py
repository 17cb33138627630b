"""What is changed in other packages is in one table, and what joblib keeps to itself is used in one file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from minidask.patches import PATCHES

ROOT = Path(__file__).parents[2]
INSIDE_JOBLIB = "minidask/backend/inside_joblib.py"
OURS = ("minidask", "__future__")
CHANGES = {"append", "insert", "extend", "remove", "pop", "update", "setdefault", "clear", "register_pickle_by_value"}
PRIVATE_TO_JOBLIB = {
    "_jobs",
    "_aborting",
    "_call_id",
    "_original_iterator",
    "_ready_batches",
    "_wait_retrieval",
    "_cached_effective_n_jobs",
    "_raise_error_fast",
    "_completion_timeout_counter",
    "_register_outcome",
    "_print",
}

SOURCES = {
    str(path.relative_to(ROOT)): path.read_text()
    for folder in ("minidask", "scheduler", "worker")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def foreign_names(tree: ast.AST) -> dict[str, str]:
    """The names in a source that stand for something of another package, with what they stand for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update({alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module is not None:
            found.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return {name: whole for name, whole in found.items() if not whole.startswith(OURS)}


def assigned(node: ast.AST) -> Iterator[ast.expr]:
    """What a statement assigns to, or deletes."""
    if isinstance(node, ast.Assign | ast.Delete):
        for target in node.targets:
            yield from target.elts if isinstance(target, ast.Tuple) else [target]
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        yield node.target


def changes(source: str) -> Iterator[str]:
    """What of other packages a source changes: full names, or `.name` for a private attribute of some object."""
    tree = ast.parse(source)
    foreign = foreign_names(tree)

    def full_name(node: ast.expr) -> str | None:
        while isinstance(node, ast.Subscript):
            node = node.value
        if not isinstance(node, ast.Attribute):
            return None
        base = node.value.id if isinstance(node.value, ast.Name) else None
        before = foreign.get(base, None) if base is not None else full_name(node.value)
        return None if before is None else f"{before}.{node.attr}"

    for node in ast.walk(tree):
        for target in assigned(node):
            if (name := full_name(target)) is not None:
                yield name
            elif isinstance(target, ast.Attribute) and target.attr.startswith("_") and not is_own(target.value):
                yield f".{target.attr}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
            name = full_name(node.func)
            if name is not None:
                yield name if node.func.attr.startswith("register") else name.rpartition(".")[0]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("setattr", "delattr"):
            of = node.args[0]
            if isinstance(of, ast.Name) and of.id in foreign:
                yield f"{foreign[of.id]}.*"


def is_own(node: ast.expr) -> bool:
    """Whether an expression is `self`, `cls` or `super()`."""
    if isinstance(node, ast.Call):
        node = node.func
    return isinstance(node, ast.Name) and node.id in ("self", "cls", "super")


def test_the_table_names_files_that_exist_and_gives_reasons() -> None:
    for patch in PATCHES:
        assert patch.file in SOURCES
        assert patch.what
        assert patch.where
        assert patch.why.endswith(".")


def test_what_the_table_names_is_in_its_file() -> None:
    for patch in PATCHES:
        for name in patch.what.split():
            assert name.rpartition(".")[2] in SOURCES[patch.file], patch


@pytest.mark.parametrize("file", SOURCES)
def test_nothing_else_of_other_packages_is_changed(file: str) -> None:
    in_table = {name for patch in PATCHES if patch.file == file for name in patch.what.split()}
    assert {name for name in changes(SOURCES[file]) if not name.startswith(".__")} - in_table == set()


@pytest.mark.parametrize(
    ("source", "change"),
    [
        ("import threading\nthreading.Thread.start = f", "threading.Thread.start"),
        ("import joblib.parallel as p\np.eval_expr = f", "joblib.parallel.eval_expr"),
        ("from logging import Logger\ndef f():\n    Logger.handle = f", "logging.Logger.handle"),
        ("import sys\nsys.path[:] = []", "sys.path"),
        ("import sys\nsys.meta_path.insert(0, f)", "sys.meta_path"),
        ("import sys\ndel sys.modules['x']", "sys.modules"),
        ("import cloudpickle\ncloudpickle.register_pickle_by_value(f)", "cloudpickle.register_pickle_by_value"),
        ("import logging\nsetattr(logging, 'x', 1)", "logging.*"),
        ("parallel._print = f", "._print"),
        ("a, state._waiters = 1, []", "._waiters"),
    ],
)
def test_a_change_is_noticed(source: str, change: str) -> None:
    assert list(changes(source)) == [change]


@pytest.mark.parametrize("file", SOURCES)
def test_one_file_uses_what_joblib_keeps_to_itself(file: str) -> None:
    used = set()
    for node in ast.walk(ast.parse(SOURCES[file])):
        if isinstance(node, ast.Attribute) and not is_own(node.value):
            used.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used.add(node.value)
    if file == INSIDE_JOBLIB:
        assert used >= PRIVATE_TO_JOBLIB
    elif file != "minidask/patches.py":
        assert used & PRIVATE_TO_JOBLIB == set()


@pytest.mark.parametrize("file", [file for file in SOURCES if file.startswith("minidask/backend/")])
def test_no_other_file_of_the_backend_uses_private_names_of_anything(file: str) -> None:
    if file == INSIDE_JOBLIB:
        return
    private = {
        node.attr
        for node in ast.walk(ast.parse(SOURCES[file]))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not is_own(node.value)
    }
    assert {name for name in private if not name.startswith("__")} == set()
