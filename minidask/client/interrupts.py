"""Keeps Ctrl-C from coming at a moment when it would break something: half a frame on the wire could not be mended."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


class Uninterrupted:
    """Puts off a SIGINT that comes inside the block to the block's end. It only concerns the main thread.

    Args:
        wake: called when one comes, to end a wait.
    """

    __slots__ = ("_came", "_handler", "_wake")

    def __init__(self, wake: Callable[[], None] | None = None) -> None:
        self._wake = wake
        self._came = False
        self._handler: Callable[[int, FrameType | None], Any] | None = None

    def __enter__(self) -> Uninterrupted:
        if threading.get_ident() == threading.main_thread().ident:
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):
                self._handler = handler
                signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._deliver()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A part of the block, a user's code, that Ctrl-C may interrupt after all."""
        if self._handler is None:
            yield
            return
        signal.signal(signal.SIGINT, self._handler)
        try:
            self._deliver()
            yield
        finally:
            signal.signal(signal.SIGINT, self._remember)

    def check(self) -> None:
        """Let a SIGINT that has come take its effect now."""
        if self._came:
            with self.interruptible():
                pass

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        if self._wake is not None:
            self._wake()

    def _deliver(self) -> None:
        if self._came and self._handler is not None:
            self._came = False
            self._handler(signal.SIGINT, None)
