"""Modules of the caller's own: which they are, when they have changed, and what is sent of them."""

from __future__ import annotations

import importlib
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import minidask
from minidask.client import code
from minidask.host.spawn import search_path
from minidask.task.sources import OwnModules, is_library


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of modules, on the import path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        sys.modules.pop(name, None)


def written(folder: Path, name: str, text: str) -> ModuleType:
    """The module, as it is now, loaded."""
    (folder / f"{name}.py").write_text(text)
    importlib.invalidate_caches()
    return importlib.reload(sys.modules[name]) if name in sys.modules else importlib.import_module(name)


def own_found() -> OwnModules:
    """The modules of this test, without those of the tests themselves."""
    own = OwnModules()
    own.changed()
    own.found = {name: module for name, module in own.found.items() if name.startswith("own_")}
    return own


def places(sent: dict[str, object]) -> set[str]:
    """The files that are sent, by their places below the import path."""
    files = sent["files"]
    assert isinstance(files, dict)
    return {place.partition("/")[2] for place in files}


def test_own_modules_are_those_outside_of_what_is_installed(folder: Path) -> None:
    own = OwnModules()
    own.changed()
    assert not {"json", "pytest", "minidask", "__main__"} & own.found.keys()
    module = written(folder, "own_inner", "x = 1\n")
    assert own.changed()
    assert not own.changed()
    before = own.found["own_inner"]
    assert before.source == b"x = 1\n"
    written(folder, "own_inner", "x = 22\n")
    assert own.changed()
    assert own.found["own_inner"].digest != before.digest
    (folder / "own_inner.py").write_text("x = 333\n")
    assert not own.changed(), "it was edited, not loaded again"
    (folder / "own_inner.py").unlink()
    module.__spec__ = None
    assert not own.changed() or own.found


def test_a_module_that_is_imported_anew_has_changed(folder: Path) -> None:
    written(folder, "own_inner", "x = 1\n")
    own = own_found()
    del sys.modules["own_inner"]
    assert not own.changed()
    written(folder, "own_inner", "x = 22\n")
    assert own.changed()
    assert own.found["own_inner"].source == b"x = 22\n"


def test_library_folders_are_those_of_the_interpreter_and_of_what_is_installed() -> None:
    assert is_library(sysconfig.get_path("stdlib"))
    assert is_library(str(Path(sysconfig.get_path("purelib")) / "numpy" / "__init__.py"))
    assert is_library("/home/somebody/.local/lib/python3/site-packages/theirs.py")
    assert not is_library("/home/somebody/project/helper.py")
    assert not is_library(sysconfig.get_path("stdlib") + "-and-more/helper.py")


def test_what_lies_around_a_module_is_sent_as_far_as_there_is_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = folder / "own_package"
    (package / "tables").mkdir(parents=True)
    (package / "__pycache__").mkdir()
    for name, size in {"__init__.py": 0, "late.py": 10, "tables/small": 20, "tables/large": 5000}.items():
        (package / name).write_bytes(b"#" * size)
    for name in (".hidden", "__pycache__/late.pyc"):
        (package / name).write_text("")
    (folder / "own_beside.py").write_text("")
    (folder / "not_a_package").mkdir()
    (folder / "not_a_package" / "data").write_text("")
    (folder / "pipe").symlink_to("/dev/null")
    importlib.import_module("own_package")
    written(folder, "own_inner", "x = 1\n")
    found = own_found().found
    thin = {"own_package/__init__.py", "own_inner.py"}
    assert places(code.collected(found, thin=True)) == thin
    packaged = {"own_package/late.py", "own_package/tables/small", "own_beside.py"}
    assert places(code.collected(found, thin=False)) == thin | packaged | {"own_package/tables/large"}
    monkeypatch.setattr(code, "MAX_BYTES", 100)
    assert places(code.collected(found, thin=False)) == thin | packaged
    monkeypatch.setattr(code, "MAX_FILES", 3)
    assert places(code.collected(found, thin=False)) > thin
    monkeypatch.setattr(code, "MAX_FILES", 0)
    left = code.collected(found, thin=False)
    assert not left["files"]
    assert left["stays"].keys() == {"own_package", "own_inner"}, "they are compared"


def test_a_folder_that_holds_itself_comes_to_an_end(folder: Path) -> None:
    package = folder / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "again").symlink_to(package)
    importlib.import_module("own_package")
    assert places(code.collected(own_found().found, thin=False)) == {"own_package/__init__.py"}


def test_a_package_with_a_compiled_part_stays_where_it_is(folder: Path) -> None:
    package = folder / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / f"part{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_bytes(b"")
    importlib.import_module("own_package")
    sent = code.collected(own_found().found, thin=False)
    assert not places(sent)
    assert sent["stays"].keys() == {"own_package"}


def test_the_search_path_is_what_names_a_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "relative", Path("/a"), b"/b", 3, None, "/c\udcff"])
    assert search_path() == [str(tmp_path), str(tmp_path / "relative"), "/a", "/b", "/c\udcff"]
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert search_path() == ["/a", "/b", "/c\udcff"]


def test_a_reloaded_module_is_noticed_by_every_slot(folder: Path, client: minidask.Client) -> None:
    for value in (1, 22, 333):
        written(folder, "own_inner", f"def f():\n    return {value}\n")
        outer = written(folder, "own_outer", "from own_inner import f\ndef g():\n    return f()\n")
        assert client.submit(outer.g).result(20) == value
        assert set(client.gather(client.map(lambda _, outer=outer: outer.g(), range(20)))) == {value}
        assert set(client.gather([client.submit(outer.f) for _ in range(20)])) == {value}
