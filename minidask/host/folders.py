"""The folders that a process makes for its sockets and data, and how the folders of killed processes are removed.

A killed process cannot remove its folder, and shared memory stays full until somebody does. So each process that makes
a folder first removes those of dead processes of the same user. It must never remove the folder of a live one.

    /dev/shm/minidask-4711-1f00ba11-x7k2q…       process 4711 in space 1f00ba11

**Who is alive?** A folder's name has the number of its owner, and the owner's *space*. Process numbers mean something
within one boot of a machine and one container only; that is the space. Folders of several spaces can lie side by side:
containers may share `/dev/shm`, and machines a disk.

- In this process's own space, the kernel knows whether a process with that number exists.
- In another space it does not. So each owner holds a lock on its folder, which the kernel releases when the owner dies.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import re
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
MAX_PATH = 60  # bytes of the folder around a socket's folder: the kernel allows 107 for the socket's whole path
LEAST_BYTES = 4 * 1024 * 1024


def runtime_folder() -> Path:
    """Make a folder that only this user can read, with a path short enough for a socket in it.

    It is made in `$XDG_RUNTIME_DIR`, the temporary folder, `/tmp` or shared memory: the first that can be written to.

    Raises:
        OSError: none of them can be written to.
    """
    named = os.environ.get("XDG_RUNTIME_DIR")
    places = [Path(named)] if named else []
    for parent in [*places, _temporary(), Path("/tmp"), SHARED_MEMORY]:
        if len(os.fsencode(parent)) <= MAX_PATH and os.access(parent, os.W_OK | os.X_OK):
            return _new_folder(parent)
    raise OSError(errno.EROFS, "no folder for sockets can be written to: set XDG_RUNTIME_DIR or TMPDIR to a short one")


def memory_folder() -> Path | None:
    """Make a folder in shared memory that only this user can read. None if shared memory is full, or read-only."""
    _sweep(SHARED_MEMORY)
    if not os.access(SHARED_MEMORY, os.W_OK) or shutil.disk_usage(SHARED_MEMORY).free < LEAST_BYTES:
        return None
    return _new_folder(SHARED_MEMORY)


def disk_folder(parent: Path | None) -> Path:
    """Make a folder that only this user can read, in `parent`, or in the temporary folder if that is None.

    Raises:
        OSError: the parent cannot be written to.
    """
    return _new_folder(parent or _temporary())


def _temporary() -> Path:
    """The temporary folder; shared memory if no temporary folder can be written to."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return SHARED_MEMORY


def place_of(folder: Path) -> str:
    """The place of a folder, as `machine:folder`. Processes of other machines can tell that it is not on theirs."""
    return f"{_machine()}:{folder}"


def folders_here(places: Iterable[str]) -> list[str]:
    """Those of the places that are on this machine, as paths of folders."""
    here = f"{_machine()}:"
    return [place.removeprefix(here) for place in places if place.startswith(here)]


@functools.cache
def _machine() -> str:
    """A name for this machine, the same in all of its processes.

    A container with its own network is another machine.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{_inode('net')}"
    except OSError as error:
        pass_on(error)
        return os.urandom(16).hex()  # without /proc, every process is a machine of its own


def _inode(namespace: str) -> int:
    return os.stat(f"/proc/self/ns/{namespace}").st_ino


def sweep() -> None:
    """Remove the folders of this user's dead processes from shared memory and from the temporary folder."""
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
    """Lock a folder until this process ends, so that no other process removes it.

    Locks that this process has on folders that are gone are released. Without locks in the file system, none is taken.
    """
    fd = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # a file system without locks: then only processes of this space can judge
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
        with suppress(OSError):  # also on a file system without locks, where `_is_held` cannot tell
            pid = _pid_of(named)  # anybody may have made a folder of any name here
            ours_and_dead = pid is not None and folder.lstat().st_uid == os.getuid() and not is_alive(pid)
            if ours_and_dead and (is_gone(named) or not _is_held(folder)):
                shutil.rmtree(folder, ignore_errors=True)


def _pid_of(named: str) -> int | None:
    """The number of a process in a name `PID-SPACE…`; None if it has none."""
    found = re.match(r"([1-9][0-9]{0,9})-", named)
    return int(found[1]) if found and int(found[1]) < 1 << 31 else None


def owner(pid: int | None = None) -> str:
    """The text `PID-SPACE` that names an owner in names of files and folders.

    `pid` is of this space; default: our own.
    """
    return f"{os.getpid() if pid is None else pid}-{_space()}"


def is_gone(named: str) -> bool:
    """Whether the owner of a file or folder named `PID-SPACE…` is certainly dead. False if it is in another space."""
    pid, space = _pid_of(named), "".join(named.split("-")[1:2])
    return bool(space) and space == _space() and pid is not None and not is_alive(pid)


@functools.cache
def _space() -> str:
    """A name for the boot and the container in which process numbers mean the same as here; "" if that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return format(zlib.crc32(f"{boot}/{_inode('pid')}".encode()), "08x")
    except OSError as error:
        pass_on(error)
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process with this number exists in this process's space."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
