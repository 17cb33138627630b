"""What a viewer lacks: see minidask/dashboard/table.py."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from minidask.dashboard.table import Changes, Ring, Table


class Viewer:
    """What the page does with updates."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.number = 0

    def look(self, table: Table, changes: Changes) -> None:
        update = table.since(self.number)
        if update.get("all"):
            self.rows.clear()
        for key in update.get("gone", ()):
            self.rows.pop(key, None)
        self.rows.update(update.get("set", {}))
        self.number = changes.number


STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "drop", "look"]), st.sampled_from("abcdefgh"), st.integers(0, 3)), max_size=60
)


@given(steps=STEPS, most=st.integers(1, 5))
def test_a_viewer_has_what_the_table_has_whenever_it_looks(steps: list[tuple[str, str, int]], most: int) -> None:
    changes = Changes()
    table, viewer = Table(changes, most), Viewer()
    Table(changes, most).put("other", 0)  # tables share their changes
    for what, key, row in steps:
        match what:
            case "put":
                table.put(key, row)
            case "drop":
                table.drop(key)
            case _:
                viewer.look(table, changes)
                assert viewer.rows == {key: table.get(key) for key in table}
    assert len(table) <= most


def test_the_same_row_again_is_no_change() -> None:
    changes = Changes()
    table = Table(changes, 5)
    table.put("a", [1])
    before = changes.number
    table.put("a", [1])
    assert table.since(before) == {}
    table.put("b", [2])
    assert table.since(before) == {"set": {"b": [2]}}


def test_a_ring_gives_the_last_entries_after_a_change_in_order() -> None:
    changes = Changes()
    ring = Ring(changes, 3)
    for n in range(5):
        ring.add(n)
    assert ring.since(0, 10) == [2, 3, 4]
    assert ring.since(0, 2) == [3, 4]
    assert ring.since(changes.number - 1, 10) == [4]
    assert ring.since(changes.number, 10) == []
