"""Collects the caller's own code, so that a worker without these files can import the same modules.

The modules that are loaded are sent, and the files around them: a task may import more, or read a file beside its
module. Of a package that is its whole folder; of a single file, what else is in its folder.

`MAX_BYTES` and `MAX_FILES` limit all that. Loaded modules come first, then other sources, then other files, and small
files before large ones. Hidden files and caches are left out. So are files above `MAX_BESIDE` beside a single file.

Compiled modules cannot travel, nor can the packages that they are in. A hash describes them, and workers compare.
"""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Any, NamedTuple

from minidask.host.signals import pass_on
from minidask.task.sources import OwnModule, is_library, kernel

MAX_BYTES = 20 * 1024 * 1024
MAX_FILES = 2000
MAX_BESIDE = 1024 * 1024
"""The most bytes of a file that is neither a source nor in a package."""
MAX_ENTRIES = 20_000
"""The most files that are looked at."""

LOADED, SOURCE, OTHER = range(3)


class _File(NamedTuple):
    """A file that may be sent: `root` is the folder on the import path, `place` the path below that."""

    rank: int
    size: int
    root: str
    place: str
    path: str
    content: bytes | None = None


def collected(found: Mapping[str, OwnModule], *, thin: bool) -> dict[str, Any]:
    """Return the caller's own code in the form in which it is sent; an empty dict if there is none.

    Args:
        found: the caller's own modules that are loaded, by name.
        thin: whether workers have the same files. Then only the sources of loaded modules are sent.
    """
    stays = {name.partition(".")[0] for name, module in found.items() if module.source is None}
    files = [
        _File(LOADED, len(module.source), *_placed(name, module), module.file, module.source)
        for name, module in found.items()
        if module.source is not None and name.partition(".")[0] not in stays
    ]
    if not thin:
        around = list(_around(files))
        stays |= {file.place.split("/")[0] for file in around if _is_compiled(file.path) and "/" in file.place}
        travel = (file for file in (*files, *around) if not _is_compiled(file.path))
        files = [file for file in travel if file.place.split("/")[0] not in stays]
    taken = _within_budget(files, thin)
    roots = list(dict.fromkeys(root for root, _ in taken))
    number = {root: str(index) for index, root in enumerate(roots)}
    modules = {}
    for name, module in found.items():
        key = _placed(name, module) if module.source is not None else None
        if key in taken and taken[key][2]:
            modules[name] = f"{number[key[0]]}/{key[1]}"
    left = {name: module for name, module in found.items() if name not in modules}
    if not (taken or left):
        return {}
    return {
        "kernel": kernel(),
        "roots": [[root, *_identity(root)] for root in roots],
        "files": {f"{number[root]}/{place}": [path, content] for (root, place), (path, content, _) in taken.items()},
        "modules": modules,
        "namespaces": _namespaces(modules),
        "stays": {name: [module.file, module.digest] for name, module in left.items()},
    }


def _placed(name: str, module: OwnModule) -> tuple[str, str]:
    """Return the folder of the import path that has a module, and the module's file below that folder."""
    place = name.replace(".", "/") + ("/__init__.py" if module.is_package else ".py")
    if module.file.endswith(f"/{place}"):
        return module.file[: -len(place) - 1], place
    return os.path.dirname(module.file), place  # a finder of its own has found it under another name


def _within_budget(files: list[_File], thin: bool) -> dict[tuple[str, str], tuple[str, bytes, bool]]:
    """Return path and content of the files to send, and whether a loaded module's; by root and path below it."""
    taken: dict[tuple[str, str], tuple[str, bytes, bool]] = {}
    room = MAX_BYTES
    for file in sorted(files, key=lambda file: file[:2]):
        key = file.root, file.place
        if key in taken or (not thin and (file.size > room or len(taken) >= MAX_FILES)):
            continue
        content = _read(file.path) if file.content is None else file.content
        if content is not None:
            room -= len(content)
            taken[key] = (file.path, content, file.rank == LOADED)
    return dict(sorted(taken.items()))


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:  # it may not be read: then it stays
        pass_on(error)
        return None


# --- what lies around ---


def _around(loaded: list[_File]) -> Iterator[_File]:
    seen: set[str] = set()
    folders = [(os.path.dirname(file.path), file.root, os.path.dirname(file.place)) for file in loaded]
    program = _folder_of_the_program()
    if program is not None:
        folders.append((program, program, ""))
    budget = iter(range(MAX_ENTRIES))
    for folder, root, place in sorted(set(folders)):
        if os.path.isfile(root):
            yield from _archived(root)
        else:
            yield from _listed(folder, root, place, seen, budget)


def _folder_of_the_program() -> str | None:
    """Return the folder of the program's script, as tasks may import what lies beside it; None without a script."""
    main: Any = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if getattr(getattr(main, "__spec__", None), "parent", "") or not isinstance(file, str) or not file.endswith(".py"):
        return None
    folder = os.path.dirname(os.path.abspath(file))
    return None if is_library(folder) else folder


def _listed(folder: str, root: str, place: str, seen: set[str], budget: Iterator[int]) -> Iterator[_File]:
    """Yield the files of a folder. Of folders in it, only packages count, and of a package all files."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        pass_on(error)
        return
    for entry in entries:
        if next(budget, None) is None:
            return
        if entry.name.startswith((".", "__pycache__")) or entry.name.endswith((".pyc", ".pyo")):
            continue
        below = f"{place}/{entry.name}".lstrip("/")
        try:
            if entry.is_dir():
                if place or os.path.isfile(os.path.join(entry.path, "__init__.py")):
                    yield from _listed(entry.path, root, below, seen, budget)
            elif entry.is_file():
                rank, size = SOURCE if entry.name.endswith(".py") else OTHER, entry.stat().st_size
                if place or rank == SOURCE or size <= MAX_BESIDE:
                    yield _File(rank, size, root, below, entry.path)
        except OSError as error:  # it has just gone
            pass_on(error)
            continue


def _archived(archive: str) -> Iterator[_File]:
    """Yield the files in a zip file that is on the import path."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if not info.is_dir() and not info.filename.endswith(".pyc"):
                    rank = SOURCE if info.filename.endswith(".py") else OTHER
                    path = f"{archive}/{info.filename}"
                    if info.file_size <= MAX_BYTES:
                        yield _File(rank, info.file_size, archive, info.filename, path, opened.read(info))
    except (OSError, zipfile.BadZipFile) as error:
        pass_on(error)
        return


def _is_compiled(path: str) -> bool:
    return path.endswith(tuple(EXTENSION_SUFFIXES))


# --- what tells a worker about it ---


def _identity(folder: str) -> list[int]:
    """Return device and inode, which no other file of this machine has; zeros if the folder is gone."""
    try:
        status = os.stat(folder)
    except OSError as error:
        pass_on(error)
        return [0, 0]
    return [status.st_dev, status.st_ino]


def _namespaces(modules: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the namespace packages of these modules, with the folders that each has among the files."""
    found: dict[str, list[str]] = {}
    for name, place in modules.items():
        parts = name.split(".")
        root = place.partition("/")[0]
        for count in range(1, len(parts)):
            parent = ".".join(parts[:count])
            spec = getattr(sys.modules.get(parent), "__spec__", None)
            if parent not in modules and spec is not None and spec.origin is None:
                places = found.setdefault(parent, [])
                part = "/".join([root, *parts[:count]])
                if part not in places:
                    places.append(part)
    return found
