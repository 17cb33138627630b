"""The short form of `python -m tests.fuzz.targets`, and what it has found."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from minidask.wire import messages as m
from minidask.wire.codec import encode
from minidask.wire.packing import pack
from tests.fuzz.targets import TARGETS
from tests.wire.any_message import PLAIN, any_message

headers = st.lists(PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(PLAIN, PLAIN, max_size=3), max_size=9).map(
    pack
)
infos = st.dictionaries(st.sampled_from(["slots", "name", "python", "holds", "keys", "odd"]), PLAIN, max_size=5).map(
    pack
)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@given(data=st.binary(max_size=300) | headers | infos)
def test_arbitrary_bytes_do_no_harm(target: object, data: bytes) -> None:
    assert callable(target)
    target(data)


@given(message=any_message, place=st.integers(0, 1 << 20), byte=st.integers(0, 255))
def test_a_message_with_one_wrong_byte_does_no_harm(message: m.Message, place: int, byte: int) -> None:
    data = bytearray(b"\x10" + b"".join(map(bytes, encode(message))))
    data[place % len(data)] = byte
    TARGETS["frames"](bytes(data))
    TARGETS["messages"](bytes(data[9:]))
