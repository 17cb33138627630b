"""Tables that know what has changed since a viewer has looked. Pure.

    put, drop ─► Table: rows by key, each with the number of its last change ─► since(number): what a viewer lacks

All tables of a model share one `Changes`, so one number says all that a viewer has.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any


class Changes:
    """Counts all changes of a model."""

    def __init__(self) -> None:
        self.number = 0

    def next(self) -> int:
        """Return the number of a new change, from 1 on."""
        self.number += 1
        return self.number


class Table:
    """Rows by key, of which it keeps the last ones that have changed.

    Args:
        changes: shared by all tables of a model.
        most: how many rows; the one that has not changed for the longest goes first.
    """

    def __init__(self, changes: Changes, most: int) -> None:
        self._changes = changes
        self._most = most
        self._rows: collections.OrderedDict[str, tuple[int, Any]] = collections.OrderedDict()
        self._gone: collections.deque[tuple[int, str]] = collections.deque()
        self._whole_from = 0  # whoever looked before this change lacks rows of `_gone` that were forgotten

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._rows))

    def get(self, key: str) -> Any:
        """Return a row; None: there is none."""
        found = self._rows.get(key)
        return None if found is None else found[1]

    def put(self, key: str, row: Any) -> None:
        """Add a row, or change it. The same row again is no change."""
        before = self._rows.get(key)
        if before is not None and before[1] == row:
            return
        self._rows[key] = self._changes.next(), row
        self._rows.move_to_end(key)
        if len(self._rows) > self._most:
            self.drop(next(iter(self._rows)))

    def drop(self, key: str) -> None:
        """Remove a row, if it is there."""
        if self._rows.pop(key, None) is None:
            return
        self._gone.append((self._changes.next(), key))
        if len(self._gone) > self._most:
            self._whole_from = self._gone.popleft()[0]

    def since(self, number: int) -> dict[str, Any]:
        """Return what has changed after a change: rows to `set`, keys that are `gone`.

        With `all`, the viewer has to forget what it has. The dict is empty if nothing has changed.
        """
        everything = number < self._whole_from or not number
        changed: dict[str, Any] = {}
        for key, (at, row) in reversed(self._rows.items()):
            if at <= number and not everything:
                break
            changed[key] = row
        update: dict[str, Any] = {"set": changed} if changed else {}
        if everything:
            update["all"] = True
        else:
            gone = list({key for at, key in self._gone if at > number and key not in self._rows})
            if gone:
                update["gone"] = gone
        return update


class Ring:
    """The last entries of a list that only grows.

    Args:
        changes: as for a table.
        most: how many entries are kept.
    """

    def __init__(self, changes: Changes, most: int) -> None:
        self._changes = changes
        self._entries: collections.deque[tuple[int, Any]] = collections.deque(maxlen=most)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Any) -> None:
        """Add an entry."""
        self._entries.append((self._changes.next(), entry))

    def since(self, number: int, most: int) -> list[Any]:
        """Return the entries after a change, in order: the last ones, so many at most."""
        found: list[Any] = []
        for at, entry in reversed(self._entries):
            if at <= number or len(found) >= most:
                break
            found.append(entry)
        return found[::-1]
