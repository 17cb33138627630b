"""The callers' own code in a slot, which works for one caller after another: each has its modules to itself.

    session ─► World: where its code is on this machine ─► `Worlds.enter`: its import path, its modules, its objects

Code that lies where the caller has it, in the very same folder or in one with the same content, is imported from
there; any other from a copy. When another caller's task comes, what was imported from own code leaves `sys.modules`,
and is put back when a task of the former comes again: classes stay what they were.
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

from minidask.data.files import blob_id
from minidask.errors import VersionMismatch
from minidask.task.sources import content_of, is_library, kernel

from .copies import Copies

MAX_WORLDS = 4
"""So many callers' modules are kept."""
MAX_VERSIONS = 8
"""So many copies of one caller's code, each with more of its modules than the one before, are one world."""

LATER = frozenset(("minidask", "joblib", "threadpoolctl", "numpy"))
"""What a slot itself may import later."""

Code = Mapping[str, Any]
NO_CODE: Code = {"kernel": "", "roots": [], "files": {}, "modules": {}, "namespaces": {}, "stays": {}}

_numbers = itertools.count()


class World:
    """What one version of a caller's code is in this slot: the finder of its modules, and where they are.

    Args:
        name: of the code's content.
        code: as `docs/protocol.md` describes it.
        before, after: the caller's import path, without libraries: what is searched before and after those.
        copies: where code goes that is not in its place on this machine.
    """

    def __init__(self, name: str, code: Code, before: Sequence[str], after: Sequence[str], copies: Copies) -> None:
        self.number = next(_numbers)
        """Tells worlds apart, also when they have gone."""
        self.modules: dict[str, ModuleType] = {}
        """What left `sys.modules` with it."""
        self.displaced: dict[str, ModuleType] = {}
        """What was imported from elsewhere under the names of its modules, to be put back."""
        self.path: list[str] = []
        """`sys.path`, while it is not this world's turn."""
        self.searched = (list(before), list(after))
        self.locks: list[int] = []
        """What holds the copies."""
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
        """It will not come again."""
        for lock in self.locks:
            os.close(lock)
        self.locks.clear()

    def becomes(self, later: World) -> bool:
        """Whether a later version of the code only adds to this one, which it is from now on.

        What is imported already is right for both then: it is the same, and nothing that is sent now was imported from
        elsewhere before.
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
        """The import path for its tasks.

        Args:
            own: that of the worker.
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
        """Whether a module that was imported for its tasks is code of the caller's, and no library."""
        if name in self.files or name in self.namespaces or name in self.stays:
            return True
        file = getattr(module, "__file__", None)
        places = [file] if isinstance(file, str) else [str(part) for part in getattr(module, "__path__", ())]
        return bool(places) and not any(map(is_library, places))

    # --- the finder: see `importlib.abc.MetaPathFinder` ---

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Where a module of the caller's own is."""
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
        """Compare those of the modules that stay where they are and that are imported already.

        Raises:
            VersionMismatch: one is not what the caller has.
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
    """Loads a module from its file, or if that was changed since the caller has loaded it, what it was then."""

    def __init__(self, name: str, file: str, source: bytes) -> None:
        super().__init__(name, file)
        self._source = source

    def get_code(self, fullname: str) -> Any:
        if content_of(self.path) == self._source:
            return super().get_code(fullname)
        return self.source_to_code(self._source, self.path)

    def set_data(self, path: Any, data: Any, *, _mode: int = 0o666) -> None:
        """Write no compiled code into a folder of the user's."""


class Worlds:
    """The worlds of a slot, of which one is current.

    Args:
        folder: for copies of code; of the worker, which removes it.
        forget: called with the number of a world that will not come again.
    """

    def __init__(self, folder: Path, forget: Callable[[int], None]) -> None:
        self._copies = Copies(folder)
        self._forget = forget
        self._own_path = list(sys.path)
        self._ours = {name.partition(".")[0] for name in sys.modules} | LATER
        """What the slot itself needs; no caller's."""
        self._stuck = set(self._ours)
        """The packages that stay in `sys.modules`: also those with a part that a process loads only once."""
        self._others: set[str] = set()
        """What was imported already when the current world was entered."""
        self._known: dict[tuple[str, str], World] = {}  # the last one used is the last
        self._current: World | None = None

    def enter(self, name: str, load: Callable[[], Code], before: list[str], after: list[str]) -> int:
        """From now on, import what the caller has.

        Args:
            name: of the code's content.
            load: gives the code, where it is not known.
            before, after: the caller's import path, without libraries: what is searched before and after those.

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
        """Whether it is among the copies of the current caller's code."""
        return self._current is not None and any(path.startswith(f"{copy}/") for copy in self._current.copied.values())

    def _world(self, name: str, code: Code, before: list[str], after: list[str]) -> World:
        world = World(name, self._without_ours(code), before, after, self._copies)
        return self._current if self._current is not None and self._current.becomes(world) else world

    def _without_ours(self, code: Code) -> Code:
        """The code with what the slot itself needs staying what it is here: a caller may develop that."""
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
        """Put away what was imported from a world's code since it was entered."""
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
    """Whether a folder of the caller's is here, under the same name, or one with the same in it."""
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
    """Whether it is one that a process loads once."""
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
    """Where a finder goes in `sys.meta_path`: what was put before the usual ones stays before it."""
    return sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else len(sys.meta_path)
