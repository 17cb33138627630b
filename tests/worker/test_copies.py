"""Copies of callers' code on a worker: unpacked once, whoever comes first, and removed when nobody uses them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minidask.errors import MinidaskError
from minidask.worker.slot import copies
from minidask.worker.slot.copies import Copies
from minidask.worker.slot.modules import MAX_VERSIONS, MAX_WORLDS, Worlds

FILES = {"0/helper.py": b"x = 1", "0/package/data/t.csv": b"1,2"}


def test_files_are_unpacked_under_their_name(tmp_path: Path) -> None:
    copy, lock = Copies(tmp_path / "code").take("abc", FILES)
    assert copy == tmp_path / "code" / "abc"
    assert {place: (copy / place).read_bytes() for place in FILES} == FILES
    os.close(lock)


TAKES = f"""
import sys
from pathlib import Path
from minidask.worker.slot.copies import Copies
files = {FILES!r}
for number in range(50):
    copy, _ = Copies(Path(sys.argv[1])).take(str(number), files)
    assert {{place: (copy / place).read_bytes() for place in files}} == files
"""


def test_many_that_come_at_once_get_the_same_and_leave_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKES, str(tmp_path / "code")]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(30) for process in processes] == [0] * 4
    assert all(name.isdigit() for name in os.listdir(tmp_path / "code"))


def test_the_least_recently_used_that_nobody_holds_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "MAX_COPIES", 3)
    store = Copies(tmp_path)
    _, held = store.take("held", FILES)
    for number in range(6):
        copy, lock = store.take(f"n{number}", FILES)
        os.utime(copy, (number, number))
        os.close(lock)
    os.utime(tmp_path / "held", (0, 0))
    _, lock = store.take("last", FILES)
    assert "held" in os.listdir(tmp_path)
    assert len(os.listdir(tmp_path)) <= 4
    os.close(held)
    os.close(lock)


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "abc.999999999.part"
    left.mkdir()
    _, lock = Copies(tmp_path).take("abc", FILES)
    assert os.listdir(tmp_path) == ["abc"]
    os.close(lock)


def test_no_room_is_said(tmp_path: Path) -> None:
    (tmp_path / "code").write_text("a file in the place of the folder")
    with pytest.raises(MinidaskError, match="cannot be unpacked in"):
        Copies(tmp_path / "code").take("abc", FILES)


def test_a_caller_whose_modules_come_one_by_one_has_a_bounded_number_of_copies(tmp_path: Path) -> None:
    worlds = Worlds(tmp_path, lambda number: None)
    before, path = len(os.listdir("/proc/self/fd")), list(sys.path)
    files: dict[str, list[Any]] = {}
    modules: dict[str, str] = {}
    try:
        for number in range(60):
            place = f"0/far{number}.py"
            files[place], modules[f"far{number}"] = [f"/nowhere/far{number}.py", b"x = 1\n"], place
            code = {
                "kernel": "other",
                "roots": [["/nowhere", 1, 2]],
                "namespaces": {},
                "stays": {},
                "files": dict(files),
                "modules": dict(modules),
            }
            worlds.enter(f"version {number}", lambda code=code: code, [], [])  # type: ignore[misc]
        assert len(os.listdir("/proc/self/fd")) - before <= MAX_WORLDS * MAX_VERSIONS + 1
    finally:
        sys.path[:] = path
        sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "World"]
