"""What running a task's code needs to know of the calling process, sent ahead as blobs.

the session: Python, import path, working directory, log level ─┐
the code:    the modules of the caller's own, by content ───────┴─► the first blobs of every task
"""

from __future__ import annotations

import collections
import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from minidask.client.code import collected
from minidask.client.traits import CallerTraits
from minidask.data.files import blob_id
from minidask.host.signals import pass_on
from minidask.host.spawn import search_path
from minidask.pickling.payload import dumps
from minidask.task.sources import OwnModule, OwnModules, is_library
from minidask.wire.messages import Payload


class Described(Protocol):
    """Knows the blobs that describe the caller.

    Attributes:
        unsent: payloads of new blobs, by blob, that the shell has still to send.
        gone: blobs to be held once less, once those were sent.
    """

    unsent: collections.deque[Mapping[bytes, Payload]]
    gone: list[bytes]

    def forget_unsent(self) -> None:
        """Take note that the new blobs cannot be sent."""

    def blobs(self) -> list[bytes]:
        """Return them, the session first; cheap while nothing has changed."""


class _Sent(NamedTuple):
    """What was last sent, and what it was made of."""

    path: list[str]
    log_level: int
    directory: str
    found: Mapping[str, OwnModule]
    code: Mapping[bytes, Payload]
    blobs: list[bytes]


class Session:
    """Keeps the scheduler's copy of this process's description up to date.

    Args:
        at_rest: whether no task is under way that may need those.
        is_here: whether all workers are on this machine, and so find files under the same names.
        records: whether records that tasks log are to come to this process.
    """

    def __init__(self, at_rest: Callable[[], bool], is_here: bool, records: Callable[[], bool]) -> None:
        self.unsent: collections.deque[Mapping[bytes, Payload]] = collections.deque()
        self.gone: list[bytes] = []
        self._at_rest = at_rest
        self._traits = CallerTraits(is_here, records)
        self._is_here = is_here
        self._modules = OwnModules()
        self._modules.changed()  # what is loaded is noted as early as can be
        self._sent = _Sent([], 0, "", {}, {}, [])
        self._old: list[bytes] = []

    def blobs(self) -> list[bytes]:
        """Return the blobs of the session, and of the code if there is any; cheap while nothing has changed."""
        self._modules.changed()
        sent = self._sent
        same = sent.found is self._modules.found and sent.path == sys.path
        same = same and sent.log_level == logging.root.level and sent.directory == _directory()
        if not same or self._traits.changed():
            self._renew()
        return self._sent.blobs

    def forget_unsent(self) -> None:
        """Make all anew for the next task: what was new cannot be sent."""
        self.unsent.clear()
        self._sent = _Sent([], 0, "", {}, {}, [])

    def _renew(self) -> None:
        """Have what there is now sent. What is noted of it is noted last: a signal's handler may end this anywhere."""
        before, found = self._sent, self._modules.found
        path, log_level, directory = list(sys.path), logging.root.level, _directory()
        code = before.code
        if found is not before.found:
            content = collected(found, thin=self._is_here)
            payload = dumps(content, "the caller's own code") if content else []
            code = {blob_id(payload): payload} if content else {}
        session = describe(log_level, directory, next(iter(code), b"")) | self._traits.description()
        payload = dumps(session, "the session")
        new = {blob_id(payload): payload, **code}
        self.unsent.append(new)
        sent, old = _Sent(path, log_level, directory, found, code, list(new)), self._old + before.blobs
        self._sent, self._old = sent, old
        self._traits.told()
        if self._at_rest():
            old, self._old = self._old, []
            self.gone += old


class Inherited:
    """What tasks submit themselves is described as they are: by what was sent of the caller of the outermost one.

    Args:
        current: gives the payloads of that, by name, the session first.
    """

    def __init__(self, current: Callable[[], Mapping[bytes, Payload]]) -> None:
        self.unsent: collections.deque[Mapping[bytes, Payload]] = collections.deque()
        self.gone: list[bytes] = []
        self._current = current
        self._held: Mapping[bytes, Payload] = {}

    def forget_unsent(self) -> None:
        """Take all anew for the next task: what was new cannot be sent."""
        self.unsent.clear()
        self._held = {}

    def blobs(self) -> list[bytes]:
        """Return the blobs that describe the outermost caller, the session first."""
        current = self._current()
        if current is not self._held:
            self.unsent.append(current)
            self.gone += self._held
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
    except OSError as error:  # it was removed
        pass_on(error)
        return ""
