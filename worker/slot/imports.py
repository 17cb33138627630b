"""What a slot imports, noted for whoever looks: a call that seems to hang may import a large library.

Python asks the finders of `sys.meta_path` only for modules that are not loaded yet. So this costs a call nothing that
imports nothing. The finder finds nothing itself. It notes the package whose import goes on: the module that was looked
for first, and is not done yet, whatever that one imports.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType

from minidask.host.texts import printable

from .recorder import Recorder

OWN = "minidask"


class ImportNotes(importlib.abc.MetaPathFinder):
    """Notes in a slot's recorder what is imported."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._outermost = ""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Note it, and find nothing."""
        top = fullname.partition(".")[0]
        if top != OWN:
            if not _is_loading(self._outermost):
                self._outermost = fullname
            self._recorder.imports_now(self._outermost.partition(".")[0])
        return None


def _is_loading(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def preload(modules: Iterable[str], recorder: Recorder) -> None:
    """Import modules before the first call. What fails is told on standard error, which the daemon logs."""
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a module's own code raises what it likes
            text = printable(f"{type(error).__name__}: {error}")
            sys.stderr.write(f"module {name} cannot be preloaded: {text}\n")
    recorder.import_is_over()
