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
from minidask.sources import OwnModule, OwnModules, is_library
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
        self._modules = OwnModules()
        self._modules.changed()  # what is loaded is noted as early as can be
        self._found: Mapping[str, OwnModule] | None = None
        self._seen: tuple[list[object], int, str] = ([], 0, "")
        self._code: dict[bytes, Payload] = {}
        self._blobs: list[bytes] = []
        self._old: list[bytes] = []

    def blobs(self) -> list[bytes]:
        """As `Described.blobs`: the session, and the code if there is any."""
        self._modules.changed()
        directory, seen = _directory(), self._seen
        new = self._modules.found is not self._found
        if (
            new
            or self._traits.changed()
            or seen[0] != sys.path
            or seen[1] != logging.root.level
            or seen[2] != directory
        ):
            found, seen = self._modules.found, (list(sys.path), logging.root.level, directory)
            code = self._collected(found) if new else self._code
            self._renew(describe(seen[1], directory, next(iter(code), b"")) | self._traits.description(), code)
            self._traits.told()
            self._found, self._code, self._seen = found, code, seen  # last: an interrupt has it done again
        return self._blobs

    def _collected(self, found: Mapping[str, OwnModule]) -> dict[bytes, Payload]:
        code = collected(found, thin=self._is_here)
        payload = dumps(code, "the caller's own code")
        return {blob_id(payload): payload} if code else {}

    def _renew(self, session: dict[str, object], code: Mapping[bytes, Payload]) -> None:
        payload = dumps(session, "the session")
        new = {blob_id(payload): payload, **code}
        self._put(new)
        self._old += self._blobs
        self._blobs = list(new)
        if self._at_rest():
            old, self._old = self._old, []
            self._release(old)


class Inherited:
    """What tasks submit themselves is described as they are: by what was sent of the caller of the outermost one.

    Args:
        put, release: as for `Session`.
        current: gives the payloads of that, by name, the session first.
    """

    def __init__(
        self,
        put: Put,
        release: Callable[[list[bytes]], None],
        current: Callable[[], Mapping[bytes, Payload]],
    ) -> None:
        self._put = put
        self._release = release
        self._current = current
        self._held: Mapping[bytes, Payload] = {}

    def blobs(self) -> list[bytes]:
        """As `Described.blobs`."""
        current = self._current()
        if current is not self._held:
            self._put(current)
            self._release(list(self._held))
            self._held = current
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
