"""The callers' own modules in a slot: each caller has its own, though the process has one `sys.modules`.

A slot works for one caller after another. Two callers may have a module `utils` each, with other content. And the code
of one caller changes, as people edit. So what is imported for one version of a caller's code is a *world*, and worlds
take turns:

    session ─► World: where the code is on this machine ─► `Worlds.enter`: import path, modules, unpickled objects

When a task of another caller comes, the modules of the world before leave `sys.modules`. They are put back when that
caller's next task comes, so that its classes stay the same objects.

Code is imported from where the caller has it, if that folder is on this machine, or one with the same content under the
same name. Any other code is imported from a copy (`copies.py`).
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from minidask.errors import VersionMismatch
from minidask.task.sources import content_of, is_library, kernel
from minidask.wire.large import blob_id

from .copies import Copies

MAX_WORLDS = 4
"""How many worlds a slot keeps."""
MAX_VERSIONS = 8
"""How many copies of one caller's code may belong to one world, each with more modules than the one before."""

LATER = frozenset(("minidask", "joblib", "threadpoolctl", "numpy"))
"""Packages that a slot itself may import later."""

Code = Mapping[str, Any]
NO_CODE: Code = {"kernel": "", "roots": [], "files": {}, "modules": {}, "namespaces": {}, "stays": {}}

_numbers = itertools.count()


class World:
    """One version of a caller's code in this slot: the finder of its modules, and their files.

    Args:
        name: the id of the code's blob, as hexadecimal text.
        code: the code as `docs/protocol.md` describes it.
        before, after: the caller's import path without libraries: the entries before and after those.
        copies: unpacks the code that is not in its place on this machine.
    """

    def __init__(self, name: str, code: Code, before: Sequence[str], after: Sequence[str], copies: Copies) -> None:
        self.number = next(_numbers)
        """No other world has it, also no later one."""
        self.modules: dict[str, ModuleType] = {}
        """Its modules, while it is not in turn."""
        self.displaced: dict[str, ModuleType] = {}
        """Modules of the same names that were imported from elsewhere, while it is in turn."""
        self.path: list[str] = []
        """Its `sys.path`, while it is not in turn."""
        self.searched = (list(before), list(after))
        self.locks: list[int] = []
        """File descriptors that hold its copies."""
        self.digests = {place: (path, blob_id([content])) for place, (path, content) in code["files"].items()}
        self.stays: dict[str, tuple[str, bytes]] = {
            own: (file, digest) for own, (file, digest) in code["stays"].items()
        }
        self.sources = {own: code["files"][place] for own, place in code["modules"].items()}
        roots = {str(index): root for index, (root, _, _) in enumerate(code["roots"])}
        self.in_place = {roots[index] for index in roots if _is_in_place(index, code)}
        away = {
            p: content for p, (_, content) in code["files"].items() if roots[p.partition("/")[0]] not in self.in_place
        }
        copy = ""
        if away:
            folder, lock = copies.take(name, away)
            self.locks.append(lock)
            copy = str(folder)
        self.copied = {root: f"{copy}/{index}" for index, root in roots.items() if root not in self.in_place}
        self.files = {
            own: code["files"][place][0] if roots[place.partition("/")[0]] in self.in_place else f"{copy}/{place}"
            for own, place in code["modules"].items()
        }
        self.namespaces = {
            own: [self._folder(roots, place) for place in places] for own, places in code["namespaces"].items()
        }

    def _folder(self, roots: Mapping[str, str], place: str) -> str:
        index, _, rest = place.partition("/")
        root = roots[index]
        return f"{self.copied.get(root, root)}/{rest}"

    def close(self) -> None:
        """Release the copies of a world that will not be entered again."""
        for lock in self.locks:
            os.close(lock)
        self.locks.clear()

    def becomes(self, later: World) -> bool:
        """Become the world of a later version of the code, if that only adds to this version. Returns whether it did.

        The modules that are imported already are then right for both versions: their content is the same, and no module
        that is new in the code was imported from elsewhere.
        """
        same = (
            self.searched == later.searched
            and self.digests.items() <= later.digests.items()
            and self.stays.items() <= later.stays.items()
            and self.copied.keys() == later.copied.keys()
        )
        if not same or any(own in sys.modules for own in later.files.keys() - self.files.keys()):
            return False
        if len(self.locks) >= MAX_VERSIONS:
            return False  # each has a copy of the code, which stays as long as this world does
        self.digests, self.stays, self.sources = later.digests, later.stays, later.sources
        self.in_place |= later.in_place
        self.files = {**later.files, **self.files}
        self.namespaces = {**later.namespaces, **self.namespaces}
        self.locks += later.locks
        return True

    def search_path(self, own: Sequence[str]) -> list[str]:
        """Return the import path for its tasks.

        Args:
            own: the import path of the worker.
        """
        first, last = ([found for entry in entries for found in self._here(entry)] for entries in self.searched)
        inner = [entry for entry in own if entry not in first and entry not in self.copied]
        return [*first, *inner, *(entry for entry in last if entry not in inner and entry not in first)]

    def _here(self, entry: str) -> Iterator[str]:
        if entry in self.copied:
            yield self.copied[entry]
        elif os.path.exists(entry):
            yield entry

    def owns(self, name: str, module: ModuleType) -> bool:
        """Whether a module that was imported for its tasks is the caller's own, and no library."""
        if name in self.files or name in self.namespaces or name in self.stays:
            return True
        file = getattr(module, "__file__", None)
        places = [file] if isinstance(file, str) else [str(folder) for folder in getattr(module, "__path__", ())]
        return bool(places) and not any(map(is_library, places))

    # --- the finder: see `importlib.abc.MetaPathFinder` ---

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return where a module of the caller's own is; None for any other module.

        Raises:
            VersionMismatch: the module cannot be sent, and is another one here.
        """
        if name in self.files:
            return self._spec(name)
        if name in self.namespaces:
            spec = ModuleSpec(name, None, is_package=True)
            found = _found_by_others(self, name, path)
            theirs = list(found.submodule_search_locations or ()) if found is not None else []
            spec.submodule_search_locations = list(dict.fromkeys([*self.namespaces[name], *theirs]))
            return spec
        if name in self.stays:
            found = _found_by_others(self, name, path)
            if found is not None and isinstance(found.origin, str):
                self._compare(name, found.origin, found.loader)
            return found
        return None

    def _spec(self, name: str) -> ModuleSpec | None:
        file = self.files[name]
        folders = [os.path.dirname(file)] if os.path.basename(file) == "__init__.py" else None
        loader = _InPlace(name, file, self.sources[name][1]) if file == self.sources[name][0] else None
        return importlib.util.spec_from_file_location(name, file, loader=loader, submodule_search_locations=folders)

    def check(self) -> None:
        """Compare the modules that cannot be sent, and that are imported already, with the caller's.

        Raises:
            VersionMismatch: one has other content here.
        """
        for name in self.stays:
            spec = getattr(sys.modules.get(name), "__spec__", None)
            if spec is not None and isinstance(spec.origin, str):
                self._compare(name, spec.origin, spec.loader)

    def _compare(self, name: str, here: str, loader: Any) -> None:
        there, digest = self.stays[name]
        if not digest or not os.path.isfile(here):
            return
        content = content_of(here, loader)
        if content is not None and blob_id([content]) != digest:
            raise VersionMismatch(
                f"module {name!r} is another one on worker {os.environ.get('MINIDASK_WORKER', 'local')!r} on"
                f" {os.uname().nodename} ({here}) than where the caller runs ({there}), and cannot be sent, as it is"
                " compiled, or too large, or cannot be read: install the same version on both"
            )


class _InPlace(SourceFileLoader):
    """Loads a module from its file. If the file has changed since the caller loaded it, loads the source of then."""

    def __init__(self, name: str, file: str, source: bytes) -> None:
        super().__init__(name, file)
        self._source = source

    def get_code(self, fullname: str) -> Any:
        if content_of(self.path) == self._source:
            return super().get_code(fullname)
        return self.source_to_code(self._source, self.path)

    def set_data(self, path: Any, data: Any, *, _mode: int = 0o666) -> None:
        """Do nothing: no compiled code is written into a folder of the user's."""


class Worlds:
    """The worlds of a slot, of which one is current.

    Args:
        folder: for copies of code. The worker removes it.
        forget: called with the number of a world that will not be entered again.
    """

    def __init__(self, folder: Path, forget: Callable[[int], None]) -> None:
        self._copies = Copies(folder)
        self._forget = forget
        self._own_path = list(sys.path)
        self._ours = {name.partition(".")[0] for name in sys.modules} | LATER
        """The packages that the slot itself needs. They belong to no caller."""
        self._stuck = set(self._ours)
        """The packages that stay in `sys.modules`: also those with a module that a process can load only once."""
        self._others: set[str] = set()
        """The modules that were imported already when the current world was entered."""
        self._known: dict[tuple[str, str], World] = {}  # the last one used is the last
        self._current: World | None = None

    def enter(self, name: str, load: Callable[[], Code], before: list[str], after: list[str]) -> int:
        """Import a caller's own modules from now on. The world before is put away.

        Args:
            name: the id of the code's blob, as hexadecimal text.
            load: gives the code; called if this slot has no world of it.
            before, after: the caller's import path without libraries: the entries before and after those.

        Returns:
            The number of the world.

        Raises:
            VersionMismatch: a module that cannot be sent is another one here.
            MinidaskError: there is no room for the code.
        """
        key = name, repr((before, after))
        world = self._known.pop(key, None) or self._world(name, load(), before, after)
        self._known[key] = world
        if world is not self._current:
            self._switch(world)
            self._drop_oldest()
        world.check()
        return world.number

    def is_copy(self, path: str) -> bool:
        """Whether a file is in a copy of the current caller's code."""
        return self._current is not None and any(path.startswith(f"{copy}/") for copy in self._current.copied.values())

    def _world(self, name: str, code: Code, before: list[str], after: list[str]) -> World:
        world = World(name, self._without_ours(code), before, after, self._copies)
        return self._current if self._current is not None and self._current.becomes(world) else world

    def _without_ours(self, code: Code) -> Code:
        """The code without the packages that the slot itself needs; they are compared. A caller may develop one."""
        modules = {own: place for own, place in code["modules"].items() if own.partition(".")[0] not in self._ours}
        stays = dict(code["stays"])
        for own, place in code["modules"].items() - modules.items():
            file, content = code["files"][place]
            stays[own] = [file, blob_id([content])]
        return {**code, "modules": modules, "stays": stays}

    def _switch(self, world: World) -> None:
        if self._current is not None:
            self._leave(self._current)
        self._current = world
        tops = {own.partition(".")[0] for own in world.files}
        if not tops.isdisjoint(sys.modules):
            for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
                world.displaced[name] = sys.modules.pop(name)
        self._others = set(sys.modules)
        sys.modules.update(world.modules)
        if not world.path:
            importlib.invalidate_caches()
        sys.path[:] = world.path or world.search_path(self._own_path)
        sys.meta_path.insert(_before_the_path(), world)

    def _leave(self, world: World) -> None:
        """Put away the modules that were imported from a world's code since it was entered."""
        world.path = list(sys.path)
        new = {name: module for name, module in list(sys.modules.items()) if name not in self._others}
        self._stuck |= {name.partition(".")[0] for name, module in new.items() if _is_compiled(module)}
        world.modules = {
            name: module
            for name, module in new.items()
            if name.partition(".")[0] not in self._stuck and world.owns(name, module)
        }
        for name in world.modules:
            del sys.modules[name]
        sys.modules.update(world.displaced)
        world.displaced.clear()
        if world in sys.meta_path:
            sys.meta_path.remove(world)

    def _drop_oldest(self) -> None:
        worlds = list(dict.fromkeys(reversed(self._known.values())))
        for world in worlds[MAX_WORLDS:]:
            self._known = {key: other for key, other in self._known.items() if other is not world}
            world.close()
            self._forget(world.number)


def _is_in_place(index: str, code: Code) -> bool:
    """Whether a folder of the caller's is on this machine, or one of that name with the same files."""
    root, device, number = code["roots"][int(index)]
    try:
        status = os.stat(root)
    except OSError:
        return False
    if not os.path.isdir(root):
        return False
    if code["kernel"] == kernel() and (status.st_dev, status.st_ino) == (device, number):
        return True
    files = [file for place, file in code["files"].items() if place.startswith(f"{index}/")]
    return all(content_of(path) == content for path, content in files)


def _is_compiled(module: ModuleType) -> bool:
    """Whether a module is compiled: a process can load it only once."""
    origin = getattr(getattr(module, "__spec__", None), "origin", None)
    return isinstance(origin, str) and origin.endswith(tuple(EXTENSION_SUFFIXES))


def _found_by_others(self: World, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        if finder is not self and hasattr(finder, "find_spec"):
            spec = finder.find_spec(name, path)
            if spec is not None:
                return spec
    return None


def _before_the_path() -> int:
    """The index in `sys.meta_path` for a finder of ours: before the usual one, after those that others put there."""
    return sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else len(sys.meta_path)
