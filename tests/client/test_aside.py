"""The thread that runs the caller's code beside the reading: in order, within bounds, and nobody waits for it twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from minidask.client import aside
from minidask.client.aside import Aside
from tests.helpers import wait_until


class Handler:
    """Handles numbers; it stops at the first one until it may go on."""

    def __init__(self) -> None:
        self.handled: list[int] = []
        self.began, self.go_on = threading.Event(), threading.Event()
        self.left_out: list[int] = []
        self.aside = Aside("test", self.handle, 3, self.left_out.append)

    def handle(self, number: int) -> None:
        self.began.set()
        self.go_on.wait(30)
        self.handled.append(number)

    def put(self, *numbers: int) -> None:
        for number in numbers:
            self.aside.put(number)
        assert self.began.wait(30)


@pytest.fixture
def handler() -> Iterator[Handler]:
    handler = Handler()
    yield handler
    handler.go_on.set()
    handler.aside.close()


def in_thread(code: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=code)
    thread.start()
    return thread


def test_without_items_there_is_no_thread_and_nothing_to_wait_for(handler: Handler) -> None:
    before = threading.active_count()
    assert not handler.aside.busy
    assert handler.aside.flush()
    assert threading.active_count() == before


def test_items_are_handled_in_order_and_flush_waits_for_them(handler: Handler) -> None:
    handler.put(1, 2, 3)
    assert not handler.aside.flush(0)
    handler.go_on.set()
    assert handler.aside.flush(30)
    assert handler.handled == [1, 2, 3]
    assert not handler.aside.busy


def test_what_is_over_the_bound_is_left_out_and_told_once_the_others_were_handled(handler: Handler) -> None:
    handler.put(1, 2, 3, 4, 5)
    assert handler.left_out == []
    handler.go_on.set()
    wait_until(lambda: handler.left_out, "it was told")
    handler.put(6)
    assert handler.aside.flush(30)
    assert (handler.handled, handler.left_out) == ([1, 2, 3, 6], [2])


def test_nobody_waits_twice_for_the_same_item(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "FLUSH_SECONDS", 0.01)
    handler.put(1)
    assert not handler.aside.flush()
    monkeypatch.setattr(aside, "FLUSH_SECONDS", 1e6)
    assert not handler.aside.flush(), "this one would wait for ever"
    handler.go_on.set()
    wait_until(lambda: handler.handled == [1], "it goes on")
    handler.put(2)
    assert handler.aside.flush()


def test_a_flush_after_the_end_does_not_wait(handler: Handler) -> None:
    handler.put(1)
    handler.aside.close()
    handler.aside.put(2)
    waiting = in_thread(lambda: handler.aside.flush(30))
    handler.go_on.set()
    waiting.join(20)
    assert not waiting.is_alive()
    assert not handler.aside.flush(30)


def test_a_forked_child_waits_for_nothing(handler: Handler) -> None:
    handler.put(1)
    handler.aside.abandon()
    assert handler.aside.flush()
    handler.go_on.set()
    wait_until(lambda: handler.handled == [1], "the parent's thread goes on")
