"""When a client describes its process to the slots, and when it does so again.

What a slot must know of the caller goes ahead as blobs, the first ones of every task:

    the session: Python, import path, working directory, log level ─┐
    the code:    the caller's own modules, by content ──────────────┴─► the first blobs of every task

Most tasks find both as they were. So `Session.blobs` has to be cheap: it compares, and makes new blobs only after a
change. The blobs before those are released when no task is under way that may need them.
`minidask/task/session.py` says what is in a session.
"""

from __future__ import annotations

import collections
import logging
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from minidask.client.code import collected
from minidask.pickling.sharing import dumps
from minidask.task.session import describe, working_directory
from minidask.task.sources import OwnModule, OwnModules
from minidask.task.traits import CallerTraits
from minidask.wire.large import blob_id
from minidask.wire.messages import Payload


class Described(Protocol):
    """Knows the blobs that describe the caller.

    Attributes:
        unsent: payloads of new blobs, by id, that the shell of the client has still to send.
        gone: ids of blobs to be held once less, once the new ones were sent.
    """

    unsent: collections.deque[Mapping[bytes, Payload]]
    gone: list[bytes]

    def take_gone(self) -> list[bytes]:
        """Return what is in `gone`, which is empty then."""
        gone, self.gone = self.gone, []
        return gone

    def forget_unsent(self) -> None:
        """Forget the new blobs, which cannot be sent. The next task gets other ones."""

    def blobs(self) -> list[bytes]:
        """Return the ids of the blobs, the session first; cheap while nothing has changed."""


class _Sent(NamedTuple):
    """The last session that was sent, and what it was made of."""

    path: list[str]
    log_level: int
    directory: str
    found: Mapping[str, OwnModule]
    code: Mapping[bytes, Payload]
    blobs: list[bytes]


_NOTHING = _Sent([], 0, "", {}, {}, [])


class Session(Described):
    """Keeps the scheduler's copy of this process's description up to date.

    Args:
        at_rest: whether no task is under way that may need older blobs.
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
        self._modules.changed()  # reads the modules that are loaded now, before anybody edits their files
        self._sent = _NOTHING
        self._old: list[bytes] = []

    def blobs(self) -> list[bytes]:
        """Return the ids of the session, and of the code if there is any; cheap while nothing has changed."""
        self._modules.changed()
        sent = self._sent
        same = sent.found is self._modules.found and sent.path == sys.path
        same = same and sent.log_level == logging.root.level and sent.directory == working_directory()
        if not same or self._traits.changed():
            self._renew()
        return self._sent.blobs

    def forget_unsent(self) -> None:
        """Forget the new blobs, which cannot be sent. All are made again for the next task."""
        self.unsent.clear()
        self._sent = _NOTHING

    def _renew(self) -> None:
        """Make new blobs of what there is now. A signal's handler may end this anywhere, so `_sent` changes last."""
        before, found = self._sent, self._modules.found
        path, log_level, directory = list(sys.path), logging.root.level, working_directory()
        code = before.code
        if found is not before.found:
            content = collected(found, thin=self._is_here)
            payload = dumps(content, "the caller's own code") if content else []
            code = {blob_id(payload): payload} if content else {}
        session = describe(log_level, directory, next(iter(code), b""), self._traits.describe())
        payload = dumps(session, "the session")
        new = {blob_id(payload): payload, **code}
        self.unsent.append(new)
        sent, old = _Sent(path, log_level, directory, found, code, list(new)), self._old + before.blobs
        self._sent, self._old = sent, old
        self._traits.mark_sent()
        if self._at_rest():
            old, self._old = self._old, []
            self.gone += old


class Inherited(Described):
    """Describes the caller of the outermost task, for a client in a task: its tasks are to run as that task does.

    Args:
        current: gives the payloads of the blobs that describe that caller, by id, the session first.
    """

    def __init__(self, current: Callable[[], Mapping[bytes, Payload]]) -> None:
        self.unsent: collections.deque[Mapping[bytes, Payload]] = collections.deque()
        self.gone: list[bytes] = []
        self._current = current
        self._held: Mapping[bytes, Payload] = {}

    def forget_unsent(self) -> None:
        """Forget the new blobs, which cannot be sent. All are taken again for the next task."""
        self.unsent.clear()
        self._held = {}

    def blobs(self) -> list[bytes]:
        """Return the ids of the blobs that describe the outermost caller, the session first."""
        current = self._current()
        if current is not self._held:
            self.unsent.append(current)
            self.gone += self._held
            self._held = current
        return list(current)
