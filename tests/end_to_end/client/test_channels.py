"""What tasks tell their caller while they run."""

from __future__ import annotations

import threading
import time
from typing import Any

import joblib
import pytest

import minidask
from minidask.task import channels
from tests.helpers import wait_until


@pytest.fixture
def told() -> list[str]:
    """What has come on the channel "test"."""
    came: list[str] = []
    channels.handle("test", lambda payload: came.append(bytes(payload[0]).decode()))
    return came


def tell(*texts: str) -> None:
    for text in texts:
        channels.tell_caller("test", [text.encode()])


def count(first: int, many: int) -> int:
    tell(*(f"{first} {number}" for number in range(many)))
    return first


def test_messages_of_a_task_come_in_order_and_before_the_call_ends(client: minidask.Client, told: list[str]) -> None:
    with joblib.parallel_config("minidask"):
        joblib.Parallel(n_jobs=2)(joblib.delayed(count)(first, 2000) for first in range(10))
    assert len(told) == 20_000
    for first in range(10):
        assert [line for line in told if line.split()[0] == str(first)] == [f"{first} {n}" for n in range(2000)]


def test_tasks_in_threads_and_within_tasks_tell_the_outermost_caller(
    thread_client: minidask.Client, told: list[str]
) -> None:
    thread_client.submit(outer).result()
    assert thread_client.shell.channels.flush(10)
    assert sorted(told) == ["inner", "outer"]


def test_a_task_within_a_task_tells_the_outermost_caller(client: minidask.Client, told: list[str]) -> None:
    client.submit(outer).result()
    assert client.shell.channels.flush(10)
    assert sorted(told) == ["inner", "outer"]


def outer() -> None:
    minidask.get_client().submit(tell, "inner").result()
    tell("outer")


def test_a_handler_that_raises_is_logged_and_the_next_message_comes(
    client: minidask.Client, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def failing(payload: Any) -> None:
        raise SystemExit("no")

    channels.handle("failing", failing)
    client.submit(channels.tell_caller, "failing", [b"x"]).result()
    client.submit(channels.tell_caller, "unknown", [b"x"]).result()
    client.submit(tell, "after").result()
    assert client.shell.channels.flush(10)
    assert told == ["after"]
    assert [record.getMessage() for record in caplog.records] == [
        "what a task has sent on channel 'failing' could not be handled",
        "a task has sent something on channel 'unknown', of which nobody here knows",
    ]


def test_an_outcome_is_had_when_what_its_task_told_was_handled(client: minidask.Client, told: list[str]) -> None:
    slow: list[str] = []

    def handler(payload: Any) -> None:
        time.sleep(0.001)
        slow.append(bytes(payload[0]).decode())

    channels.handle("test", handler)
    for many in range(1, 100, 7):
        slow.clear()
        assert client.submit(count, many, many).result() == many
        assert slow == [f"{many} {number}" for number in range(many)]


def test_many_messages_of_many_tasks_come_each_once_and_in_order(client: minidask.Client, told: list[str]) -> None:
    assert list(client.gather(client.map(count, range(20), [5000] * 20))) == list(range(20))
    lines: dict[str, list[int]] = {}
    for line in told:
        first, number = line.split()
        lines.setdefault(first, []).append(int(number))
    assert lines == {str(first): list(range(5000)) for first in range(20)}


def test_handlers_do_not_run_where_the_connection_is_read(client: minidask.Client) -> None:
    blocked, go = threading.Event(), threading.Event()

    def block(payload: Any) -> None:
        blocked.set()
        go.wait(30)

    channels.handle("blocking", block)
    future = client.submit(channels.tell_caller, "blocking", [b"x"])
    assert blocked.wait(30)
    assert client.submit(abs, -1).result(1) == 1
    assert not client.shell.channels.flush(0)
    go.set()
    assert client.shell.channels.flush(20)
    assert future.result(20)


def storm() -> None:
    while True:
        tell("x" * 100)


def test_a_stop_that_comes_amid_a_message_waits_for_its_end(client: minidask.Client, told: list[str]) -> None:
    for _ in range(5):
        told.clear()
        future = client.submit(storm)
        wait_until(lambda: told, "the task spoke")
        client.cancel(future, force=True)
        assert client.submit(abs, -1).result(20) == 1
