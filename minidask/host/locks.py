"""A lock of a file among processes and threads, on file systems and in sandboxes that have one kind of it only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from minidask.host.forks import Layer, on_fork

REFUSALS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EACCES, errno.EBADF)

_threads = threading.Lock()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[TextIO]:
    """Hold the lock of a file in the block, which is to be short. Yields the file, opened for reading and writing.

    By `flock`; where that is refused by the other kind, `lockf`. That one knows processes only, and ends when any of a
    process's descriptors of the file is closed: so a lock of the threads goes around all of it.

    Raises:
        OSError: the file system has neither kind of lock, or the file does not exist.
    """
    file = open(path, "r+", encoding="ascii")  # noqa: SIM115 - it is closed below, while the threads' lock is held
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in REFUSALS:  # a signal handler of the user's may raise whatever it likes
            file.close()
            raise
        with _threads, file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield file
    else:
        with file:
            yield file


def _after_fork_in_child() -> None:
    global _threads
    _threads = threading.Lock()


on_fork(Layer.LOCKS, _after_fork_in_child)
