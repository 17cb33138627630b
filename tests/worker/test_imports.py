"""A slot notes what it imports, and imports what it is to preload: see worker/slot/imports.py."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minidask.worker.slot.imports import ImportNotes, preload
from minidask.worker.slot.recorder import Recorder


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """A recorder that notes what this process imports. Modules note in `seen` what is seen while they load."""
    recorder = Recorder()
    finder = ImportNotes(recorder)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "noted_recorder", type(sys)("noted_recorder"))
    vars(sys.modules["noted_recorder"])["look"] = lambda: recorder.look().importing
    sys.meta_path.insert(0, finder)
    yield recorder
    sys.meta_path.remove(finder)
    for name in [name for name in sys.modules if name.startswith("noted_")]:
        del sys.modules[name]
    recorder.close()


def package(folder: Path, name: str, text: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(f"import noted_recorder\n{text}\nseen = noted_recorder.look()\n")


def test_the_outermost_package_is_noted_whatever_it_imports(noted: Recorder, tmp_path: Path) -> None:
    package(tmp_path, "noted_inner", "")
    package(tmp_path, "noted_outer", "import noted_inner\ntry:\n    import noted_missing\nexcept ImportError: pass")
    outer = importlib.import_module("noted_outer")
    assert outer.seen == sys.modules["noted_inner"].seen == "noted_outer"
    package(tmp_path, "noted_next", "")
    assert importlib.import_module("noted_next").seen == "noted_next", "the one before is done"


def test_what_is_loaded_already_is_not_noted(noted: Recorder) -> None:
    importlib.import_module("json")
    noted.import_is_over()
    importlib.import_module("json")
    assert not noted.imports


def test_modules_are_preloaded_and_one_that_cannot_be_is_told(
    noted: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package(tmp_path, "noted_good", "")
    package(tmp_path, "noted_bad", "raise ValueError('odd \\x1b[2J')")
    preload(["noted_bad", "noted_missing", "noted_good"], noted)
    assert sys.modules["noted_good"].seen == "noted_good"
    bad, missing = capsys.readouterr().err.splitlines()
    assert bad.startswith("module noted_bad cannot be preloaded: ValueError: odd ") and "\x1b" not in bad
    assert missing == ("module noted_missing cannot be preloaded: ModuleNotFoundError: No module named 'noted_missing'")
    assert noted.look().importing == ""
