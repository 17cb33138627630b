"""Text of others, as it is shown."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from minidask.host.texts import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, größer, 日本", "plain, größer, 日本"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\u202eback\u2066", r"\u202eback\u2066"),
        ("\udc80\x7f\x9b", r"\udc80\x7f\x9b"),
    ],
)
def test_what_does_not_print_is_written(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_line_ends_stay_where_lines_are_meant() -> None:
    assert printable("a\n\x07b", keep="\n") == "a\n\\x07b"


@given(text=st.text(st.characters()))
def test_any_text_can_be_printed_then(text: str) -> None:
    assert printable(text).isprintable()
