"""The last lines of a daemon's log, kept in memory for those who ask for them over the wire."""

from __future__ import annotations

import collections
import logging

MOST_LINES = 1000
MAX_LINE = 2000
"""Characters of one that are kept."""


class LogLines(logging.Handler):
    """Keeps the last lines that were logged, as text."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: collections.deque[str] = collections.deque(maxlen=MOST_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record. One that cannot be formatted is told of on standard error, as by any handler."""
        try:
            self._lines.append(self.format(record)[:MAX_LINE])
        except Exception:  # noqa: BLE001 - what is logged may raise, and this is how `logging` deals with it
            self.handleError(record)

    def last(self, most: int) -> list[str]:
        """The last lines, this many at most; a traceback is in that of its record."""
        lines = list(self._lines)
        return lines[max(0, len(lines) - most) :]


kept = LogLines()
"""Those of this process, from `start_logging` on."""
