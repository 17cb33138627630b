"""Loads what we add to a library as soon as that is loaded, and never before: the joblib backend, above all.

The daemons and slots import `minidask` too, and start three times as fast without joblib and numpy.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

ADDED = {"joblib.parallel": "minidask.joblib_backend", "sklearn.callback": "minidask.sklearn_callbacks"}
"""By module: the one of ours that is loaded with it, and does the rest itself."""


def add_to_libraries() -> None:
    """Make `joblib.parallel_backend("minidask")` work, whichever of the two is imported first, and the like."""
    for watched, ours in ADDED.items():
        if watched in sys.modules:
            importlib.import_module(ours)
        else:
            sys.meta_path.insert(0, _Watcher(watched, ours))


class _Watcher(importlib.abc.MetaPathFinder):
    """Steps aside when its module is looked for, and adds one line to the end of its loading."""

    def __init__(self, watched: str, ours: str) -> None:
        self._watched = watched
        self._ours = ours

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._watched:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _AddingLoader(spec.loader, self._ours)
        return spec


class _AddingLoader(importlib.abc.Loader):
    def __init__(self, loader: Any, ours: str) -> None:
        self._loader = loader
        self._ours = ours

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        importlib.import_module(self._ours)
