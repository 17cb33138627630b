"""Where docs/protocol.md defines a message: the rows of its tables, with their lines. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

_ROW = re.compile(r"\| (\d+) \| (\w+)(?: ✚)? \|.*?\| (.*) \|")


class Definition(NamedTuple):
    """A row that defines a message: its `line` in the text, the `heading` above it, and what the message means."""

    line: int
    heading: str
    meaning: str


class Definitions:
    """All rows of the protocol's text that define a message.

    Args:
        text: docs/protocol.md.
    """

    def __init__(self, text: str) -> None:
        self._rows: dict[str, list[Definition]] = {}
        heading = ""
        for number, line in enumerate(text.splitlines(), 1):
            if line.startswith("#"):
                heading = line.lstrip("# ")
            elif row := _ROW.fullmatch(line):
                self._rows.setdefault(row[2], []).append(Definition(number, heading, row[3]))

    def find(self, name: str, sender: str, receiver: str) -> Definition | None:
        """Return the row for a message; None if there is none.

        A message may have several rows: that of its own direction counts, as "Scheduler to worker", or else the first.

        Args:
            name: of the message.
            sender: "client", "worker" or "scheduler".
            receiver: likewise.
        """
        rows = self._rows.get(name, [])
        direction = f"{sender} to {receiver}".capitalize()
        return next((row for row in rows if row.heading == direction), rows[0] if rows else None)
