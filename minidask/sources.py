"""The caller's own modules: what workers have to import again after they were changed.

Own is what was loaded from a source file outside of the standard library and of what is installed. A module is looked
at when it has come, and when it was reloaded.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from minidask.blobfiles import blob_id
from minidask.signals import pass_on

_STANDARD = sysconfig.get_path("stdlib")
_INSTALLED = ("site-packages", "dist-packages")


class OwnModules:
    """Watches `sys.modules`; looking again costs little."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        """By name of a module: a hash of its source."""
        self._seen: set[str] = set()
        self._own: dict[str, Any] = {}  # by name: the spec that the module was loaded by

    def changed(self) -> bool:
        """Look again; whether `digests` is another one now."""
        before = self.digests
        if len(sys.modules) != len(self._seen):
            new = sys.modules.keys() - self._seen
            self._seen = set(sys.modules)
            for name in new:
                self._look_at(name)
        for name, spec in list(self._own.items()):
            if getattr(sys.modules.get(name), "__spec__", spec) is not spec:
                self._look_at(name)
        return self.digests is not before

    def _look_at(self, name: str) -> None:
        source = _own_source(sys.modules.get(name))
        if source is None:
            return
        try:
            digest = blob_id([source.read_bytes()]).hex()
        except OSError as error:  # it was removed since: workers cannot import it either
            pass_on(error)
            digest = ""
        self._own[name] = sys.modules[name].__spec__
        self.digests = {**self.digests, name: digest}


def _own_source(module: ModuleType | None) -> Path | None:
    spec = getattr(module, "__spec__", None)
    origin = getattr(spec, "origin", None)
    if module is None or spec is None or not isinstance(origin, str) or not origin.endswith(".py"):
        return None
    if module.__name__.partition(".")[0] in ("__main__", "minidask") or origin.startswith(f"{_STANDARD}/"):
        return None
    path = Path(origin)
    return None if any(part in _INSTALLED for part in path.parts) else path
