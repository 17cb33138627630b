"""Handlers of signals that raise, time limits above all: at any moment, and what they raise comes out as itself."""

from __future__ import annotations

import contextlib
import gc
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from operator import neg
from types import FrameType
from typing import Any

import joblib
import pytest
from joblib import Parallel, delayed

import minidask
import minidask.local.cluster
from minidask.backend.run import ParallelRun
from minidask.client.registry import live_clients
from tests.helpers import Programs

SECONDS = 12.0


class TimeIsUp(TimeoutError):
    """As a time limit raises it: an `OSError` too, as `TimeoutError` is."""


class Alarm:
    """An alarm that raises, once or again and again."""

    def __init__(self) -> None:
        self.armed = False
        self.raised = 0
        self.last = TimeIsUp()

    def strike(self, number: int, frame: FrameType | None) -> None:
        if self.armed:
            self.raised += 1
            self.last = TimeIsUp("".join(traceback.format_stack(frame, 12)))
            raise self.last

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Strike in the block, after so many seconds."""
        self.armed = True
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            yield
            self.armed = False
        finally:
            self.armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    alarm = Alarm()
    before = signal.signal(signal.SIGALRM, alarm.strike)
    try:
        yield alarm
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def actions(client: minidask.Client) -> list[Callable[[], object]]:
    """What a user does with a client."""
    data = list(range(2000))

    def parallel(**options: Any) -> Callable[[], object]:
        def run() -> None:
            results = Parallel(**options)(delayed(neg)(i) for i in range(60))
            assert sorted(results, reverse=True) == [-i for i in range(60)]

        return run

    def submit() -> None:
        futures = [client.submit(lambda i=i: (i, data)) for i in range(10)]
        assert [future.result(10)[0] for future in futures] == list(range(10))

    def cancel() -> None:
        client.cancel([client.submit(time.sleep, 0.1) for _ in range(5)], force=True)

    def describe() -> None:
        client.wait_for_workers(2)
        client.scheduler_info()

    return [
        parallel(),
        parallel(batch_size=1),
        parallel(return_as="generator"),
        parallel(return_as="generator_unordered", batch_size=2),
        submit,
        cancel,
        describe,
        lambda: client.gather(client.map(neg, range(30))),
        lambda: client.gather(client.map(neg, range(30)), errors="return"),
        lambda: client.submit(len, client.scatter(b"x" * 2_000_000)).result(10),
    ]


@pytest.mark.filterwarnings("ignore:.*tasks have been successfully executed:UserWarning")
def test_a_handler_that_raises_at_any_moment_is_obeyed_and_breaks_nothing(
    alarm: Alarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(7)
    unraisable: list[object] = []  # Python itself swallows what is raised in a finaliser

    def swallowed(problem: Any) -> None:
        if isinstance(problem.exc_value, TimeIsUp):
            unraisable.append(problem.object)

    def start(run: ParallelRun) -> None:
        runs.append(run)
        start_collecting(run)

    hook, sys.unraisablehook = sys.unraisablehook, swallowed
    runs: list[ParallelRun] = []
    start_collecting = ParallelRun._start_collecting
    monkeypatch.setattr(ParallelRun, "_start_collecting", start)
    came: list[bool] = []
    try:
        # Out of the alarm's reach: what is struck as it ends leaves joblib configured for a client that is closed.
        with minidask.Client(n_workers=2) as client, joblib.parallel_config("minidask", scheduler=client):
            todo = actions(client)
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                action = dice.choice(todo)
                try:
                    with alarm.within(dice.expovariate(1 / 0.004) + 1e-6):
                        action()
                except TimeIsUp as error:
                    came.append(error is alarm.last)
                assert all(came), "it was another one"
                assert len(came) + len(unraisable) == alarm.raised, f"one was swallowed: {alarm.last}"
                with client.shell.reader.lead() as leadership:
                    assert leadership is not None, "a lock was left held"
                assert client.submit(neg, 1).result(10) == -1
            for run in runs:  # joblib ends no call that is interrupted before its generator has begun
                run.close()
    finally:
        runs.clear()
        sys.unraisablehook = hook
        alarm.last = TimeIsUp()  # the generators in its traceback end here
        gc.collect()
    assert len(came) >= 50


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a socket that had no name yet: it is collected here too
def test_clients_are_made_and_closed_under_alarms(alarm: Alarm) -> None:
    dice = random.Random(3)
    came, others = 0, list(minidask.local.cluster._live_clusters)
    other_clients = list(live_clients)
    for _ in range(6):
        try:
            with alarm.within(dice.uniform(0.0, 0.9)), minidask.Client(n_workers=1) as client:
                client.submit(neg, 1).result(20)
                client.close()
        except TimeIsUp as error:
            came += error is alarm.last
    assert came == alarm.raised
    alarm.last = TimeIsUp()
    gc.collect()
    for client in list(live_clients):  # struck between its making and its block
        if client not in other_clients:
            client.close()
    for cluster in list(minidask.local.cluster._live_clusters):  # as at the end of the program
        if cluster not in others:
            cluster.close()
    with minidask.Client(n_workers=1) as client:
        assert client.submit(neg, 1).result(20) == -1


@pytest.mark.parametrize(
    "call", ["client.submit(time.sleep, 60).result()", "Parallel()(delayed(time.sleep)(60) for _ in 'ab')"]
)
def test_a_program_whose_time_is_up_ends_with_what_its_handler_raised(programs: Programs, call: str) -> None:
    program = programs.script(
        f"""
import signal, time
import joblib, minidask
from joblib import Parallel, delayed

class TimeIsUp(TimeoutError): pass

def strike(number, frame):
    raise TimeIsUp("enough")

client = minidask.Client(n_workers=2)
client.submit(abs, 1).result()
signal.signal(signal.SIGALRM, strike)
signal.setitimer(signal.ITIMER_REAL, 0.5)
with joblib.parallel_config("minidask"):
    {call}
"""
    )
    assert program.exit_code() == 1
    assert "TimeIsUp: enough" in program.text.splitlines()[-1]
