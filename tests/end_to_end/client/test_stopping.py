"""Stopping what runs: time limits, cancelling by force, and what a task had started."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import time
from collections.abc import Callable
from operator import neg
from pathlib import Path

import pytest

import minidask
from minidask import errors
from tests.helpers import alive, at_rest, wait_until


def spin() -> None:
    while True:
        pass


@pytest.mark.parametrize("function", [spin, lambda: time.sleep(60), lambda: sum(range(10**12))])
def test_a_time_limit_stops_the_call(client: minidask.Client, function: Callable[[], None]) -> None:
    began = time.monotonic()
    with pytest.raises(errors.TaskTimeout, match=r"0\.2 seconds"):
        client.submit(function, timeout=0.2).result(10)
    assert time.monotonic() - began < 5
    assert client.submit(neg, 1).result(10) == -1


def test_a_call_that_was_in_time_is_not_stopped_because_the_node_stood_still(
    client: minidask.Client, tmp_path: Path
) -> None:
    def call() -> int:
        (tmp_path / "begun").touch()
        wait_until((tmp_path / "stopped").exists, "the node stood still")
        (tmp_path / "over").touch()
        return 7

    node = client.scheduler_info()["pid"]
    future = client.submit(call, timeout=1.0)
    wait_until((tmp_path / "begun").exists, "the call had begun")
    began = time.monotonic()
    os.kill(node, signal.SIGSTOP)
    try:
        (tmp_path / "stopped").touch()
        wait_until((tmp_path / "over").exists, "the call was over")
        wait_until(lambda: time.monotonic() > began + 1.2, "its time was up")
    finally:
        os.kill(node, signal.SIGCONT)
    assert future.result(30) == 7


def test_cancelling_what_waits_and_stopping_what_runs(client: minidask.Client, tmp_path: Path) -> None:
    def runs(mark: Path) -> None:
        mark.touch()
        time.sleep(60)

    running = [client.submit(runs, tmp_path / str(i)) for i in range(2)]
    waiting = client.submit(neg, 1)
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "both calls ran")
    assert waiting.cancel()
    assert waiting.cancelled()
    assert concurrent.futures.wait([waiting], 1).not_done == set()
    with pytest.raises(concurrent.futures.CancelledError):
        waiting.result()
    client.cancel(running, force=True)
    wait_until(lambda: at_rest(client), "the calls were stopped", 5)
    assert client.gather(client.map(neg, range(4))) == [0, -1, -2, -3]


def test_a_task_that_takes_the_signal_for_itself_has_it_to_its_end_only(
    one_worker: minidask.Client, tmp_path: Path
) -> None:
    def ignores() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def runs() -> None:
        (tmp_path / "runs").touch()
        while True:
            pass

    process = one_worker.submit(os.getpid).result(10)
    one_worker.submit(ignores).result(10)
    future = one_worker.submit(runs)
    wait_until((tmp_path / "runs").exists, "the task ran")
    one_worker.cancel([future], force=True)
    assert one_worker.submit(os.getpid).result(10) == process, "a stop has ended the process"


def test_cancelling_first_and_then_by_force(client: minidask.Client, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def runs() -> None:
        mark.touch()
        time.sleep(60)

    future = client.submit(runs)
    wait_until(mark.exists, "the call ran")
    assert future.cancel()
    assert not at_rest(client)
    client.cancel(future, force=True)
    wait_until(lambda: at_rest(client), "the call was stopped", 5)


def test_a_done_future_cannot_be_cancelled(client: minidask.Client) -> None:
    future = client.submit(neg, 1)
    future.result(10)
    assert not future.cancel()
    client.cancel(future, force=True)
    assert future.result() == -1


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_task_started_is_ended_and_cleaned_up_with_its_slot(killed: bool) -> None:
    def use_loky() -> list[int]:
        import joblib

        with joblib.parallel_config("loky"):
            return [os.getpid(), *joblib.Parallel(n_jobs=2)(joblib.delayed(os.getpid)() for _ in range(4))]

    def shared() -> list[str]:
        names = (f"sem.loky-{pids[0]}-", f"joblib_memmapping_folder_{pids[0]}_")
        return [name for name in os.listdir("/dev/shm") if name.startswith(names)]

    with minidask.Client(n_workers=1) as client:
        pids = client.submit(use_loky).result(30)
        assert len(set(pids)) > 1
        assert shared()
        if killed:
            os.kill(pids[0], signal.SIGKILL)
            wait_until(lambda: not alive(pids) and not shared(), "all was cleaned up beside a cluster that goes on")
    wait_until(lambda: not alive(pids), "all processes had ended")
    wait_until(lambda: not shared(), "shared memory was free")
