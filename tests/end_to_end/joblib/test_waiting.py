"""While a `Parallel` call waits: callbacks, other threads, Ctrl-C, and who reads the connection."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
import time
from collections.abc import Iterator
from operator import neg
from typing import Any

import pytest
from joblib import Parallel, delayed

import minidask
from tests.helpers import at_rest, delayed_calls, wait_until

pytestmark = pytest.mark.usefixtures("on_client")


def test_a_long_callback_does_not_stop_the_reading(client: minidask.Client) -> None:
    """The iterable waits, with the standard library's means, for a task of the same client."""

    def iterable() -> Iterator[Any]:
        for i in range(6):
            concurrent.futures.wait([client.submit(abs, -i)], timeout=20)
            (future,) = concurrent.futures.as_completed([client.submit(abs, -i)], timeout=20)
            yield delayed(neg)(future.result())

    assert Parallel(n_jobs=2, batch_size=1)(iterable()) == [-i for i in range(6)]


def test_other_threads_get_their_results_while_a_call_waits(client: minidask.Client) -> None:
    results: list[int] = []

    def use_client() -> None:
        results.extend(client.submit(neg, i).result(20) for i in range(50))

    thread = threading.Thread(target=use_client)
    thread.start()
    Parallel(n_jobs=2, batch_size=1)(delayed(time.sleep)(0.05) for _ in range(10))
    thread.join(20)
    assert results == [-i for i in range(50)]


@pytest.mark.alone(reason="it sends Ctrl-C to its own process")
def test_ctrl_c_ends_the_wait_and_the_client_goes_on(client: minidask.Client) -> None:
    def interrupted_call(delay: float) -> None:
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            Parallel(n_jobs=2, batch_size=1)(delayed(time.sleep)(0.01) for _ in range(2000))
        finally:
            timer.join()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for delay in (0.001, 0.02, 0.1, 0.3):
            with pytest.raises(KeyboardInterrupt):
                interrupted_call(delay)
            assert Parallel(n_jobs=2)(delayed_calls(neg, 5)) == [0, -1, -2, -3, -4]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    wait_until(lambda: at_rest(client), "what was interrupted was stopped", 5)


def test_ctrl_c_right_after_a_task_was_sent_stops_that_too(
    client: minidask.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = client.shell.connection
    post, flush = connection.post, connection.flush
    sent = []

    def noting_post(messages: Any) -> None:
        post(messages)
        sent.extend(message for message in messages if type(message).__name__ == "Submit")

    def interrupted_flush() -> None:
        flush()
        if len(sent) == 2:
            sent.append(None)
            raise KeyboardInterrupt

    monkeypatch.setattr(connection, "post", noting_post)
    monkeypatch.setattr(connection, "flush", interrupted_flush)
    with pytest.raises(KeyboardInterrupt):
        Parallel(n_jobs=2, batch_size=1)([delayed(time.sleep)(60)] * 4)
    monkeypatch.undo()
    wait_until(lambda: at_rest(client), "both tasks were stopped", 5)


def test_a_leader_that_is_held_up_still_gets_the_reading(
    client: minidask.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between finding that another thread reads and waking it, the system may let everybody else run first."""
    wake = client.shell.reader.wake

    def late_wake() -> None:
        time.sleep(0.05)
        wake()

    monkeypatch.setattr(client.shell.reader, "wake", late_wake)
    for _ in range(20):
        time.sleep(0.02)  # until the reading thread reads again
        assert Parallel(n_jobs=2)([delayed(time.sleep)(0.01)]) == [None]
