"""Who follows a block to its end: see minidask/client/following.py."""

from __future__ import annotations

import time

import pytest

import minidask
from minidask.client import following
from minidask.client.eventreader import EventReader
from minidask.client.events import ClusterEvent
from minidask.client.following import Follower
from tests.helpers import DEADLINE, wait_until


def closed_reader() -> EventReader:
    return EventReader(lambda: "it is closed", lambda reader: None)


def test_it_ends_when_all_machines_have_told_what_they_did(client: minidask.Client) -> None:
    found: list[ClusterEvent] = []
    follower = Follower(found.append)
    follower.begin(client.events)
    client.submit(abs, -1).result(DEADLINE)
    assert follower.end()
    assert [event.name for event in found if event.kind == "call"] == ["abs"]


def test_it_does_not_wait_for_who_never_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LAST_SECONDS", 0.05)
    monkeypatch.setattr(following, "READ_SECONDS", 0.01)
    reader = EventReader(lambda: "", lambda reader: None)
    follower = Follower(lambda event: None)
    follower.begin(lambda: reader)
    began = time.monotonic()
    assert not follower.end()
    assert time.monotonic() - began < DEADLINE / 2


def test_a_client_that_is_closed_ends_it_and_that_is_told() -> None:
    follower = Follower(lambda event: None)
    follower.begin(closed_reader)
    assert not follower.end()


def test_what_goes_wrong_on_the_way_is_raised_at_the_end(client: minidask.Client) -> None:
    def fail(event: ClusterEvent) -> None:
        taken.append(event)
        raise OSError("full")

    taken: list[ClusterEvent] = []
    follower = Follower(fail)
    follower.begin(client.events)
    wait_until(lambda: taken, "it had begun")
    with pytest.raises(OSError, match="full"):
        follower.end()
    assert len(taken) == 1
