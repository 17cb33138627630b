"""A worker that is told to end with SIGTERM: what runs is finished, what waits runs elsewhere, nothing runs twice."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import minidask
from tests.helpers import Program, Programs, at_rest, wait_until


def held(folder: Path, number: int, result: Callable[[], object] | None = None) -> object:
    """A task that tells where it runs, and goes on when the test opens the gate."""
    (folder / f"{number}-{os.getppid()}").touch()
    while not (folder / "gate").exists():
        time.sleep(0.01)
    return number if result is None else result()


def begun(folder: Path, worker: Program | None = None) -> list[int]:
    """The tasks that have begun, on this worker or anywhere; one that began twice is there twice."""
    return sorted(int(path.name.split("-")[0]) for path in folder.glob(f"*-{worker.process.pid if worker else '*'}"))


def test_what_runs_is_finished_and_what_waits_runs_elsewhere(programs: Programs, tmp_path: Path) -> None:
    folder = tmp_path / "held"
    folder.mkdir()
    scheduler, address = programs.scheduler()
    leaving = programs.worker(address, "--nworkers", "2", "--name", "leaving")
    with minidask.Client(address) as client:
        client.wait_for_workers(2)
        futures = client.map(held, [folder] * 8, range(8))
        wait_until(lambda: len(begun(folder)) == 2, "two tasks ran")
        leaving.send(signal.SIGTERM)
        wait_until(lambda: client.slots() == 0, "the cluster knew that it takes nothing new")
        assert leaving.process.poll() is None
        staying = programs.worker(address, "--nworkers", "1", "--name", "staying")
        wait_until(lambda: len(begun(folder)) == 3, "another one ran elsewhere")
        (folder / "gate").touch()
        assert client.gather(futures) == list(range(8))
        assert leaving.exit_code(10) == 0
        assert len(begun(folder, leaving)) == 2
        assert begun(folder) == list(range(8))
        assert {future.worker for future in futures} == {"leaving", "staying"}
        assert len(begun(folder, staying)) == 6
    assert "Traceback" not in leaving.text + scheduler.text


def test_a_large_result_is_delivered_before_the_worker_ends(programs: Programs, tmp_path: Path) -> None:
    _, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as client:
        future = client.submit(held, tmp_path, 1, lambda: np.arange(4_000_000))
        wait_until(lambda: begun(tmp_path), "the task ran")
        worker.send(signal.SIGTERM)
        worker.wait_for("draining")
        (tmp_path / "gate").touch()
        np.testing.assert_array_equal(future.result(20), np.arange(4_000_000))
        assert worker.exit_code(10) == 0


def test_a_worker_that_drains_still_serves_its_data(programs: Programs, tmp_path: Path) -> None:
    _, address = programs.scheduler()
    leaving = programs.worker(address, "--nworkers", "1", "--name", "leaving")
    data = np.arange(2_000_000)
    with minidask.Client(address) as client:
        handle = client.scatter(data)
        assert client.submit(np.sum, handle).result(20) == data.sum()
        busy = client.submit(held, tmp_path, 1)
        wait_until(lambda: begun(tmp_path), "the task ran")
        leaving.send(signal.SIGTERM)
        wait_until(lambda: client.slots() == 0, "the cluster knew that it takes nothing new")
        programs.worker(address, "--nworkers", "1", "--name", "staying")
        total = client.submit(np.sum, handle)
        assert total.result(20) == data.sum()
        assert total.worker == "staying"
        (tmp_path / "gate").touch()
        assert busy.result(20) == 1
        assert leaving.exit_code(10) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_now_and_the_task_runs_elsewhere(
    second: signal.Signals, programs: Programs, tmp_path: Path
) -> None:
    _, address = programs.scheduler()
    leaving = programs.worker(address, "--nworkers", "1", "--name", "leaving")
    with minidask.Client(address) as client:
        future = client.submit(held, tmp_path, 1)
        wait_until(lambda: begun(tmp_path), "the task ran")
        leaving.send(signal.SIGTERM)
        leaving.wait_for("draining")
        leaving.send(second)
        assert leaving.exit_code(10) == 0
        programs.worker(address, "--nworkers", "1", "--name", "staying")
        wait_until(lambda: begun(tmp_path) == [1, 1], "it was begun again")
        (tmp_path / "gate").touch()
        assert future.result(20) == 1
        assert future.worker == "staying"


def test_an_idle_worker_ends_at_once(programs: Programs) -> None:
    _, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "2")
    with minidask.Client(address) as client:
        client.wait_for_workers(2)
        assert client.gather(client.map(abs, range(-20, 0))) == list(range(20, 0, -1))
        wait_until(lambda: at_rest(client), "the cluster was at rest")
        worker.send(signal.SIGTERM)
        assert worker.exit_code(10) == 0
        wait_until(lambda: not client.nthreads(), "it had left")


def test_without_a_scheduler_there_is_nothing_to_wait_for(programs: Programs) -> None:
    scheduler, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "1")
    scheduler.send(signal.SIGKILL)
    worker.wait_for("trying again")
    worker.send(signal.SIGTERM)
    assert worker.exit_code(10) == 0


def test_the_loss_of_the_scheduler_ends_a_worker_that_drains(programs: Programs, tmp_path: Path) -> None:
    scheduler, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as client:
        _task = client.submit(held, tmp_path, 1)
        wait_until(lambda: begun(tmp_path), "the task ran")
        worker.send(signal.SIGTERM)
        worker.wait_for("draining")
        scheduler.send(signal.SIGKILL)
        assert worker.exit_code(10) == 0


def test_tasks_that_wait_while_the_last_worker_drains_fail_in_the_end(programs: Programs, tmp_path: Path) -> None:
    _, address = programs.scheduler("--no-workers-timeout", "1")
    worker = programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as client:
        runs, waits = client.map(held, [tmp_path] * 2, range(2))
        wait_until(lambda: begun(tmp_path), "the first ran")
        worker.send(signal.SIGTERM)
        with pytest.raises(minidask.errors.NoWorkersError):
            waits.result(20)
        (tmp_path / "gate").touch()
        assert runs.result(20) == 0
        assert worker.exit_code(10) == 0


def test_the_help_tells_of_signals() -> None:
    import subprocess

    text = subprocess.run([sys.executable, "-m", "minidask.worker", "--help"], capture_output=True, text=True).stdout
    assert "SIGTERM" in text and "SIGINT" in text
