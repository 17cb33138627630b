"""Output of tasks: whole lines, whatever the pieces; and a rate that it cannot exceed."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from minidask.host.output import MAX_LINE, LineSplitter, RateLimiter


@given(text=st.text(), cuts=st.lists(st.integers(1, 10), max_size=20))
def test_pieces_are_put_together_into_whole_lines(text: str, cuts: list[int]) -> None:
    splitter, data, pieces = LineSplitter(), text.encode(), []
    for cut in [*cuts, len(data)]:
        pieces += splitter.feed(data[:cut])
        data = data[cut:]
    assert all(piece.endswith("\n") for piece in pieces)
    pieces += splitter.flush()
    assert "".join(pieces).rstrip("\n") == text.rstrip("\n")


def test_bytes_that_are_no_text_are_shown_all_the_same() -> None:
    assert list(LineSplitter().feed(b"\xff\n")) == ["�\n"]


def test_a_line_without_end_is_not_kept_for_ever() -> None:
    assert sum(len(piece) for piece in LineSplitter().feed(b"x" * (MAX_LINE + 1))) == MAX_LINE + 1


def test_what_goes_over_the_rate_is_dropped_and_said() -> None:
    limiter = RateLimiter(rate=10, burst=20)
    assert limiter.admit("a" * 20, now=0.0) == "a" * 20
    assert limiter.admit("b" * 5, now=0.1) == ""
    assert limiter.admit("c" * 5, now=0.2) == ""
    late = limiter.admit("d" * 5, now=2.0)
    assert "10 characters" in late
    assert late.endswith("ddddd")
    assert limiter.admit("e", now=2.0) == "e"


@given(pieces=st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1)), max_size=50))
def test_no_stretch_of_time_brings_more_than_rate_and_burst_allow(pieces: list[tuple[int, float]]) -> None:
    limiter, now, admitted = RateLimiter(rate=10, burst=20), 0.0, 0
    for length, pause in pieces:
        now += pause
        admitted += limiter.admit("x" * length, now).count("x")
    assert admitted <= 20 + 10 * now + 1e-6
