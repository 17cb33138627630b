"""Modules of the caller's own: a changed one is imported again by slots that have it already."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import minidask
from minidask.sources import OwnModules
from minidask.worker.modules import forget_changed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of modules, on the import path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in ("own_inner", "own_outer"):
        sys.modules.pop(name, None)


def written(folder: Path, name: str, text: str) -> ModuleType:
    """The module, as it is now, loaded."""
    (folder / f"{name}.py").write_text(text)
    importlib.invalidate_caches()
    return importlib.reload(sys.modules[name]) if name in sys.modules else importlib.import_module(name)


def test_own_modules_are_those_outside_of_what_is_installed(folder: Path) -> None:
    own = OwnModules()
    own.changed()
    assert not {"json", "pytest", "minidask", "__main__"} & own.digests.keys()
    module = written(folder, "own_inner", "x = 1\n")
    assert own.changed()
    assert not own.changed()
    before = own.digests["own_inner"]
    written(folder, "own_inner", "x = 22\n")
    assert own.changed()
    assert own.digests["own_inner"] != before
    (folder / "own_inner.py").unlink()
    module.__spec__ = None
    assert not own.changed() or own.digests


def test_all_own_modules_are_forgotten_when_one_has_changed(folder: Path) -> None:
    written(folder, "own_inner", "x = 1\n")
    written(folder, "own_outer", "from own_inner import x\n")
    known = forget_changed({}, {"own_inner": "a", "own_outer": "b"})
    assert "own_inner" in sys.modules, "what this slot has not imported for another version is as new"
    known = forget_changed(known, {"own_inner": "a", "elsewhere": "c"})
    assert known == {"own_inner": "a", "own_outer": "b", "elsewhere": "c"}
    assert sys.modules["json"] is json
    known = forget_changed(known, {"own_inner": "changed", "own_outer": "b"})
    assert "own_inner" not in sys.modules and "own_outer" not in sys.modules
    assert known["own_inner"] == "changed"


def test_a_reloaded_module_is_noticed_by_every_slot(folder: Path, client: minidask.Client) -> None:
    for value in (1, 22, 333):
        written(folder, "own_inner", f"def f():\n    return {value}\n")
        outer = written(folder, "own_outer", "from own_inner import f\ndef g():\n    return f()\n")
        assert client.submit(outer.g).result(20) == value
        assert set(client.gather(client.map(lambda _, outer=outer: outer.g(), range(20)))) == {value}
        assert set(client.gather([client.submit(outer.f) for _ in range(20)])) == {value}
