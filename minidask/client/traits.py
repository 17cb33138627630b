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

from minidask.host.signals import pass_on


class CallerTraits:
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
        self._told = False
        self._mark: Any = f"minidask-{id(self)}"

    def changed(self) -> bool:
        """Whether they are others than those that were told; cheap."""
        if not self._told or self._mark not in _unchanged_levels() or getattr(sys, "argv", None) != self._argv:
            return True
        return self._is_here and _secrets() != self._had

    def description(self) -> dict[str, Any]:
        """For the session, which is then `told`: `docs/protocol.md` says what is in it."""
        self._told = False
        _unchanged_levels()[self._mark] = True
        self._argv = list(sys.argv) if hasattr(sys, "argv") else None
        self._had = _secrets() if self._is_here else None
        key, tracker = self._had or (None, None)
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

    def told(self) -> None:
        """The session with the last description is on its way; an interrupt before that has it made again."""
        self._told = True


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
    except OSError as error:
        pass_on(error)
        return []
