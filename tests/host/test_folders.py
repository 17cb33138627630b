"""Folders of a process's own: made and let go of by many threads at once."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
