"""Registers the joblib backend without importing joblib: at once if it is loaded, else as soon as it is.

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

_WATCHED = "joblib.parallel"


def register_when_joblib_is_imported() -> None:
    """Make `joblib.parallel_backend("minidask")` work, whichever of the two packages is imported first."""
    if _WATCHED in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Watcher())


def _register() -> None:
    importlib.import_module("minidask.joblib_backend")  # registers itself, at its end


class _Watcher(importlib.abc.MetaPathFinder):
    """Steps aside when `joblib.parallel` is looked for, and adds one line to the end of its loading."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _WATCHED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


class _RegisteringLoader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        _register()
