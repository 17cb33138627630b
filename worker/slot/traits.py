"""A slot takes over what a child of the caller would have: command line, authentication key, resource tracker.

A segment of shared memory is registered with the caller's tracker by the task that makes it, and by none that only
attaches it: a tracker of the slot's own would remove it when the slot ends (as it does where there is none of the
caller's).
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from typing import Any

from minidask.host.imports import when_imported


class AppliedTraits:
    """The present caller's traits in a slot process. `multiprocessing` is loaded when a task does, not before."""

    def __init__(self) -> None:
        self._session: Mapping[str, Any] = {}
        self._own_key: bytes | None = None
        when_imported("multiprocessing.process", self._set_key)
        when_imported("multiprocessing.shared_memory", self._watch_segments)

    def take_over(self, session: Mapping[str, Any]) -> None:
        """Take over the traits that a session describes."""
        self._session = session
        sys.argv = list(session.get("argv", [""]))
        if "multiprocessing.process" in sys.modules:
            self._set_key()

    def _set_key(self) -> None:
        current = sys.modules["multiprocessing.process"].current_process()
        self._own_key = self._own_key or bytes(current.authkey)
        current.authkey = self._session.get("authkey") or self._own_key

    def _watch_segments(self) -> None:
        module: Any = sys.modules["multiprocessing.shared_memory"]
        module.resource_tracker = _Segments(module.resource_tracker, self)

    def tracker(self) -> int | None:
        """A new descriptor of the pipe to the caller's resource tracker; None if it cannot be opened."""
        try:
            process, descriptor, inode = self._session["tracker"]
            pipe = os.open(f"/proc/{process}/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
        except (KeyError, ValueError, OSError):
            return None
        found = os.fstat(pipe)
        if stat.S_ISFIFO(found.st_mode) and found.st_ino == inode:
            return pipe
        os.close(pipe)  # the caller has ended, and that is another process's
        return None


class _Segments:
    """What `multiprocessing.shared_memory` takes for the resource tracker.

    Args:
        own: the module that is, which starts one for this process when it is first needed.
        traits: know the caller's.
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
        except OSError:  # it ends, or has just now too much to do: then nobody removes what the task leaves
            pass
        finally:
            os.close(pipe)
