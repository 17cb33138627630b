"""Folders of a process's own, which whoever of the same user makes the next one sweeps out if the process is gone.

Who owns something is written in its name: the process's number, and the *space* in which it is that. A number says
nothing in another container that shares this machine's shared memory, nor on another machine that shares a disk.
Gone is a process of this space whose number nobody has; one of another space, if it holds no lock on its folder.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import shutil
import tempfile
import threading
import zlib
from collections.abc import Iterable
from pathlib import Path

from minidask.host.forks import Layer, on_fork
from minidask.host.signals import pass_on, suppress

PREFIX = "minidask-"
SHARED_MEMORY = Path("/dev/shm")
MAX_PATH = 60  # bytes, of what a socket's folder is in: the kernel allows 107 for all of its path
LEAST_BYTES = 4 * 1024 * 1024


def runtime_folder() -> Path:
    """A new folder, for this user alone, in a path short enough for sockets.

    Raises:
        OSError: nothing of what might do can be written to.
    """
    named = os.environ.get("XDG_RUNTIME_DIR")
    places = [Path(named)] if named else []
    for parent in [*places, _temporary(), Path("/tmp"), SHARED_MEMORY]:
        if len(os.fsencode(parent)) <= MAX_PATH and os.access(parent, os.W_OK | os.X_OK):
            return _new_folder(parent)
    raise OSError(errno.EROFS, "no folder for sockets can be written to: set XDG_RUNTIME_DIR or TMPDIR to a short one")


def memory_folder() -> Path | None:
    """A new folder, for this user alone, in shared memory; None if that is full, or cannot be written to."""
    _sweep(SHARED_MEMORY)
    if not os.access(SHARED_MEMORY, os.W_OK) or shutil.disk_usage(SHARED_MEMORY).free < LEAST_BYTES:
        return None
    return _new_folder(SHARED_MEMORY)


def disk_folder(parent: Path | None) -> Path:
    """A new folder, for this user alone, in `parent` or the temporary folder."""
    return _new_folder(parent or _temporary())


def _temporary() -> Path:
    """The temporary folder; shared memory where there is none that can be written to."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return SHARED_MEMORY


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
        return f"{boot}/{_inode('net')}"
    except OSError as error:
        pass_on(error)
        return os.urandom(16).hex()  # no other process is known to be on the same


def _inode(namespace: str) -> int:
    return os.stat(f"/proc/self/ns/{namespace}").st_ino


def sweep() -> None:
    """Remove what this user's processes left in shared memory and in the temporary folder when they were killed."""
    for parent in (SHARED_MEMORY, _temporary()):
        _sweep(parent)


def _new_folder(parent: Path) -> Path:
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{owner()}-", dir=parent))
    hold(folder)
    return folder


_held: list[int] = []
_holding = threading.Lock()


def hold(folder: Path) -> None:
    """Lock a folder until this process ends. Locks of folders that were removed are released."""
    fd = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # a file system without such locks: only this space's processes may then judge
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with _holding:
        removed = [held for held in _held if os.fstat(held).st_nlink == 0]
        _held[:] = [*(held for held in _held if held not in removed), fd]
    for held in removed:
        os.close(held)


def _after_fork_in_child() -> None:
    global _holding
    _holding = threading.Lock()


on_fork(Layer.LOCKS, _after_fork_in_child)


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
        named = folder.name.removeprefix(PREFIX)
        with suppress(OSError):  # also where there are no locks, so that none says whether it is held
            ours_and_dead = folder.stat().st_uid == os.getuid() and not is_alive(int(named.partition("-")[0]))
            if ours_and_dead and (is_gone(named) or not _is_held(folder)):
                shutil.rmtree(folder, ignore_errors=True)


def owner(pid: int | None = None) -> str:
    """`PID-SPACE` of a process of this space, by default this one: it tells the owner in names of files and folders."""
    return f"{os.getpid() if pid is None else pid}-{_space()}"


def is_gone(named: str) -> bool:
    """Whether the process that owns what is named `PID-SPACE…` is gone for certain."""
    pid, _, rest = named.partition("-")
    space = rest.partition("-")[0]
    return bool(space) and space == _space() and pid.isdigit() and not is_alive(int(pid))


@functools.cache
def _space() -> str:
    """What tells apart where numbers of processes mean something: this boot of this machine, and the container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return format(zlib.crc32(f"{boot}/{_inode('pid')}".encode()), "08x")
    except OSError as error:
        pass_on(error)
        return ""  # nobody is known to share it


def is_alive(pid: int) -> bool:
    """Whether a process with this number exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
