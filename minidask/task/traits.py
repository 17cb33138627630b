"""What a child process of the caller would have, and a slot has in its place: traits.

Code in a task expects what it would find in a child of the caller's: the command line in `sys.argv`, the levels of
loggers, and on the same machine two secrets of `multiprocessing`:

- The authentication key. The proxies of a `Manager` open their connections with it.
- The resource tracker. It removes shared memory that is left behind. A segment is registered with the caller's tracker
  by the task that creates the segment, and by no task that attaches it. With a tracker of its own, the slot would
  remove the segment at its end. So it does where the caller has no tracker.

`CallerTraits` describes these in the caller, `AppliedTraits` takes them over in the slot. Levels of loggers are taken
over by `worker/slot/logs.py`.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from minidask.host.imports import when_imported
from minidask.host.signals import pass_on

if TYPE_CHECKING:
    from minidask.task.session import SessionInfo, Traits


# --- in the caller's process ---


class CallerTraits:
    """Describes the traits of this process, and notices when they change.

    Args:
        is_here: whether all workers are on this machine. Others are not sent the secrets.
        records: whether records that tasks log are to come to this process.
    """

    def __init__(self, is_here: bool, records: Callable[[], bool]) -> None:
        self._is_here = is_here
        self._records = records
        self._argv: list[str] | None = None
        self._secrets: tuple[bytes | None, int | None] | None = None
        self._sent = False
        self._mark: Any = f"minidask-{id(self)}"

    def changed(self) -> bool:
        """Whether the traits differ from the last ones that were sent; cheap."""
        if not self._sent or self._mark not in _unchanged_levels() or getattr(sys, "argv", None) != self._argv:
            return True
        return self._is_here and _secrets() != self._secrets

    def describe(self) -> Traits:
        """Return the traits as they are now. Once they are on their way, call `mark_sent`."""
        self._sent = False
        _unchanged_levels()[self._mark] = True
        self._argv = list(sys.argv) if hasattr(sys, "argv") else None
        self._secrets = _secrets() if self._is_here else None
        key, tracker = self._secrets or (None, None)
        return {
            "argv": [str(argument) for argument in self._argv or ()],
            "authkey": bytes(key or b""),
            "tracker": _pipe(tracker),
            "levels": {
                name: logger.level
                for name, logger in list(logging.root.manager.loggerDict.items())
                if isinstance(logger, logging.Logger) and logger.level
            },
            "disabled": logging.root.manager.disable,
            "records": self._records(),
        }

    def mark_sent(self) -> None:
        """Note that the last description is on its way. If an interrupt prevents this call, `changed` stays true."""
        self._sent = True


def _unchanged_levels() -> dict[Any, Any]:
    """Where `logging` caches what it knows of levels. It empties the cache when any level is set."""
    cache: dict[Any, Any] = getattr(logging.root, "_cache", {})
    return cache


def _secrets() -> tuple[bytes | None, int | None]:
    """The authentication key, and the descriptor of the pipe to the resource tracker, where there are any."""
    key = tracker = None
    if (process := sys.modules.get("multiprocessing.process")) is not None:
        key = process.current_process().authkey
    if (resources := sys.modules.get("multiprocessing.resource_tracker")) is not None:
        tracker = resources._resource_tracker._fd
        if tracker is None and "multiprocessing.shared_memory" in sys.modules:
            resources.ensure_running()
            tracker = resources._resource_tracker._fd
    return key, tracker


def _pipe(descriptor: int | None) -> list[int]:
    """How another process finds a pipe of this one and recognizes it: process, descriptor, inode."""
    try:
        return [] if descriptor is None else [os.getpid(), descriptor, os.fstat(descriptor).st_ino]
    except OSError as error:
        pass_on(error)
        return []


# --- in the slot ---


class AppliedTraits:
    """The present caller's traits in a slot process. `multiprocessing` is loaded when a task does, not before."""

    def __init__(self) -> None:
        self._traits: Traits = {}
        self._own_key: bytes | None = None
        when_imported("multiprocessing.process", self._set_key)
        when_imported("multiprocessing.shared_memory", self._watch_segments)

    def take_over(self, session: SessionInfo) -> None:
        """Take over the traits that a session describes. Tasks that run from now on find them."""
        self._traits = session
        sys.argv = list(session.get("argv", [""]))
        if "multiprocessing.process" in sys.modules:
            self._set_key()

    def _set_key(self) -> None:
        current = sys.modules["multiprocessing.process"].current_process()
        self._own_key = self._own_key or bytes(current.authkey)
        current.authkey = self._traits.get("authkey") or self._own_key

    def _watch_segments(self) -> None:
        module: Any = sys.modules["multiprocessing.shared_memory"]
        module.resource_tracker = _Segments(module.resource_tracker, self)

    def tracker(self) -> int | None:
        """Open the pipe to the caller's resource tracker. Returns a descriptor; None if the pipe cannot be opened."""
        try:
            process, descriptor, inode = self._traits["tracker"]
            pipe = os.open(f"/proc/{process}/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
        except (KeyError, ValueError, OSError):
            return None
        found = os.fstat(pipe)
        if stat.S_ISFIFO(found.st_mode) and found.st_ino == inode:
            return pipe
        os.close(pipe)  # the caller has ended, and another process has its number
        return None


class _Segments:
    """What `multiprocessing.shared_memory` takes for the resource tracker.

    Args:
        own: the module `multiprocessing.resource_tracker`, which starts a tracker for this process when one is needed.
        traits: know the caller's tracker.
    """

    def __init__(self, own: Any, traits: AppliedTraits) -> None:
        self._own = own
        self._traits = traits

    def register(self, name: str, kind: str) -> None:
        """Register a segment that this process has created, and none that it attaches."""
        if sys._getframe(1).f_locals.get("create", True):  # the argument of `SharedMemory` itself
            self._tell(name, kind, "REGISTER")

    def unregister(self, name: str, kind: str) -> None:
        """Unregister a segment that was removed. It is registered first, as a tracker complains of unknown names."""
        self._tell(name, kind, "REGISTER", "UNREGISTER")

    def _tell(self, name: str, kind: str, *words: str) -> None:
        pipe = self._traits.tracker()
        if pipe is None:
            for word in words:
                getattr(self._own, word.lower())(name, kind)
            return
        try:
            os.write(pipe, "".join(f"{word}:{name}:{kind}\n" for word in words).encode("ascii"))
        except OSError:  # the tracker ends, or its pipe is full: then nobody removes what the task leaves
            pass
        finally:
            os.close(pipe)
