"""A module that a worker cannot import: named, with the worker, both Pythons, and what to do."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import minidask
from minidask import errors
from minidask.task.missing import explained
from tests.helpers import Programs

CALLER = {"executable": "/theirs/python", "version": "3.11.7"}


def test_what_is_no_failed_import_stays_as_it_is() -> None:
    for error in (ValueError("x"), AttributeError("x"), errors.SerializationError("x"), KeyboardInterrupt()):
        assert explained(error, "f", "'w' on h", CALLER) is error


def test_a_name_that_the_workers_version_does_not_have() -> None:
    error = errors.SerializationError("cannot be unpickled")
    error.__cause__ = AttributeError("Can't get attribute 'new' on <module 'm'>")
    text = str(explained(error, "f", "'w' on h", CALLER))
    assert "task 'f' cannot be unpickled" in text
    assert "Can't get attribute 'new'" in text
    assert "the caller /theirs/python (Python 3.11.7)" in text


def test_a_module_that_only_the_caller_has(programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's folder is not there any more when the worker looks: as on another machine."""
    folder = tmp_path / "callers"
    folder.mkdir()
    (folder / "only_here.py").write_text("def f():\n    return 1\n")
    monkeypatch.syspath_prepend(str(folder))
    module = importlib.import_module("only_here")
    (folder / "only_here.py").unlink()
    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "1", "--name", "poor")
    python = f"{sys.executable} (Python {sys.version.split()[0]})"
    with minidask.Client(address) as client:
        with pytest.raises(errors.SerializationError) as caught:
            client.submit(module.f).result(20)
        text = str(caught.value)
        assert "module 'only_here' cannot be imported on worker 'poor' on " in text
        assert f"The worker runs {python}, the caller {python}." in text
        assert "'only_here' is a module of the caller's own" in text
        assert "pip install" not in text

        def importing() -> int:
            import only_here_too  # type: ignore[import-not-found]

            return int(only_here_too.x)

        with pytest.raises(ModuleNotFoundError, match="No module named 'only_here_too'") as missing:
            client.submit(importing).result(20)
        note, _, advice = missing.value.__notes__  # the second one tells of the task
        assert "on worker 'poor' on " in note and python in note
        assert advice == "the caller does not have 'only_here_too' either"
        assert client.submit(abs, -1).result(20) == 1
    del sys.modules["only_here"]
