"""Addresses: every way to write one, and what is none."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from minidask.net.addresses import MAX_UNIX_PATH, Address


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("node1", "tcp://node1:8786"),
        ("node1:1", "tcp://node1:1"),
        (" tcp://10.0.0.1:65535 ", "tcp://10.0.0.1:65535"),
        ("[::1]", "tcp://[::1]:8786"),
        ("tcp://[fe80::1]:5", "tcp://[fe80::1]:5"),
        ("unix:///run/x.sock", "unix:///run/x.sock"),
    ],
)
def test_addresses_and_their_canonical_form(text: str, canonical: str) -> None:
    assert str(Address.parse(text)) == canonical
    assert Address.parse(canonical) == Address.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "tcp://", ":5", "a:", "a:b", "a:0", "a:65536", "a:-1", "a:١", "::1", "[::1", "[::1]5", "a:" + "1" * 5000]
    + ["http://a", "a b:1", "[node]:1", "me@host:1", "unix://", "unix:///", "unix://relative/path", "tcp://a/b:1"]
    + ["unix:///" + "x" * MAX_UNIX_PATH, "unix:///\udc80" + "x" * MAX_UNIX_PATH],
)
def test_what_is_no_address_is_explained(text: str) -> None:
    with pytest.raises(ValueError, match=r"address .*(use|limit)"):
        Address.parse(text)


@given(text=st.text(max_size=30))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert Address.parse(str(address)) == address
