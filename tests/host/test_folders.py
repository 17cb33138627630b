"""Folders of a process's own: made and let go of by many threads at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from minidask.host import folders
from minidask.host.folders import disk_folder


def test_threads_make_and_remove_folders_at_once(tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def use_folders(_: int) -> int:
        start.wait(10)
        for _ in range(50):
            disk_folder(tmp_path).rmdir()
        return 50

    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(use_folders, range(8))) == 400
    disk_folder(tmp_path).rmdir()  # lets go of the others
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert not list(tmp_path.iterdir())


def test_a_folder_without_locks_is_swept_by_its_own_kind_alone(tmp_path: Path, no_flock: None) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = tmp_path / f"minidask-{folders.owner(gone.pid)}-x"
    elsewhere = tmp_path / f"minidask-{gone.pid}-00000000-x"
    for folder in (dead, elsewhere):
        folder.mkdir()
    mine = folders.disk_folder(tmp_path)
    folders.disk_folder(tmp_path)
    assert mine.exists()
    assert not dead.exists()
    assert elsewhere.exists(), "nothing says whether its process lives"


def test_the_first_place_that_will_do_is_taken_for_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(folders, "_temporary", lambda: Path("/nowhere"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/" + "long" * 20)
    writable = {"/dev/shm"}
    monkeypatch.setattr(os, "access", lambda path, _: str(path) in writable)
    folder = folders.runtime_folder()
    assert folder.parent == folders.SHARED_MEMORY
    folder.rmdir()
    writable.clear()
    with pytest.raises(OSError, match="set XDG_RUNTIME_DIR or TMPDIR"):
        folders.runtime_folder()


@pytest.mark.parametrize(
    "name", ["minidask-1-2", "minidask-1x-2", "minidask-99999999999999999999-2", "minidask-1²-x", "minidask-0-x"]
)
def test_a_folder_of_any_name_stops_nobody(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    mine = disk_folder(tmp_path)
    assert mine.exists()


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    precious = tmp_path / "precious"
    (precious / "inside").mkdir(parents=True)
    (tmp_path / f"minidask-{folders.owner(gone.pid)}-x").symlink_to(precious)
    disk_folder(tmp_path)
    assert (precious / "inside").exists()
