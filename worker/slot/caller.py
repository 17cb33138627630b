"""Whose task a slot runs: it takes over what importing, files and logging need of that process.

A task's first blob is the caller's session, the second one its code, if it has any of its own: `docs/protocol.md`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minidask.pickling.payload import SlotBlobs, loads
from minidask.wire.messages import Payload

from .modules import NO_CODE, Worlds
from .traits import AppliedTraits

_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY


class Caller:
    """What a slot process has taken over of its current caller.

    Args:
        blobs: of the slot.
        folder: where copies of the caller's modules are unpacked.
    """

    def __init__(self, blobs: SlotBlobs, folder: Path) -> None:
        self._blobs = blobs
        self._traits = AppliedTraits()
        self._worlds = Worlds(folder, blobs.leave_for_good)
        self._own_directory = os.open(os.curdir, _FOLDER)
        self._directory: int | None = None
        self._described: Mapping[bytes, Payload] = {}
        self._session: Mapping[str, Any] = {}

    def take_over(self, blob: bytes, session: Mapping[str, Any]) -> None:
        """Take over a caller's session: modules, working directory and traits. The next tasks are that caller's.

        Args:
            blob: the name of the session.
            session: what it holds.

        Raises:
            VersionMismatch: a module that cannot be sent is another one here.
        """
        name: bytes = session["code"]
        described = {told: self._blobs.bytes_of(told) for told in ([blob, name] if name else [blob])}

        def code() -> Any:
            return loads(described[name], "the caller's own code") if name else NO_CODE

        self._blobs.enter(self._worlds.enter(name.hex(), code, session["path"], session["path_after"]))
        self._described = described
        if self._directory is not None:
            os.close(self._directory)
        self._directory = _opened(session["directory"])
        self._session = session
        self._traits.take_over(session)

    def go_home(self) -> None:
        """Change to the caller's working directory, or if that is not on this machine, to the worker's own."""
        try:
            os.fchdir(self._own_directory if self._directory is None else self._directory)
        except OSError:  # it is not to be reached any more
            os.fchdir(self._own_directory)

    def describe(self) -> Mapping[bytes, Payload]:
        """The blobs that describe the caller, by id, the session first. Tasks that its tasks submit refer to them."""
        return self._described

    def explain(self, error: BaseException) -> None:
        """Add a note to a FileNotFoundError that tells where the file was looked for; other errors stay as they are."""
        if not isinstance(error, FileNotFoundError) or not isinstance(error.filename, str):
            return
        theirs = self._session.get("directory", "")
        if not os.path.isabs(error.filename):
            why = f", as that of the caller, {theirs!r}, is not on this machine" if self._directory is None else ""
            error.add_note(f"the name is relative: the task works in {_directory()!r} on {os.uname().nodename}{why}")
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


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "a folder that was removed"
