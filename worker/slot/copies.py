"""Callers' code, unpacked: once a machine and content, whichever slot needs it first, and kept while there is room.

    folder/NAME/              the files of what has that name; whoever uses them holds a shared lock on it
    folder/NAME.PID.part/     being unpacked by that process; renamed when it is whole

The folder is one of the worker's own, and goes with it.
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
"""So many stay, beside those in use."""


class Copies:
    """The copies in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, name: str, files: Mapping[str, bytes]) -> tuple[Path, int]:
        """Have these files in a folder, by their places in it.

        Returns:
            The folder; and a file descriptor that holds it until it is closed.

        Raises:
            MinidaskError: there is no room for them.
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
        part = copy.with_name(f"{copy.name}.{os.getpid()}.part")
        try:
            part.mkdir(parents=True, mode=0o700)
            for place, content in files.items():
                path = part / place
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            with contextlib.suppress(FileExistsError, NotADirectoryError):
                part.rename(copy)
        except OSError as error:
            if not copy.is_dir():  # else another slot was faster
                raise MinidaskError(f"the caller's own code cannot be unpacked in {self._folder}: {error}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _hold(self, copy: Path) -> int | None:
        """A lock on a copy; None if it has gone meanwhile."""
        try:
            lock = os.open(copy, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):  # where there are no locks nothing is removed either
            fcntl.flock(lock, fcntl.LOCK_SH)
        if os.fstat(lock).st_nlink and copy.is_dir() and os.path.samestat(os.fstat(lock), copy.stat()):
            os.utime(copy)
            return lock
        os.close(lock)
        return None

    def _make_room(self) -> None:
        """Remove what is unfinished for good, and the least recently used copies that nobody holds."""
        copies = []
        with contextlib.suppress(OSError):  # there is none yet
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
        with contextlib.suppress(OSError):  # it is in use, or gone
            lock = os.open(copy, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                gone = copy.with_name(f"{copy.name}.{os.getpid()}.part")
                copy.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
            finally:
                os.close(lock)
