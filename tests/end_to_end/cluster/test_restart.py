"""`client.restart()`: fresh slots on all machines, and nobody else's work is lost."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

import minidask
from minidask import errors
from tests.helpers import Programs, wait_until


def change(number: int) -> int:
    json.changed = True  # type: ignore[attr-defined]
    time.sleep(0.1)  # so that each slot gets one
    return os.getpid()


def changed(number: int) -> bool:
    time.sleep(0.1)
    return hasattr(json, "changed")


def block(started: str, go: str) -> int:
    Path(started).touch()
    while not Path(go).exists():
        time.sleep(0.01)
    return os.getpid()


def test_all_workers_are_fresh_and_what_was_running_or_queued_is_cancelled() -> None:
    with minidask.Client(n_workers=2) as client:
        before = set(client.gather(client.map(change, range(8))))
        assert len(before) == 2 and all(client.gather(client.map(changed, range(4))))
        futures = client.map(time.sleep, [60] * 5)
        wait_until(lambda: client.scheduler_info()["tasks"]["running"] == 2, "they run")
        client.restart(20)
        assert all(future.cancelled() for future in futures)
        assert not any(client.gather(client.map(changed, range(8))))
        assert not before & set(client.gather(client.map(change, range(8))))
        assert client.slots() == 2
        assert not client.scheduler_info()["tasks"]["queued"]


def test_another_clients_task_is_not_lost(programs: Programs, tmp_path: Path) -> None:
    _, address = programs.scheduler()
    for name in ("one", "two"):
        programs.worker(address, "--nworkers", "1", "--name", name)
    with minidask.Client(address) as client, minidask.Client(address) as other:
        client.wait_for_workers(2, 20)
        task = other.submit(block, str(tmp_path / "started"), str(tmp_path / "go"))
        wait_until((tmp_path / "started").exists, "it runs")
        with pytest.raises(
            errors.NoWorkersError, match=r"not all workers .* replaced within 0.3 seconds.*other clients"
        ):
            client.restart(0.3)
        assert not task.done()
        over = threading.Event()
        restarting = threading.Thread(target=lambda: (client.restart(20), over.set()))
        restarting.start()
        (tmp_path / "go").touch()
        pid = task.result(20)
        restarting.join(20)
        assert over.is_set()
        assert pid not in client.gather(client.map(change, range(8)))


def test_a_worker_that_dies_or_joins_meanwhile_is_not_waited_for(programs: Programs, tmp_path: Path) -> None:
    _, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as client, minidask.Client(address) as other:
        task = other.submit(block, str(tmp_path / "started"), str(tmp_path / "go"))
        wait_until((tmp_path / "started").exists, "it runs")
        over = threading.Event()
        restarting = threading.Thread(target=lambda: (client.restart(20), over.set()))
        restarting.start()
        programs.worker(address, "--nworkers", "1")
        assert not over.is_set()
        worker.send(signal.SIGKILL)
        restarting.join(20)
        assert over.is_set()
        (tmp_path / "go").touch()
        assert task.result(20)


def test_workers_that_are_threads_are_fresh_threads(thread_client: minidask.Client) -> None:
    def thread() -> int:
        time.sleep(0.1)
        return threading.get_native_id()

    before = set(thread_client.gather(thread_client.map(lambda _: thread(), range(6))))
    stuck = thread_client.submit(time.sleep, 3)
    thread_client.restart(20)
    assert stuck.cancelled()
    assert not before & set(thread_client.gather(thread_client.map(lambda _: thread(), range(6))))


def test_a_worker_whose_task_has_left_a_thread_behind_is_replaced_too(one_worker: minidask.Client) -> None:
    def leave_a_thread() -> int:
        threading.Thread(target=time.sleep, args=(600,)).start()
        return os.getpid()

    pid = one_worker.submit(leave_a_thread).result(20)
    one_worker.restart(20)
    assert one_worker.submit(os.getpid).result(20) != pid


def test_a_task_cannot_restart_its_own_worker(one_worker: minidask.Client) -> None:
    def restart_all() -> None:
        minidask.get_client().restart()

    with pytest.raises(errors.MinidaskError, match="a task cannot restart"):
        one_worker.submit(restart_all).result(20)


def test_a_client_that_is_closed_says_so() -> None:
    client = minidask.Client(n_workers=1, processes=False)
    client.close()
    with pytest.raises(errors.SchedulerLost, match="closed"):
        client.restart()
