"""Whose task a slot runs: what the slot takes over of that process, so that the task's code works as it did there.

A slot serves one caller after another. Each has modules, a working directory and an environment of its own. A task's
first blob is its caller's session (`minidask/task/session.py`). When that is another one than the last task had, the
slot takes it over. A task's second blob is the caller's own code, if there is any.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minidask.pickling.payload import SlotBlobs, loads
from minidask.task.session import SessionInfo, working_directory
from minidask.task.traits import AppliedTraits
from minidask.wire.messages import Payload

from .modules import NO_CODE, Worlds

_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY


class Caller:
    """What a slot process has taken over of its current caller.

    Args:
        blobs: the blobs that the slot has.
        folder: where copies of callers' modules are unpacked.
    """

    def __init__(self, blobs: SlotBlobs, folder: Path) -> None:
        self._blobs = blobs
        self._traits = AppliedTraits()
        self._worlds = Worlds(folder, blobs.leave_for_good)
        self._own_directory = os.open(os.curdir, _FOLDER)
        self._directory: int | None = None
        self._described: Mapping[bytes, Payload] = {}
        self._theirs = ""
        """The caller's working directory, as the caller names it."""

    def take_over(self, blob: bytes, session: SessionInfo) -> None:
        """Take over a caller's session: modules, working directory and traits. The next tasks are that caller's.

        Args:
            blob: the id of the session.
            session: what that blob was unpickled to.

        Raises:
            VersionMismatch: a module that cannot be sent is another one here.
        """
        code = session["code"]
        described = {each: self._blobs.bytes_of(each) for each in ([blob, code] if code else [blob])}

        def load() -> Any:
            return loads(described[code], "the caller's own code") if code else NO_CODE

        self._blobs.enter(self._worlds.enter(code.hex(), load, session["path"], session["path_after"]))
        self._described = described
        if self._directory is not None:
            os.close(self._directory)
        self._directory = _opened(session["directory"])
        self._theirs = session["directory"]
        self._traits.take_over(session)

    def go_home(self) -> None:
        """Change to the caller's working directory. If that is not on this machine, change to the worker's own."""
        try:
            os.fchdir(self._own_directory if self._directory is None else self._directory)
        except OSError:  # it cannot be reached any more
            os.fchdir(self._own_directory)

    def describe(self) -> Mapping[bytes, Payload]:
        """Return the payloads of the blobs that describe the caller, by id, the session first.

        Tasks that the caller's tasks submit refer to the same blobs.
        """
        return self._described

    def explain(self, error: BaseException) -> None:
        """Add a note to a FileNotFoundError: where the file was looked for. Other errors stay as they are."""
        if not isinstance(error, FileNotFoundError) or not isinstance(error.filename, str):
            return
        if not os.path.isabs(error.filename):
            why = (
                f", as that of the caller, {self._theirs!r}, is not on this machine" if self._directory is None else ""
            )
            here = working_directory() or "a folder that was removed"
            error.add_note(f"the name is relative: the task works in {here!r} on {os.uname().nodename}{why}")
        elif self._worlds.is_copy(error.filename):
            error.add_note(
                f"the module is a copy, on {os.uname().nodename}, of the caller's: hidden files, folders that are no"
                " packages, and what is too large are not sent along; pass the data to the task as an argument"
            )


def _opened(folder: str) -> int | None:
    try:
        return os.open(folder, _FOLDER)
    except (OSError, ValueError):
        return None
