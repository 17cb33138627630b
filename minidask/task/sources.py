"""The caller's own modules: those from files outside of the library folders of its interpreter and environment.

A worker has the libraries, but not what the user has just written. So the client sends such modules along. Each has to
be sent as the caller has loaded it, also if its file was edited since. So its source is read soon after it was loaded,
and again after it was reloaded: `OwnModules` looks before each task whether `sys.modules` has changed.
"""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType
from typing import Any, NamedTuple

from minidask.host.signals import pass_on
from minidask.wire.large import blob_id

_INSTALLED = frozenset(("site-packages", "dist-packages"))
_NOT_OWN = frozenset(("__main__", "__mp_main__", "minidask"))


@functools.cache
def _library_folders() -> tuple[str, ...]:
    prefixes: list[dict[str, Any]] = [
        {"base": base, "platbase": base, "installed_base": base, "installed_platbase": base}
        for base in (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
    ]
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {sysconfig.get_path(kind, vars=variables) for kind in kinds for variables in prefixes}
    folders |= {sysconfig.get_path(kind) for kind in kinds}
    zipped = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    folders |= {os.path.join(os.path.dirname(folder), zipped) for folder in folders}
    return tuple(sorted(folders | {os.path.realpath(folder) for folder in folders}))


def is_library(path: str) -> bool:
    """Whether a file or folder belongs to the interpreter, or to an installed package."""
    if not _INSTALLED.isdisjoint(path.split(os.sep)):
        return True
    return any(path == folder or path.startswith(f"{folder}{os.sep}") for folder in _library_folders())


@functools.cache
def kernel() -> str:
    """Return a name for the running kernel. Under one kernel, device and inode identify a file in all mounts."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError as error:
        pass_on(error)
        return os.uname().nodename


def content_of(file: str, loader: Any = None) -> bytes | None:
    """Return the bytes of a module's file, which may lie in an archive; None if it cannot be read any more."""
    try:
        with open(file, "rb") as opened:
            return opened.read()
    except OSError as error:
        pass_on(error)
    try:
        content: bytes = loader.get_data(file)
    except (OSError, AttributeError) as error:
        pass_on(error)
        return None
    return content


class OwnModule(NamedTuple):
    """A module of the caller's own.

    Attributes:
        file: the path that it was loaded from.
        is_package: whether it is a package.
        source: the bytes of its Python source; None if it has none, or the file cannot be read any more.
        digest: a hash of the file; empty if the file cannot be read any more.
    """

    file: str
    is_package: bool
    source: bytes | None
    digest: bytes


class OwnModules:
    """Finds the caller's own modules in `sys.modules`. A look that finds no change is cheap."""

    def __init__(self) -> None:
        self.found: dict[str, OwnModule] = {}
        """The modules by name; replaced, never changed."""
        self._seen: set[str] = set()
        self._watched: tuple[tuple[str, Any, Any], ...] = ()  # name, module, and the spec that it was loaded by

    def changed(self) -> bool:
        """Read the modules that were loaded or reloaded since the last look. Returns whether `found` was replaced."""
        before = self.found
        loaded = sys.modules
        names = None
        for name, module, spec in self._watched:
            if loaded.get(name) is not module or getattr(module, "__spec__", None) is not spec:
                names = {name, *(names or ())}
        if len(loaded) != len(self._seen):
            names = (loaded.keys() - self._seen) | (names or set())
        if names:
            self._look_at(names)
        return self.found is not before

    def _look_at(self, names: set[str]) -> None:
        seen = set(sys.modules)
        watched = [entry for entry in self._watched if entry[0] not in names]
        found = {}
        for name in sorted(names):
            module: Any = sys.modules.get(name)
            file = _own_file(name, module)
            if file is not None:
                spec = module.__spec__
                content = content_of(file, spec.loader)
                source = content if file.endswith(".py") else None
                digest = b"" if content is None else blob_id([content])
                found[name] = OwnModule(file, spec.submodule_search_locations is not None, source, digest)
                watched.append((name, module, spec))
        if found:
            self.found = {**self.found, **found}
        self._watched = tuple(watched)  # last: a look that a signal's handler has interrupted is done again
        self._seen = seen


def _own_file(name: str, module: ModuleType | None) -> str | None:
    """The file that a module of the caller's own was loaded from; None for any other module."""
    spec = getattr(module, "__spec__", None)
    origin = getattr(spec, "origin", None)
    if spec is None or not isinstance(origin, str) or not origin.endswith((".py", ".pyc", *EXTENSION_SUFFIXES)):
        return None
    if spec.name != name or name.partition(".")[0] in _NOT_OWN:
        return None
    file = os.path.abspath(origin)
    return None if is_library(file) else file
