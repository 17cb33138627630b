"""Who may import whom: the architecture, read from the sources themselves."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
IMPURE = {"asyncio", "socket", "time", "random", "secrets", "pickle", "cloudpickle", "threading", "os", "subprocess"}
FRONT = ("minidask.errors", "minidask._version")  # what every room may import
ONE_PLACE = {
    "uvloop": ("minidask.host.program",),
    "joblib": ("minidask.backend.backend", "minidask.backend.inside_joblib"),  # its contract, and what it keeps private
}


class Room(NamedTuple):
    """A row of the tour's table; `pure` and `with_asyncio` are full names of modules."""

    package: str
    imports: frozenset[str]
    pure: frozenset[str]
    with_asyncio: frozenset[str]


def package_of(room: str) -> str:
    """The package that a folder is: `worker/slot` is `minidask.worker.slot`."""
    return room.replace("/", ".") if room.startswith("minidask") else f"minidask.{room.replace('/', '.')}"


def modules() -> dict[str, Path]:
    """Every module with its file."""
    found = {}
    for folder in ("minidask", "scheduler", "worker"):
        for path in sorted((ROOT / folder).rglob("*.py")):  # links to the other folders are not followed
            names = path.relative_to(ROOT).with_suffix("").parts
            found[package_of("/".join(name for name in names if name != "__init__"))] = path
    return found


MODULES = modules()


def rooms() -> dict[str, Room]:
    """The table of the tour, by package."""
    rows = re.findall(
        r"^\| `([a-z/]+)` \|.*?\|(.*?)\|(.*?)\|(.*?)\|$", (ROOT / "docs/tour.md").read_text(), re.MULTILINE
    )
    return {room.package: room for room in (_room(*row) for row in rows)}


def _room(room: str, imports: str, pure: str, with_asyncio: str) -> Room:
    package = package_of(room)
    allowed = frozenset(package_of(name) for name in imports.split())
    inside = {name for name in MODULES if name == package or name.rpartition(".")[0] == package}
    if pure.strip().startswith("all"):
        named = inside - {package, *(f"{package}.{name}" for name in pure.split()[2:]), f"{package}.__main__"}
    else:
        named = {f"{package}.{name}" for name in pure.split()}
    return Room(package, allowed, frozenset(named), frozenset(f"{package}.{name}" for name in with_asyncio.split()))


ROOMS = rooms()


def room_of(name: str) -> str:
    """The room that holds a module, or what a module has."""
    inside = [package for package in ROOMS if name == package or name.startswith(package + ".")]
    return max(inside, key=len, default="")


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """The absolute names of all modules that a source imports, wherever in it, be it for types only."""
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
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in MODULES else base


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a module imports and must not."""
    found = []
    room = ROOMS[room_of(module)]
    is_pure = module in room.pure or (module not in MODULES and _is_pure_by_default(room))
    relatively = {"." * node.level for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)} - {""}
    for name in imports(source, module, is_package):
        top, theirs = name.partition(".")[0], room_of(name)
        if top in ("scheduler", "worker"):
            found.append(f"{module} imports {name} by the name of its folder")
        if is_pure and (top in IMPURE or (name in MODULES and not _may_be_met_by_a_core(name))):
            found.append(f"{module} is a core and imports {name}")
        if top == "asyncio" and module not in room.with_asyncio:
            found.append(f"{module} imports {name}, which is for shells")
        if top in ONE_PLACE and module not in ONE_PLACE[top]:
            found.append(f"{module} imports {name}, which only {' and '.join(ONE_PLACE[top])} may")
        if room.package == "minidask.scheduler" and top in ("pickle", "cloudpickle"):
            found.append(f"{module} imports {name}: the scheduler unpickles nothing")
        if theirs not in ("", room.package) and name not in FRONT and theirs not in room.imports:
            found.append(f"{module} imports {name}, of a room that it may not")
    if room.package.startswith(("minidask.scheduler", "minidask.worker")):
        if f"from {room.package}" in source or f"import {room.package}" in source:
            found.append(f"{module} imports its own room by its absolute name")
        if "..." in relatively or (".." in relatively and not is_package):
            found.append(f"{module} imports another room relatively")
    return found


def _is_pure_by_default(room: Room) -> bool:
    return room.package in ("minidask.wire", "minidask.scheduler")


def _may_be_met_by_a_core(name: str) -> bool:
    return name in FRONT or name in ROOMS or name in ROOMS[room_of(name)].pure


@pytest.mark.parametrize(("module", "path"), [pytest.param(*found, id=found[0]) for found in MODULES.items()])
def test_every_module_imports_only_what_it_may(module: str, path: Path) -> None:
    assert violations(path.read_text(), module, path.name == "__init__.py") == []


def test_the_tours_table_names_every_room_and_only_modules_that_exist() -> None:
    folders = {package_of(str(path.parent.relative_to(ROOT))) for path in MODULES.values()}
    assert set(ROOMS) == folders
    named = {name for room in ROOMS.values() for name in room.pure | room.with_asyncio}
    assert named <= set(MODULES)
    assert {name for room in ROOMS.values() for name in room.imports} <= set(ROOMS)


def test_no_arrow_goes_up() -> None:
    order = list(ROOMS)
    upward = [(room.package, other) for room in ROOMS.values() for other in room.imports if other not in order]
    upward += [(a, b) for a in order for b in ROOMS[a].imports if order.index(b) > order.index(a)]
    assert upward == []


def circles(graph: Mapping[str, Collection[str]]) -> list[list[str]]:
    """The ways round: each a chain of names that ends where it began. One is told of each set that has any."""
    found, done = [], set[str]()

    def follow(name: str, way: list[str]) -> None:
        if name in way:
            found.append([*way[way.index(name) :], name])
        elif name not in done:
            for other in sorted(graph.get(name, ())):
                follow(other, [*way, name])
            done.add(name)

    for name in graph:
        follow(name, [])
    return found


def test_no_files_import_each_other_by_any_way_round() -> None:
    graph = {
        module: set(imports(path.read_text(), module, path.name == "__init__.py")) & set(MODULES)
        for module, path in MODULES.items()
    }
    assert circles(graph) == []


def test_a_circle_is_noticed() -> None:
    assert circles({"a": ["b"], "b": ["c"], "c": ["b"], "d": []}) == [["b", "c", "b"]]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("minidask.scheduler.core", "import time"),
        ("minidask.scheduler.core", "def f():\n    from time import monotonic"),
        ("minidask.worker.core", "from . import agent\nimport socket"),
        ("minidask.wire.frames", "import os.path"),
        ("minidask.client.core", "import threading"),
        ("minidask.scheduler.server", "import pickle"),
        ("minidask.scheduler.server", "from minidask.pickling.payload import loads"),
        ("minidask.scheduler.server", "from minidask.pickling import payload"),
        ("minidask.scheduler.server", "import joblib"),
        ("minidask.scheduler.server", "from minidask.worker import core"),
        ("minidask.scheduler.server", "from ..worker import core"),
        ("minidask.worker.shell", "import minidask.client.client"),
        ("minidask.client.client", "from minidask.scheduler.core import SchedulerCore"),
        ("minidask.worker.slot.loop", "import asyncio"),
        ("minidask.worker.slot.loop", "import uvloop"),
        ("minidask.worker.slot.loop", "import joblib"),
        ("minidask.worker.slot.loop", "from minidask.worker.core import WorkerCore"),
        ("minidask.local.cluster", "import scheduler.core"),
        ("minidask.local.cluster", "import minidask.client.client"),
        ("minidask.pickling.payload", "from worker import slot"),
        ("minidask.net.transport", "import minidask.client.client"),
        ("minidask.data.store", "from minidask.pickling.payload import loads"),
        ("minidask.scheduler.server", "from ..net.addresses import Address"),
        ("minidask.scheduler.server", "from minidask.scheduler.core import SchedulerCore"),
        ("minidask.wire.new", "import time"),
        ("minidask.scheduler.new", "import time"),
        ("minidask.worker.shell", "from minidask.local import cluster"),
        ("minidask.worker.memory", "from minidask.host.resources import cpu_count"),
    ],
)
def test_the_rules_notice_what_breaks_them(module: str, source: str) -> None:
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("minidask", ["joblib", "numpy", "asyncio", "cloudpickle", "minidask.client"]),
        (
            "minidask.scheduler.__main__",
            ["joblib", "numpy", "cloudpickle", "minidask.pickling.payload", "minidask.worker"],
        ),
        ("minidask.worker.__main__", ["joblib", "numpy", "minidask.scheduler", "minidask.client"]),
        ("minidask.worker.slot.loop", ["joblib", "numpy", "asyncio", "psutil", "minidask.client"]),
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
