"""Numbers of bytes, as people write and read them."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from minidask.host.sizes import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [(0, 0), (5, 5), ("4GiB", 4 << 30), ("4 GB", 4 * 10**9), ("512M", 512 << 20), ("1e9", 10**9), ("1.5k", 1536)],
)
def test_sizes(text: str | int, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "4XB", "-1", "4 4", "1..5", 0.5, 1.5, True, "nan", "inf"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="use forms like"):
        parse_bytes(text)


@given(count=st.integers(0, 2**50))
def test_sizes_for_people_are_close(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.06)
