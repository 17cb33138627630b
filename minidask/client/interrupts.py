"""Keeps Ctrl-C from coming at a moment when it would break something: bytes that were read would be lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

INTERRUPT_SECONDS = 0.5
"""The longest single wait. Python looks for signals before it gives up the interpreter, so one that comes right after
that is not seen before the wait ends; under load, some do."""


class Uninterrupted:
    """Puts off a SIGINT that comes inside the block to the block's end. It only concerns the main thread.

    Args:
        wake: called when one comes, to end a wait; None where there is none.
    """

    __slots__ = ("_came", "_handler", "_interruptible", "_wake")

    def __init__(self, wake: Callable[[], None] | None = None) -> None:
        self._wake = wake
        self._came = False
        self._interruptible = False
        self._handler: Callable[[int, FrameType | None], Any] | None = None

    def __enter__(self) -> Uninterrupted:
        if threading.get_ident() == threading.main_thread().ident:
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):
                self._handler = handler
                signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            if signal.getsignal(signal.SIGINT) == self._on_signal:  # else a callback has put its own there
                signal.signal(signal.SIGINT, self._handler)
            self.check()

    def run_interruptible(self, code: Callable[[], None]) -> None:
        """Run a part of the block, a user's code, that Ctrl-C may interrupt after all."""
        try:
            self._interruptible = True
            self.check()
            code()
        finally:
            self._interruptible = False

    def check(self) -> None:
        """Let a SIGINT that has come take its effect now."""
        if self._came and self._handler is not None:
            self._came = False
            self._handler(signal.SIGINT, None)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._interruptible and self._handler is not None:
            self._handler(number, frame)
        else:
            self._came = True
            if self._wake is not None:
                self._wake()
