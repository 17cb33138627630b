"""The caller's own code where a client runs it: a screen, callbacks, iterables, pickling. It ends nothing of ours."""

from __future__ import annotations

import functools
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from operator import neg
from types import FrameType
from typing import Any

import joblib
import pytest
from joblib import Parallel, delayed

import minidask
from minidask.errors import SerializationError, TaskError
from minidask.host.signals import raised_by_handler
from tests.helpers import wait_until

ENDS = [SystemExit, KeyboardInterrupt]


class Screen:
    """The caller's own `sys.stdout`, with as much as `print` needs."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


class BrokenScreen(Screen):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> None:
        raise self._error


class StoppedScreen(Screen):
    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()

    def write(self, text: str) -> None:
        self.goes_on.wait()
        super().write(text)


def squares(client: minidask.Client) -> list[int]:
    with joblib.parallel_config("minidask", scheduler=client):
        results: list[int] = Parallel()(delayed(loud)(i) for i in range(10))
    return results


def go_and_see() -> None:
    time.sleep(0.2)  # so that there are callbacks by then


def loud(number: int) -> int:
    print(f"task {number}")
    return number * number


def test_a_screen_without_flush_shows_what_tasks_print(
    client: minidask.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    assert client.submit(loud, 7).result(20) == 49
    assert "task 7" in screen.text
    assert squares(client) == [i * i for i in range(10)]
    assert all(f"task {i}" in screen.text for i in range(10))


@pytest.mark.parametrize(
    "error", [AttributeError("no write"), ValueError("closed"), SystemExit(1), KeyboardInterrupt()]
)
def test_a_screen_that_raises_ends_nothing(
    client: minidask.Client, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(sys, "stdout", BrokenScreen(error))
    assert client.submit(loud, 7).result(20) == 49
    assert squares(client) == [i * i for i in range(10)]
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    assert client.submit(loud, 8).result(20) == 64
    assert "task 8" in screen.text


def test_a_screen_that_stands_still_stops_no_results(client: minidask.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StoppedScreen()
    monkeypatch.setattr(sys, "stdout", screen)
    try:
        assert client.gather(client.map(loud, range(20))) == [i * i for i in range(20)]
        assert squares(client) == [i * i for i in range(10)]
    finally:
        screen.goes_on.set()
    wait_until(lambda: screen.text.count("task") == 30, "all was shown")


@pytest.mark.parametrize("end", ENDS)
def test_a_done_callback_that_would_end_its_thread_is_told_and_ends_nothing(
    client: minidask.Client, caplog: pytest.LogCaptureFixture, end: type[BaseException]
) -> None:
    go_on = threading.Event()

    def callback(future: Any) -> None:
        go_on.wait(20)
        raise end

    called: list[object] = []
    future = client.submit(go_and_see)
    future.add_done_callback(callback)
    future.add_done_callback(called.append)
    with caplog.at_level(logging.ERROR):
        go_on.set()
        assert client.submit(neg, 3).result(20) == -3
        wait_until(lambda: called == [future], "the second callback was called")
    assert "a done-callback" in caplog.text
    assert squares(client) == [i * i for i in range(10)]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_an_iterable_that_ends_the_program_ends_the_call(
    client: minidask.Client, return_as: str, end: type[BaseException]
) -> None:
    def calls() -> Iterator[Any]:
        for number in range(100):
            if number == 40:
                raise end
            yield delayed(neg)(number)

    with joblib.parallel_config("minidask", scheduler=client), pytest.raises(end):
        list(Parallel(return_as=return_as, pre_dispatch=4, batch_size=1)(calls()))
    assert squares(client) == [i * i for i in range(10)]


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_pickling_that_ends_the_program_ends_the_call(client: minidask.Client, return_as: str) -> None:
    calls = (delayed(str)(Reduced(sys.exit, 3) if number == 40 else number) for number in range(100))
    with joblib.parallel_config("minidask", scheduler=client), pytest.raises(SystemExit):
        list(Parallel(return_as=return_as, pre_dispatch=4, batch_size=1)(calls))
    assert squares(client) == [i * i for i in range(10)]


class Reduced:
    """Calls something where it is pickled."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._call = functools.partial(function, *args)

    def __reduce__(self) -> Any:
        self._call()
        return int, ()


class Loaded(Exception):
    """Calls something where it is unpickled."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._parts = (function, args)

    def __reduce__(self) -> Any:
        return self._parts


def give(function: Callable[..., Any], *args: Any) -> Any:
    return Loaded(function, *args)


def throw(function: Callable[..., Any], *args: Any) -> Any:
    raise Loaded(function, *args)


def test_unpickling_that_would_end_the_program_is_an_error_of_the_task(client: minidask.Client) -> None:
    with pytest.raises(SerializationError, match="SystemExit: 3"):
        client.submit(give, sys.exit, 3).result(20)
    with pytest.raises(TaskError, match="SystemExit: 3"):
        client.submit(throw, sys.exit, 3).result(20)


# --- what comes from outside, by a signal ---


class TimeIsUp(OSError):
    """A time limit; an `OSError`, as `TimeoutError` is."""


class Watch:
    def strike(self, number: int, frame: FrameType | None) -> None:
        raise TimeIsUp

    def strike_with(self, *arguments: Any, **options: Any) -> None:
        self.strike(*arguments[-2:])


def strike(number: int, frame: FrameType | None) -> None:
    raise TimeIsUp


HANDLERS = [strike, lambda *arguments: strike(0, None), Watch().strike, functools.partial(Watch().strike_with, "limit")]


@pytest.fixture(params=HANDLERS)
def alarm(request: pytest.FixtureRequest) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, request.param)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
def test_what_a_handler_raises_while_an_argument_is_pickled_is_passed_on(client: minidask.Client) -> None:
    argument = Reduced(signal.raise_signal, signal.SIGALRM)
    with pytest.raises(TimeIsUp):
        client.submit(str, argument)
    with joblib.parallel_config("minidask", scheduler=client), pytest.raises(TimeIsUp):
        Parallel()(delayed(str)(argument) for _ in range(3))
    assert client.submit(neg, 1).result(20) == -1


@pytest.mark.usefixtures("alarm")
def test_what_a_handler_raises_while_a_result_is_unpickled_is_passed_on(client: minidask.Client) -> None:
    future = client.submit(give, signal.raise_signal, signal.SIGALRM)
    for _ in range(2):
        with pytest.raises(TimeIsUp):
            future.result(20)
    with pytest.raises(TimeIsUp):
        client.gather([future], errors="return")


def test_what_the_argument_itself_raises_is_not_taken_for_a_handlers(client: minidask.Client) -> None:
    def fail(number: int = signal.SIGALRM, frame: object = None) -> None:
        raise TimeIsUp

    with pytest.raises(SerializationError, match="TimeIsUp") as caught:
        client.submit(str, Reduced(fail))
    assert not raised_by_handler(caught.value)
    assert not raised_by_handler(caught.value.__cause__)
