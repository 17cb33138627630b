"""The session: what a slot has to know of the process that a task comes from.

A task's code runs in another process than its caller, often on another machine. It is to import the same modules there,
to find the same relative files, and to log at the same level. So the caller describes itself in a dict, the session,
and sends it ahead as a blob. It is the first blob of every task:

    caller: describe ─► a blob, sent once ─► slot: refuse_other_python ─► Caller.take_over, Logs.take_over

This file says what is in that dict, for both ends. `minidask/client/session.py` says when a new one is sent.
`worker/slot/caller.py` takes one over. `docs/protocol.md` specifies the dict for other implementations.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import TypedDict

from minidask.errors import VersionMismatch
from minidask.host.signals import pass_on
from minidask.host.spawn import search_path
from minidask.task.sources import is_library


class Traits(TypedDict, total=False):
    """What a child process of the caller would have; see `minidask/task/traits.py`. Other clients may leave it out.

    Attributes:
        argv: the command line.
        levels: of the loggers whose level is set, by name.
        disabled: the level up to which `logging.disable` has turned logging off.
        records: whether the caller wants the records that tasks log.
        authkey: the key of `multiprocessing`; empty on other machines.
        tracker: process, descriptor and inode of the pipe to the resource tracker; empty on other machines.
    """

    argv: list[str]
    levels: dict[str, int]
    disabled: int
    records: bool
    authkey: bytes
    tracker: list[int]


class SessionInfo(Traits):
    """The session as it is sent.

    Attributes:
        python: the major and minor version.
        version: the whole version.
        executable: the path of the interpreter.
        path: the import path before the first folder of libraries.
        path_after: the import path after that, without folders of libraries.
        directory: the working directory; empty if it was removed.
        log_level: of the root logger.
        code: the id of the blob with the caller's own modules; empty if there are none.
    """

    python: list[int]
    version: str
    executable: str
    path: list[str]
    path_after: list[str]
    directory: str
    log_level: int
    code: bytes


def describe(log_level: int, directory: str, code: bytes, traits: Traits) -> SessionInfo:
    """Return the session of this process.

    Args:
        log_level: of the root logger.
        directory: the working directory; empty if it was removed.
        code: the id of the blob with its own modules; empty if there are none.
        traits: what its children would have.
    """
    path = search_path()
    first_library = next((index for index, entry in enumerate(path) if is_library(entry)), len(path))
    return {
        **traits,
        "python": list(sys.version_info[:2]),
        "version": sys.version.split()[0],
        "executable": sys.executable,
        "path": [entry for entry in path[:first_library] if not is_library(entry)],
        "path_after": [entry for entry in path[first_library:] if not is_library(entry)],
        "directory": directory,
        "log_level": log_level,
        "code": code,
    }


def refuse_other_python(session: SessionInfo) -> None:
    """Check that this Python can run the caller's functions: code objects differ from one minor version to the next.

    Raises:
        VersionMismatch: the caller runs another version.
    """
    ours, theirs = list(sys.version_info[:2]), list(session["python"])
    if ours != theirs:
        raise VersionMismatch(
            f"the caller runs Python {theirs[0]}.{theirs[1]} and the worker on {socket.gethostname()} Python"
            f" {ours[0]}.{ours[1]}, which cannot run each other's functions: use one version on all machines"
        )


def working_directory() -> str:
    """Return the working directory of this process; an empty text if it was removed."""
    try:
        return os.getcwd()
    except OSError as error:
        pass_on(error)
        return ""
