"""What running a task's code needs to know of the calling process, sent ahead as blobs.

the session: Python, import path, working directory, log level ─┐
the code:    the modules of the caller's own, by content ───────┴─► the first blobs of every task
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Protocol

from minidask.blobfiles import blob_id
from minidask.client.code import collected
from minidask.client.traits import Traits
from minidask.payload import dumps
from minidask.sources import OwnModules, is_library
from minidask.spawn import search_path
from minidask.wire.messages import Payload

Put = Callable[[Mapping[bytes, Payload]], None]


class Described(Protocol):
    """Knows the blobs that describe the caller."""

    def blobs(self) -> list[bytes]:
        """Their names, which are known to the scheduler; cheap while nothing has changed."""


class Session:
    """Keeps the scheduler's copy of this process's description up to date.

    Args:
        put: called with payloads of blobs, by their names, when there are new ones.
        release: called with the names of those before.
        at_rest: whether no task is under way that may need those.
        is_here: whether all workers are on this machine, and so find files under the same names.
        records: whether records that tasks log are to come to this process.
    """

    def __init__(
        self,
        put: Put,
        release: Callable[[list[bytes]], None],
        at_rest: Callable[[], bool],
        is_here: bool,
        records: Callable[[], bool],
    ) -> None:
        self._put = put
        self._release = release
        self._at_rest = at_rest
        self._traits = Traits(is_here, records)
        self._is_here = is_here
        self._seen: tuple[list[object], int, str] | None = None
        self._modules = OwnModules()
        self._modules.changed()  # what is loaded is noted as early as can be
        self._code: dict[bytes, Payload] = {}
        self._blobs: list[bytes] = []
        self._old: list[bytes] = []

    def blobs(self) -> list[bytes]:
        """As `Described.blobs`: the session, and the code if there is any."""
        changed = self._modules.changed()
        traits_changed = self._traits.changed()
        seen = self._seen
        if (
            changed
            or traits_changed
            or seen is None
            or seen[0] != sys.path
            or seen[1] != logging.root.level
            or seen[2] != _directory()
        ):
            self._seen = (list(sys.path), logging.root.level, _directory())
            if changed or seen is None:
                code = collected(self._modules.found, thin=self._is_here)
                payload = dumps(code, "the caller's own code") if code else []
                self._code = {blob_id(payload): payload} if code else {}
            self._renew(logging.root.level, self._seen[2])
        return self._blobs

    def _renew(self, log_level: int, directory: str) -> None:
        session = describe(log_level, directory, next(iter(self._code), b"")) | self._traits.description()
        payload = dumps(session, "the session")
        new = {blob_id(payload): payload, **self._code}
        self._put(new)
        self._old += self._blobs
        self._blobs = list(new)
        if self._at_rest():
            old, self._old = self._old, []
            self._release(old)


class Inherited:
    """What tasks submit themselves is described as they are: by what was sent of the caller of the outermost one.

    Args:
        current: gives the payloads of that, by name, the session first.
    """

    def __init__(self, put: Put, current: Callable[[], Mapping[bytes, Payload]]) -> None:
        self._put = put
        self._current = current
        self._held: set[bytes] = set()

    def blobs(self) -> list[bytes]:
        """As `Described.blobs`."""
        current = self._current()
        if not self._held.issuperset(current):
            new = {blob: payload for blob, payload in current.items() if blob not in self._held}
            self._put(new)
            self._held.update(new)
        return list(current)


def describe(log_level: int, directory: str, code: bytes) -> dict[str, object]:
    """The session as it is sent; `docs/protocol.md` tells what is in it."""
    path = search_path()
    first_library = next((index for index, entry in enumerate(path) if is_library(entry)), len(path))
    return {
        "python": list(sys.version_info[:2]),
        "version": sys.version.split()[0],
        "executable": sys.executable,
        "path": [entry for entry in path[:first_library] if not is_library(entry)],
        "path_after": [entry for entry in path[first_library:] if not is_library(entry)],
        "directory": directory,
        "log_level": log_level,
        "code": code,
    }


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""
