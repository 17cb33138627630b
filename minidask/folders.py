"""Folders of a process's own, which whoever of the same user makes the next one sweeps out if the process is gone.

Gone is a process whose number nobody has, and that holds no lock on the folder any more: in another container that
shares this machine's shared memory it has a number that says nothing here.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

from minidask.signals import pass_on, suppress

PREFIX = "minidask-"
SHARED_MEMORY = Path("/dev/shm")
LEAST_BYTES = 4 * 1024 * 1024


def runtime_folder() -> Path:
    """A new folder, for this user alone, in a path short enough for sockets."""
    parent = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    if len(os.fsencode(parent)) > 60 or not os.access(parent, os.W_OK):
        parent = Path("/tmp")
    return _new_folder(parent)


def memory_folder(instead: Path) -> Path:
    """A new folder, for this user alone, in shared memory; without that, or where it is full, in `instead`."""
    _sweep(SHARED_MEMORY)
    if not os.access(SHARED_MEMORY, os.W_OK):
        return _new_folder(instead)
    if shutil.disk_usage(SHARED_MEMORY).free < LEAST_BYTES:
        warnings.warn(
            f"{SHARED_MEMORY} is full: large data goes to {instead}, which is slower; close what uses it", stacklevel=3
        )
        return _new_folder(instead)
    return _new_folder(SHARED_MEMORY)


def disk_folder(parent: Path | None) -> Path:
    """A new folder, for this user alone, in `parent` or the temporary folder."""
    return _new_folder(parent or Path(tempfile.gettempdir()))


def place_of(folder: Path) -> str:
    """Where a store is, in a text that means the same to all processes of this machine, and nothing to others."""
    return f"{_machine()}:{folder}"


def folders_here(places: Iterable[str]) -> list[str]:
    """The folders of those of the places that are on this machine."""
    here = f"{_machine()}:"
    return [place.removeprefix(here) for place in places if place.startswith(here)]


@functools.cache
def _machine() -> str:
    """A name for this machine: its boot, and its network, so that a container is a machine of its own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/net').st_ino}"
    except OSError as error:
        pass_on(error)
        return os.urandom(16).hex()  # no other process is known to be on the same


def sweep() -> None:
    """Remove what this user's processes left in shared memory and in the temporary folder when they were killed."""
    for parent in (SHARED_MEMORY, Path(tempfile.gettempdir())):
        _sweep(parent)


def _new_folder(parent: Path) -> Path:
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
    _hold(folder)
    return folder


_held: list[int] = []


def _hold(folder: Path) -> None:
    """Lock a folder until this process ends; those that were removed are let go of."""
    for fd in [fd for fd in _held if os.fstat(fd).st_nlink == 0]:
        _held.remove(fd)
        os.close(fd)
    fd = os.open(folder, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    _held.append(fd)


def _is_held(folder: Path) -> bool:
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}[0-9]*-*"):
        pid = int(folder.name.removeprefix(PREFIX).partition("-")[0])
        with suppress(OSError):
            if folder.stat().st_uid == os.getuid() and not is_alive(pid) and not _is_held(folder):
                shutil.rmtree(folder, ignore_errors=True)


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
