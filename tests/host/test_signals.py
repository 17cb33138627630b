"""Handlers that raise: told from other errors and put off where they must not come."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from minidask.host.signals import Uninterrupted, pass_on, raised_by_handler, suppress


class TimeIsUp(OSError):
    pass


def strike(number: int, frame: FrameType | None) -> None:
    raise TimeIsUp(number)


def strike_and_leave(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    strike(number, frame)


class Watch:
    def strike(self, *arguments: Any) -> None:
        raise TimeIsUp


@pytest.fixture
def handle() -> Iterator[Callable[[Any], None]]:
    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGUSR1, signal.SIGINT)}

    def handle(handler: Any) -> None:
        signal.signal(signal.SIGALRM, handler)

    yield handle
    for number, handler in before.items():
        signal.signal(number, handler)


def caught(code: Callable[[], object]) -> BaseException:
    try:
        code()
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


@pytest.mark.parametrize(
    "handler",
    [
        strike,
        strike_and_leave,
        Watch().strike,
        functools.partial(Watch().strike, "limit"),
        lambda *arguments: strike(0, None),
    ],
)
def test_what_a_handler_raises_is_known(handle: Callable[[Any], None], handler: Any) -> None:
    handle(handler)
    error = caught(lambda: signal.raise_signal(signal.SIGALRM))
    assert raised_by_handler(error)
    assert caught(lambda: pass_on(error)) is error


def test_what_others_raise_is_not() -> None:
    error = caught(lambda: strike(signal.SIGALRM, None))
    assert not raised_by_handler(error)
    pass_on(error)
    with suppress(OSError):
        raise error


def test_only_a_handlers_error_is_not_suppressed(handle: Callable[[Any], None]) -> None:
    handle(strike)
    with pytest.raises(TimeIsUp), suppress(OSError):
        signal.raise_signal(signal.SIGALRM)


def test_handlers_of_all_signals_wait_for_the_end_of_the_block(handle: Callable[[Any], None]) -> None:
    came: list[int] = []
    woken: list[bool] = []
    for number in (signal.SIGALRM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, lambda number, frame: came.append(number))
    with Uninterrupted(lambda: woken.append(True)) as guard:
        signal.raise_signal(signal.SIGALRM)
        signal.raise_signal(signal.SIGUSR1)
        assert not came
        assert len(woken) == 2
        guard.check()
        assert came == [signal.SIGALRM, signal.SIGUSR1]
        guard.run_interruptible(lambda: signal.raise_signal(signal.SIGINT))
        assert len(came) == 3
        signal.raise_signal(signal.SIGALRM)
        assert len(came) == 3
    assert came == [signal.SIGALRM, signal.SIGUSR1, signal.SIGINT, signal.SIGALRM]


def test_each_that_came_is_run_though_one_raises_and_handlers_are_back(handle: Callable[[Any], None]) -> None:
    came: list[int] = []
    handle(strike)
    signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))

    def both() -> None:
        signal.raise_signal(signal.SIGALRM)
        signal.raise_signal(signal.SIGUSR1)

    with pytest.raises(TimeIsUp), Uninterrupted():
        both()
    assert came == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGALRM) is strike


def test_a_handler_of_the_blocks_own_stays_and_one_kept_from_it_still_works(handle: Callable[[Any], None]) -> None:
    handle(strike)
    with Uninterrupted():
        kept = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_IGN
    signal.signal(signal.SIGALRM, kept)
    with pytest.raises(TimeIsUp):
        signal.raise_signal(signal.SIGALRM)


def test_another_thread_changes_no_handler() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def look() -> None:
        with Uninterrupted():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]
