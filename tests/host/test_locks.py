"""Locks of files: where the first kind is refused, the other kind does."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import pytest

from minidask.host.locks import locked


def test_the_other_kind_of_lock_keeps_threads_and_processes_apart(tmp_path: Path, no_flock: None) -> None:
    path = tmp_path / "lock"
    path.write_text("0")
    code = (
        "import fcntl, pathlib, sys\nfrom minidask.host.locks import locked\n"
        "def refuse(*_): raise OSError(37, 'No locks available')\n"
        "fcntl.flock = refuse\n"
        "for _ in range(200):\n"
        "    with locked(pathlib.Path(sys.argv[1])) as f:\n"
        "        n = int(f.read()); f.seek(0); f.write(str(n + 1)); f.flush()\n"
    )

    def count() -> None:
        for _ in range(100):
            with locked(path) as file:
                number = int(file.read())
                file.seek(0)
                file.write(str(number + 1))
                file.flush()

    with subprocess.Popen([sys.executable, "-c", code, str(path)]) as other:
        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert other.wait(60) == 0
    assert path.read_text() == "600"


def test_ctrl_c_while_it_waits_closes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[IO[str]] = []

    def interrupted(file: IO[str], how: int) -> None:
        files.append(file)
        raise KeyboardInterrupt

    (tmp_path / "lock").touch()
    monkeypatch.setattr("fcntl.flock", interrupted)
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "lock"):
        pass
    assert files[0].closed
