"""Callers' code, unpacked into folders that all slots of a machine share.

Python imports from files. Each slot could unpack the code for itself, but a large machine has a hundred slots, and they
all get the same code at the same time. So the first slot that needs it unpacks it, and the others use that copy:

    folder/NAME/              a copy; slots that use it hold a shared lock on it
    folder/NAME.PID.part/     a copy that this process unpacks, renamed when it is whole

Copies that no slot holds are kept for the next run, up to `MAX_COPIES`. The worker removes the folder at its end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from minidask.errors import MinidaskError
from minidask.host.folders import is_alive

MAX_COPIES = 32
"""How many copies are kept. Those in use are never removed."""


class Copies:
    """The copies in a folder of the worker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, name: str, files: Mapping[str, bytes]) -> tuple[Path, int]:
        """Return the copy of this name, unpacked if there is none.

        Args:
            name: of the copy; the same name means the same files.
            files: their content, by path in the copy.

        Returns:
            The copy's folder; and a file descriptor that holds it until it is closed.

        Raises:
            MinidaskError: there is no room for the files.
        """
        copy = self._folder / name
        while True:
            if not copy.is_dir():
                self._make_room()
                self._unpack(copy, files)
            lock = self._hold(copy)
            if lock is not None:
                return copy, lock

    def _unpack(self, copy: Path, files: Mapping[str, bytes]) -> None:
        draft = copy.with_name(f"{copy.name}.{os.getpid()}.part")
        try:
            draft.mkdir(parents=True, mode=0o700)
            for place, content in files.items():
                path = draft / place
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.touch(0o600)
                path.write_bytes(content)
            with contextlib.suppress(FileExistsError, NotADirectoryError):
                draft.rename(copy)
        except OSError as error:
            if not copy.is_dir():  # else another slot was faster
                raise MinidaskError(f"the caller's own code cannot be unpacked in {self._folder}: {error}") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _hold(self, copy: Path) -> int | None:
        """A file descriptor with a shared lock on a copy; None if the copy was removed meanwhile."""
        try:
            lock = os.open(copy, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):  # a file system without locks: then no copy is removed either
            fcntl.flock(lock, fcntl.LOCK_SH)
        if os.fstat(lock).st_nlink and copy.is_dir() and os.path.samestat(os.fstat(lock), copy.stat()):
            os.utime(copy)
            return lock
        os.close(lock)
        return None

    def _make_room(self) -> None:
        """Remove drafts of processes that have ended, and the least recently used copies that no slot holds."""
        copies = []
        with contextlib.suppress(OSError):  # the folder does not exist yet
            for path in self._folder.iterdir():
                owner = path.name.split(".")[1] if path.suffix == ".part" else ""
                if owner.isdigit() and not is_alive(int(owner)):
                    shutil.rmtree(path, ignore_errors=True)
                elif not owner:
                    with contextlib.suppress(FileNotFoundError):
                        copies.append((path.stat().st_mtime, path))
        for _, path in sorted(copies)[: max(0, len(copies) + 1 - MAX_COPIES)]:
            self._remove(path)

    def _remove(self, copy: Path) -> None:
        with contextlib.suppress(OSError):  # the copy is in use, or gone
            lock = os.open(copy, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                gone = copy.with_name(f"{copy.name}.{os.getpid()}.part")
                copy.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
            finally:
                os.close(lock)
