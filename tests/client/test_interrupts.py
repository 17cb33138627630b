"""Waiting threads, whatever a signal's handler raises amid it: they wake in time, and nothing stays locked."""

from __future__ import annotations

import gc
import signal
import threading
from types import FrameType

from minidask.client.interrupts import Condition, Sleepers


class TimeIsUp(OSError):
    pass


def test_sleepers_wake_and_time_out() -> None:
    sleepers, facts = Sleepers(), []
    assert not sleepers.sleep_until(lambda: facts, 0.01)

    def tell() -> None:
        facts.append(1)
        sleepers.wake()

    threads = [threading.Thread(target=sleepers.sleep_until, args=(lambda: facts, 20)) for _ in range(5)]
    for thread in threads:
        thread.start()
    threading.Thread(target=tell).start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert sleepers.sleep_until(lambda: facts, None)


def test_a_condition_is_never_left_locked() -> None:
    condition = Condition()
    stop = threading.Event()
    taken: list[int] = []

    def take() -> None:
        while not stop.is_set():
            with condition:
                taken.append(1)

    armed = False

    def strike_if_armed(number: int, frame: FrameType | None) -> None:
        if armed:
            raise TimeIsUp

    before = signal.signal(signal.SIGALRM, strike_if_armed)
    thread = threading.Thread(target=take)
    thread.start()
    gc.disable()  # as in `send_under_alarms`
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for _ in range(200):
            try:
                armed = True
                while True:
                    with condition:
                        condition.notify_all()
            except TimeIsUp:
                armed = False
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
        stop.set()
        thread.join(20)
    assert not thread.is_alive()
    assert condition.acquire(timeout=5)
    condition.release()
