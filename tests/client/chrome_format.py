"""The rules of Chrome's format for traces, as far as those who read it need them kept.

https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

NEEDED = {"X": {"name", "ts", "dur", "tid"}, "C": {"name", "ts", "args"}, "i": {"name", "ts", "s"},
          "s": {"name", "cat", "id", "ts", "tid"}, "f": {"name", "cat", "id", "ts", "tid", "bp"},
          "M": {"name", "args"}}  # fmt: skip


def checked(file: Path) -> list[dict[str, Any]]:
    """The events of a file that was read as strictly as can be; all rules are kept."""
    trace = json.loads(file.read_text(), parse_constant=lambda name: _refuse(f"{name} is no JSON"))
    check(trace["traceEvents"])
    return list(trace["traceEvents"])


def _refuse(text: str) -> None:
    raise AssertionError(text)


def check(rows: list[dict[str, Any]]) -> None:
    """Raise AssertionError if a rule is broken."""
    for row in rows:
        assert NEEDED[row["ph"]] | {"pid"} <= set(row), row
        assert type(row["pid"]) is int and type(row.get("tid", 0)) is int, row
        if "ts" in row:
            assert isinstance(row["ts"], int | float) and row["ts"] >= 0, row
    bars: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for row in rows:
        if row["ph"] == "X":
            assert row["dur"] >= 0, row
            bars.setdefault((row["pid"], row["tid"]), []).append((row["ts"], row["ts"] + row["dur"]))
    for track in bars.values():
        _check_nesting(track)
    _check_tracks(rows)
    _check_flows(rows, bars)
    names = Counter((row["name"], row["pid"], row.get("tid")) for row in rows if row["ph"] == "M")
    assert [name for name, count in names.items() if count > 1] == [], "a track is named twice"


def _check_tracks(rows: list[dict[str, Any]]) -> None:
    """Perfetto takes tracks for threads of one system: it drops bars of those whose numbers collide."""
    tracks = {(row["pid"], row["tid"]) for row in rows if "tid" in row}
    numbers = [track for _, track in tracks]
    assert len(set(numbers)) == len(numbers), f"two machines have one track: {sorted(tracks)}"
    assert not {0, *(row["pid"] for row in rows)}.intersection(numbers), f"a track has a machine's number: {numbers}"


def _check_nesting(track: list[tuple[float, float]]) -> None:
    """Bars of a track lie side by side, or one within another: Perfetto drops those that cross another one."""
    open_until: list[float] = []
    for began, ended in sorted(track, key=lambda bar: (bar[0], -bar[1])):
        while open_until and open_until[-1] <= began:
            open_until.pop()
        assert not open_until or ended <= open_until[-1], f"the bar {began} to {ended} crosses one to {open_until[-1]}"
        open_until.append(ended)


def _check_flows(rows: list[dict[str, Any]], bars: dict[tuple[int, int], list[tuple[float, float]]]) -> None:
    """An arrow has both ends, each in a bar, and goes on in time."""
    starts = {(row["cat"], row["id"]): row for row in rows if row["ph"] == "s"}
    ends = {(row["cat"], row["id"]): row for row in rows if row["ph"] == "f"}
    assert set(starts) == set(ends)
    assert len(starts) == sum(row["ph"] == "s" for row in rows), "two arrows have one number"
    for key, start in starts.items():
        assert start["ts"] <= ends[key]["ts"]
        for end in (start, ends[key]):
            where = bars.get((end["pid"], end["tid"]), [])
            assert any(began <= end["ts"] <= ended for began, ended in where), f"an arrow's end is in no bar: {end}"
