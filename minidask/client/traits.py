"""What tasks have of this process, as its children would: command line, log levels, and on this machine its secrets.

authentication key: a `multiprocessing.Manager`'s proxies open its connections with it
resource tracker:   removes at this process's end what shared memory nobody has removed
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any


class Traits:
    """See the module's docstring.

    Args:
        is_here: whether all workers are on this machine. Others are not given the key: it is a secret.
        records: whether records that tasks log are to come to this process.
    """

    def __init__(self, is_here: bool, records: Callable[[], bool]) -> None:
        self._is_here = is_here
        self._records = records
        self._argv: list[str] | None = None
        self._had: tuple[bytes | None, int | None] | None = None
        self._mark: Any = f"minidask-{id(self)}"

    def changed(self) -> bool:
        """Whether they are others than `note` was told of; cheap."""
        same = self._mark in _unchanged_levels() and getattr(sys, "argv", None) == self._argv
        return not same or (self._is_here and _secrets() != self._had)

    def note(self) -> None:
        """They have been sent as they are now."""
        argv = getattr(sys, "argv", None)
        self._argv = None if argv is None else list(argv)
        self._had = _secrets() if self._is_here else None
        _unchanged_levels()[self._mark] = True

    def description(self) -> dict[str, Any]:
        """For the session: `docs/protocol.md` tells what is in it."""
        key, tracker = _secrets() if self._is_here else (None, None)
        return {
            "argv": [str(argument) for argument in getattr(sys, "argv", [])],
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


def _unchanged_levels() -> dict[Any, Any]:
    """Where `logging` keeps what it knows of levels, and which it empties when any level is set."""
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
    """How another process finds a pipe of this one and knows it again: process, descriptor, inode."""
    try:
        return [] if descriptor is None else [os.getpid(), descriptor, os.fstat(descriptor).st_ino]
    except OSError:
        return []
