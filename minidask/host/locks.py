"""A lock among processes and threads, by a file, wherever the file system knows at least one kind of lock.

`flock` is the better kind: it belongs to the open file, so threads exclude each other too. Some file systems and
sandboxes refuse it, and offer `lockf` instead. That lock belongs to the process. It does not stop another thread, and
closing *any* descriptor of the file in the process releases it. So around `lockf` goes a lock among threads, from
before the file is locked until after it is closed.
"""

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
    """Hold the lock of a file for the length of the block, which should be short. Waits until the lock is free.

    Yields the file, opened for reading and writing.

    Raises:
        OSError: the file system has neither kind of lock, or the file does not exist.
    """
    file = open(path, "r+", encoding="ascii")  # noqa: SIM115 - it is closed below, while the threads' lock is held
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in REFUSALS:  # such as an error of the user's signal handler
            file.close()
            raise
        with _threads, file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield file
    except BaseException:  # Ctrl-C while it waits
        file.close()
        raise
    else:
        with file:
            yield file


def _after_fork_in_child() -> None:
    global _threads
    _threads = threading.Lock()


on_fork(Layer.LOCKS, _after_fork_in_child)
