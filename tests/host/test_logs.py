"""The last lines of a daemon's log are kept, not too many, and not too long: see minidask/host/logs.py."""

from __future__ import annotations

import logging

import pytest

from minidask.host import logs
from minidask.host.program import LINE, PrintableFormatter


def keeping(*texts: str) -> logs.LogLines:
    kept = logs.LogLines()
    kept.setFormatter(PrintableFormatter(LINE))
    for text in texts:
        kept.handle(logging.makeLogRecord({"msg": text, "levelname": "INFO", "name": "minidask.worker"}))
    return kept


def test_a_line_has_its_time_level_and_logger_and_is_printable() -> None:
    (line,) = keeping("joined \x1b[2J\n as m1").last(5)
    time, _, rest = line.partition(",")
    assert len(time) == len("2026-11-28 09:30:03")
    assert rest[4:].startswith("INFO    minidask.worker: joined ")
    assert "\x1b" not in line and "\n" not in line


@pytest.mark.parametrize(("most", "found"), [(0, []), (1, ["c"]), (2, ["b", "c"]), (3, ["a", "b", "c"]), (2**63, 3)])
def test_the_last_ones_are_returned(most: int, found: object) -> None:
    lines = [line[-1] for line in keeping("a", "b", "c").last(most)]
    assert (len(lines) if isinstance(found, int) else lines) == found


def test_it_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_LINE", 60)
    lines = keeping(*("x" * 100 for _ in range(logs.MOST_LINES + 10))).last(2**30)
    assert len(lines) == logs.MOST_LINES and {len(line) for line in lines} == {60}
