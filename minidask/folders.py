"""Folders of a process's own, which whoever of the same user makes the next one sweeps out if the process is gone."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "minidask-"
SHARED_MEMORY = Path("/dev/shm")


def runtime_folder() -> Path:
    """A new folder, for this user alone, in a path short enough for sockets."""
    parent = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    if len(os.fsencode(parent)) > 60 or not os.access(parent, os.W_OK):
        parent = Path("/tmp")
    return _new_folder(parent)


def memory_folder(instead: Path | None = None) -> Path:
    """A new folder, for this user alone, in shared memory; without that, in `instead` or the temporary folder."""
    if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK):
        return _new_folder(SHARED_MEMORY)
    return _new_folder(instead or Path(tempfile.gettempdir()))


def _new_folder(parent: Path) -> Path:
    for folder in parent.glob(f"{PREFIX}[0-9]*-*"):
        pid = int(folder.name.removeprefix(PREFIX).partition("-")[0])
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == os.getuid() and not is_alive(pid):
                shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
