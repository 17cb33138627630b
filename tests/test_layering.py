"""Who may import whom: the architecture, read from the sources themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"minidask": ROOT / "minidask", "minidask.scheduler": ROOT / "scheduler", "minidask.worker": ROOT / "worker"}

IMPURE = {"asyncio", "socket", "time", "random", "secrets", "pickle", "cloudpickle", "threading", "os", "subprocess"}
SHELLS = {
    "minidask.scheduler": {"__main__", "server"},
    "minidask.worker": {
        "__main__",
        "agent",
        "caller",
        "calls",
        "copies",
        "daemon",
        "launch",
        "logs",
        "modules",
        "peers",
        "slot",
        "slotpool",
        "traits",
        "transfers",
        "children",
        "untaken",
        "missing",
    },
}
PURE_ALONE = {
    "minidask.addresses",
    "minidask.client.core",
    "minidask.client.tally",
    "minidask.errors",
    "minidask.parts",
    "minidask.sizes",
    "minidask.versions",
}
ASYNC = {
    "minidask.local",
    "minidask.local_node",
    "minidask.program",
    "minidask.scheduler.server",
    "minidask.transport",
    "minidask.worker.agent",
    "minidask.worker.children",
    "minidask.worker.daemon",
    "minidask.worker.peers",
    "minidask.worker.slotpool",
}
PROGRAMS = ("minidask.scheduler", "minidask.worker", "minidask.client")
KNOWS_ALL = {"minidask.local", "minidask.local_boot", "minidask.local_node"}
SETS_UP = {
    "minidask",
    "minidask._register",
    "minidask.initializer",
    "minidask.joblib_backend",
    "minidask.joblib_call",
    "minidask.nested_call",
}


def is_pure(module: str) -> bool:
    """Whether a module is to be a core: all of the wire, and what is no shell in the daemons."""
    package, _, name = module.rpartition(".")
    if within(module, "minidask.wire") or module in PURE_ALONE:
        return True
    return package in SHELLS and name not in SHELLS[package]


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """The absolute names of all modules that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                up = node.level - 1 if is_package else node.level
                package = ".".join(parts[: len(parts) - up])
                base = f"{package}.{base}".rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a module imports and must not."""
    found = []
    for name in imports(source, module, is_package):
        top = name.partition(".")[0]
        if is_pure(module) and (top in IMPURE or (top == "minidask" and not _is_pure_name(name))):
            found.append(f"{module} is a core and imports {name}")
        if top == "asyncio" and module not in ASYNC:
            found.append(f"{module} imports {name}, which is for shells")
        if top == "uvloop" and module != "minidask.program":
            found.append(f"{module} imports {name}")
        if top == "joblib" and module != "minidask.joblib_backend":
            found.append(f"{module} imports {name}, which only the backend may")
        if within(module, "minidask.scheduler") and (
            top in ("pickle", "cloudpickle") or within(name, "minidask.payload")
        ):
            found.append(f"{module} imports {name}: the scheduler unpickles nothing")
        if top in ("scheduler", "worker"):
            found.append(f"{module} imports {name} by the name of its folder")
        for program in PROGRAMS:
            theirs = within(name, program) and not within(module, program)
            allowed = module in KNOWS_ALL or (module in SETS_UP and program == "minidask.client")
            if theirs and not allowed:
                found.append(f"{module} imports {name}, another program's")
        if module not in KNOWS_ALL | {"minidask"} and any(within(name, whole) for whole in KNOWS_ALL):
            allowed = module == "minidask.client.client" and name.startswith("minidask.local")
            if not allowed:
                found.append(f"{module} imports {name}, which knows all three programs")
        own = next((package for package in SHELLS if within(module, package)), None)
        if own is not None and within(name, own) and _is_absolute(source, name):
            found.append(f"{module} imports {name}, its own, by its absolute name")
        if own is not None and not within(name, own) and within(name, "minidask") and not _is_absolute(source, name):
            found.append(f"{module} imports {name}, a shared module, relatively")
        if module in SETS_UP and within(name, "minidask.scheduler"):
            found.append(f"{module} imports {name}")
    return found


def _is_absolute(source: str, name: str) -> bool:
    """Whether a source spells out this module's full name."""
    return f"import {name}" in source or f"from {name} " in source or f"from {name.rpartition('.')[0]} import" in source


def _is_pure_name(name: str) -> bool:
    """Whether `name` is a core, a package, or something inside a core."""
    return name == "minidask" or any(is_pure(part) or part in PACKAGES for part in (name, name.rpartition(".")[0]))


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join([package, *(part for part in parts if part != "__init__")]), path


@pytest.mark.parametrize(("module", "path"), [pytest.param(*found, id=found[0]) for found in modules()])
def test_every_module_imports_only_what_it_may(module: str, path: Path) -> None:
    assert violations(path.read_text(), module, path.name == "__init__.py") == []


def test_every_module_that_is_to_be_pure_exists() -> None:
    assert {name for name, _ in modules()} >= PURE_ALONE | ASYNC


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("minidask.scheduler.core", "import time"),
        ("minidask.scheduler.core", "def f():\n    from time import monotonic"),
        ("minidask.worker.core", "from . import agent\nimport socket"),
        ("minidask.wire.frames", "import os.path"),
        ("minidask.client.core", "import threading"),
        ("minidask.scheduler.server", "import pickle"),
        ("minidask.scheduler.server", "from minidask.payload import loads"),
        ("minidask.scheduler.server", "from minidask import payload"),
        ("minidask.scheduler.server", "import joblib"),
        ("minidask.scheduler.server", "from minidask.worker import core"),
        ("minidask.scheduler.server", "from ..worker import core"),
        ("minidask.worker.agent", "import minidask.client.client"),
        ("minidask.client.client", "from minidask.scheduler.core import SchedulerCore"),
        ("minidask.worker.slot", "import asyncio"),
        ("minidask.worker.slot", "import uvloop"),
        ("minidask.worker.slot", "import joblib"),
        ("minidask.local", "import scheduler.core"),
        ("minidask.payload", "from worker import slot"),
        ("minidask.transport", "import minidask.client.client"),
        ("minidask.scheduler.server", "from ..addresses import Address"),
        ("minidask.scheduler.server", "from minidask.scheduler.core import SchedulerCore"),
        ("minidask.wire.new", "import time"),
        ("minidask.scheduler.new", "import time"),
        ("minidask.worker.agent", "from minidask import local"),
        ("minidask.worker.memory", "from minidask.resources import cpu_count"),
    ],
)
def test_the_rules_notice_what_breaks_them(module: str, source: str) -> None:
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("minidask", ["joblib", "numpy", "asyncio", "cloudpickle", "minidask.client"]),
        ("minidask.scheduler.__main__", ["joblib", "numpy", "cloudpickle", "minidask.payload", "minidask.worker"]),
        ("minidask.worker.__main__", ["joblib", "numpy", "minidask.scheduler", "minidask.client"]),
        ("minidask.worker.slot", ["joblib", "numpy", "asyncio", "psutil", "minidask.client"]),
        ("minidask.client.client", ["joblib", "numpy", "asyncio", "psutil", "minidask.scheduler"]),
    ],
)
def test_a_program_loads_only_what_it_needs(module: str, absent: list[str]) -> None:
    code = f"import {module}, sys; print([name for name in {absent} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("order", ["minidask, joblib", "joblib, minidask"])
def test_the_backend_is_registered_in_either_order_of_imports(order: str) -> None:
    code = f"import {order}; joblib.parallel_config('minidask'); print(joblib.parallel.BACKENDS['minidask'].__name__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert result.stdout.strip() == "MinidaskBackend"
