"""Batches of events become events, whatever is in them: see minidask/client/events.py."""

from __future__ import annotations

import threading
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from minidask.client import eventreader
from minidask.client import events as events_module
from minidask.client.eventreader import EventReader, Subscription
from minidask.client.events import ClusterEvent, EventDecoder
from minidask.wire.observing import Events, Subscribe
from minidask.wire.packing import pack

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
KINDS = st.sampled_from([*events_module.FIELDS, "activity", "unknown"])


def batch(*rows: Any, now: float = 50.0, dropped: int = 0) -> Events:
    return Events(now, dropped, [pack(rows)])


def decoded(*rows: Any) -> list[ClusterEvent]:
    return EventDecoder().events(batch(*rows), 1050.0)


def test_an_event_has_what_its_row_says_and_the_time_of_this_process() -> None:
    row = ["ended", 49.0, 7, "fit", 3, "tcp://m1", "raised", 0.5, "ValueError: no"]
    (event,) = decoded(row)
    assert event == ClusterEvent(
        "ended", 1049.0, "tcp://m1", task=7, name="fit", client=3, how="raised", seconds=0.5, text="ValueError: no"
    )
    assert event.as_dict() == {
        "kind": "ended", "time": 1049.0, "machine": "tcp://m1", "client": 3, "task": 7, "name": "fit",
        "how": "raised", "text": "ValueError: no", "seconds": 0.5,
    }  # fmt: skip


def test_what_has_no_field_of_its_own_is_in_info() -> None:
    (event,) = decoded(["submitted", 49.0, 7, "fit", 3, 4, 5])
    assert event.info == {"group": 4, "parent": 5}
    (event,) = decoded(["machine", 49.0, "tcp://m1", "m1", 8, "host", "3.11.7", "of a later version"])
    assert (event.size, event.info) == (8, {"host": "host", "python": "3.11.7"})


def test_clocks_are_compared_by_the_batch_that_was_the_least_late() -> None:
    decoder = EventDecoder()
    decoder.events(batch(now=50.0), 1052.0)
    decoder.events(batch(now=51.0), 1051.5)
    (event,) = decoder.events(batch(["client", 51.0, 1, "a"], now=52.0), 1060.0)
    assert event.time == 1051.5
    (event,) = decoder.events(batch(["started", 0.0, 7, "fit", 1, "m", 1], now=53.0), 1060.0)
    assert event.time == 0.0, "nobody knows since when it runs"


def test_what_controls_a_terminal_is_made_printable() -> None:
    (event,) = decoded(["client", 49.0, 1, "a\x1b[2Jb"])
    assert "\x1b" not in event.name


def test_what_was_left_out_is_an_event() -> None:
    (event,) = EventDecoder().events(batch(dropped=7), 1050.0)
    assert (event.kind, event.size) == ("missed", 7)


@given(
    st.lists(
        st.tuples(KINDS, st.floats() | PLAIN).flatmap(
            lambda head: st.lists(PLAIN, max_size=9).map(lambda rest: [*head, *rest])
        ),
        max_size=5,
    )
)
def test_whatever_comes_is_an_event_of_the_right_types_or_left_out(rows: list[Any]) -> None:
    for event in decoded(*rows):
        for name, default in ClusterEvent._field_defaults.items():
            assert type(getattr(event, name)) is type(default)
        event.as_dict()


@given(PLAIN | st.lists(PLAIN, min_size=4, max_size=4), st.binary(max_size=30))
def test_whatever_a_worker_tells_is_an_event_of_the_right_types_or_left_out(content: Any, raw: bytes) -> None:
    for payload in (pack(content), raw):
        for event in decoded(["activity", 49.0, "m", payload]):
            for name, default in ClusterEvent._field_defaults.items():
                assert type(getattr(event, name)) is type(default)


@given(st.binary(max_size=50))
def test_a_batch_of_anything_is_no_error(raw: bytes) -> None:
    EventDecoder().events(Events(1.0, 0, [raw]), 1.0)


# --- readers ---


class Sent:
    """A client's connection, in which nothing arrives; `why` it has ended."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.why = ""
        self.subscription = Subscription(self.messages.extend, lambda: self.why)


def test_the_scheduler_is_told_when_the_first_reader_comes_and_the_last_one_leaves() -> None:
    sent = Sent()
    with sent.subscription.open():
        second = sent.subscription.open()
        assert sent.messages == [Subscribe(True)] * 2, "each begins with a snapshot"
        assert sent.subscription.resume() == [Subscribe(True)]
    assert sent.messages == [Subscribe(True)] * 2
    second.close()
    second.close()
    assert sent.messages[2:] == [Subscribe(False)]
    assert sent.subscription.resume() == []


def test_a_reader_waits_for_events_and_for_no_longer_than_it_was_told() -> None:
    sent = Sent()
    with sent.subscription.open() as reader:
        assert reader.get(0.01) == []
        sent.subscription.received(batch(["client", 49.0, 1, "a"]))
        assert [event.name for event in reader.get(0)] == ["a"]
        timer = threading.Timer(0.05, sent.subscription.received, [batch(["client", 49.0, 1, "b"])])
        timer.start()
        assert next(reader).name == "b"
        timer.join()


def test_an_iteration_ends_with_its_client_or_its_reader() -> None:
    sent = Sent()
    with sent.subscription.open() as reader:
        sent.subscription.received(batch(["client", 49.0, 1, "a"]))
        sent.why = "closed"
        assert [event.name for event in reader] == ["a"]
    reader = Sent().subscription.open()
    timer = threading.Timer(0.05, reader.close)
    timer.start()
    assert list(reader) == []
    timer.join()


def test_a_slow_reader_loses_what_is_too_much_and_gets_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventreader, "MOST_BYTES", 100)
    sent = Sent()
    with sent.subscription.open() as reader:
        for number in range(20):
            sent.subscription.received(batch(["client", 49.0, number, "a"]))
        assert sent.messages == [Subscribe(True)] * 2, "once a second at most"
        first, *others = reader.get(0)
        assert first.kind == "missed"
        assert others[-1].client == 19


def test_what_the_scheduler_has_left_out_has_a_snapshot_follow() -> None:
    sent = Sent()
    with sent.subscription.open():
        sent.subscription.received(batch(dropped=1))
        assert sent.messages == [Subscribe(True)] * 2


def test_readers_do_not_take_from_one_another() -> None:
    sent = Sent()
    readers: list[EventReader] = [sent.subscription.open() for _ in range(2)]
    sent.subscription.received(batch(["client", 49.0, 1, "a"]))
    assert [[event.name for event in reader.get(0)] for reader in readers] == [["a"], ["a"]]
    for reader in readers:
        reader.close()
