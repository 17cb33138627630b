"""Tasks that need resources, on daemons and on a local cluster: they never overlap beyond what there is."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from operator import neg
from pathlib import Path

import joblib
import pytest

import minidask
from tests.helpers import Programs, at_rest, wait_until

GPU = {"gpu": 1}


@contextlib.contextmanager
def the_only_one(folder: str) -> Iterator[None]:
    """Fail if another one is in such a block: each of them has the GPU for itself."""
    lock = os.path.join(folder, "gpu")
    os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    try:
        yield
    finally:
        os.unlink(lock)


def alone(folder: str, i: int) -> tuple[int, int]:
    with the_only_one(folder):
        time.sleep(0.05)
    return -i, os.getppid()


def alone_for_long(folder: str, done: str) -> int:
    with the_only_one(folder):
        Path(done + ".began").touch()
        deadline = time.monotonic() + 60
        while not os.path.exists(done) and time.monotonic() < deadline:
            time.sleep(0.01)
    return 1


def dies_once(folder: str) -> int:
    mark = os.path.join(folder, "died")
    if not os.path.exists(mark):
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with the_only_one(folder):
        return 7


def submits_one_that_needs_it_too(folder: str) -> int:
    return minidask.get_client().submit(alone, folder, 5, resources=GPU).result()[0]


def parallel_on_the_gpu(folder: str) -> list[int]:
    with joblib.parallel_config("minidask", resources=GPU):
        return [value for value, _ in joblib.Parallel(n_jobs=3)(joblib.delayed(alone)(folder, i) for i in range(3))]


@pytest.fixture
def cluster(programs: Programs) -> Iterator[minidask.Client]:
    """Two machines, of which one has a GPU."""
    _, address = programs.scheduler()
    programs.worker(address, "--name", "plain", "--nworkers", "2")
    programs.worker(address, "--name", "gpu", "--nworkers", "3", "--resources", "gpu=1,big=0.5")
    with minidask.Client(address) as client:
        client.wait_for_workers(5)
        yield client


def test_tasks_share_a_gpu_one_after_the_other_on_the_machine_that_has_it(
    cluster: minidask.Client, tmp_path: Path
) -> None:
    futures = cluster.map(alone, [str(tmp_path)] * 6, range(6), resources=GPU)
    others = cluster.map(neg, range(50))
    assert cluster.gather(others) == [-i for i in range(50)]
    found = cluster.gather(futures)
    assert [value for value, _ in found] == [-i for i in range(6)]
    machines = {machine["name"]: machine for machine in cluster.scheduler_info()["machines"]}
    assert {daemon for _, daemon in found} == {machines["gpu"]["pid"]}
    assert machines["gpu"]["resources"] == {"gpu": 1, "big": 0.5} and machines["plain"]["resources"] == {}


def test_parallel_calls_that_need_it(cluster: minidask.Client, tmp_path: Path) -> None:
    folder = str(tmp_path)
    for n_jobs in (-1, 2, 1):
        with joblib.parallel_config("minidask", scheduler=cluster, resources=GPU):
            found = joblib.Parallel(n_jobs=n_jobs)(joblib.delayed(alone)(folder, i) for i in range(4))
        assert [value for value, _ in found] == [0, -1, -2, -3]
        assert os.getppid() not in {daemon for _, daemon in found}, "with n_jobs=1, too, they run where the GPU is"


def test_what_nobody_has_is_explained_and_begins_when_it_comes(
    cluster: minidask.Client, programs: Programs, tmp_path: Path
) -> None:
    future = cluster.submit(neg, 2, resources={"gpu": 2})
    assert "no worker has gpu=2; the most that one has: gpu=1" in cluster.explain(future)
    assert cluster.submit(neg, 1, resources=GPU).result(20) == -1, "others go past it"
    programs.worker(cluster.address, "--nworkers", "1", "--resources", "gpu=2")
    assert future.result(20) == -2


def test_a_slot_that_dies_and_a_task_that_is_stopped_give_back_what_they_hold(
    cluster: minidask.Client, tmp_path: Path
) -> None:
    folder, done = str(tmp_path), str(tmp_path / "done")
    assert cluster.submit(dies_once, folder, resources=GPU).result(30) == 7
    long = cluster.submit(alone_for_long, folder, done, resources=GPU)
    wait_until(lambda: os.path.exists(done + ".began"), "the long one began")
    waits = cluster.submit(alone, folder, 1, resources=GPU)
    assert "gpu=1 is not free on machine gpu" in cluster.explain(waits)
    cluster.cancel(long, force=True)
    assert waits.result(30)[0] == -1


def test_a_machine_that_is_lost_takes_nothing_along(programs: Programs, tmp_path: Path) -> None:
    _, address = programs.scheduler("--heartbeat-timeout", "2")
    first = programs.worker(address, "--nworkers", "1", "--resources", "gpu=1")
    with minidask.Client(address) as client:
        future = client.submit(alone_for_long, str(tmp_path), str(tmp_path / "done"), resources=GPU)
        wait_until(lambda: (tmp_path / "done.began").exists(), "it began")
        first.send(signal.SIGKILL)
        first.exit_code()
        (tmp_path / "gpu").unlink(missing_ok=True)  # it died with its lock
        (tmp_path / "done").touch()
        programs.worker(address, "--nworkers", "1", "--resources", "gpu=1")
        assert future.result(30) == 1


def test_what_runs_when_the_scheduler_is_lost_still_holds_its_gpu(programs: Programs, tmp_path: Path) -> None:
    scheduler, address = programs.scheduler()
    programs.worker(address, "--nworkers", "2", "--resources", "gpu=1")
    folder, done = str(tmp_path), str(tmp_path / "done")
    with minidask.Client(address) as client:
        long = client.submit(alone_for_long, folder, done, resources=GPU)
        wait_until(lambda: os.path.exists(done + ".began"), "it began")
        waits = client.submit(alone, folder, 1, resources=GPU)
        scheduler.send(signal.SIGKILL)
        scheduler.exit_code()
        port = address.rpartition(":")[2]
        programs.start(sys.executable, "-m", "minidask.scheduler", "--port", port).wait_for("listens on")
        assert client.submit(neg, 3).result(30) == -3, "the second slot works for others"
        wait_until(lambda: "gpu=1 is not free" in client.explain(waits), "the GPU is held again")
        assert "attempt 1" in client.explain(long)
        Path(done).touch()
        assert long.result(30) == 1
        assert waits.result(30)[0] == -1


def test_a_task_within_a_task_has_what_that_one_holds(cluster: minidask.Client, tmp_path: Path) -> None:
    assert cluster.submit(submits_one_that_needs_it_too, str(tmp_path)).result(30) == -5
    holder = cluster.submit(minidask_holder, str(tmp_path), resources=GPU)
    assert holder.result(30) == -5
    assert cluster.submit(parallel_on_the_gpu, str(tmp_path)).result(30) == [0, -1, -2]


def minidask_holder(folder: str) -> int:
    """It has the GPU, and waits for a task that needs it: that one runs on top of it."""
    return submits_one_that_needs_it_too(folder)


@pytest.mark.parametrize("processes", [True, False])
def test_a_local_cluster_with_resources_beside_a_parallel_call(processes: bool, tmp_path: Path) -> None:
    """The call has leases on all slots; a task that needs the GPU gets one back, and the GPU for itself."""
    folder = str(tmp_path)
    with minidask.Client(n_workers=2, processes=processes, resources=GPU) as client:
        running = threading.Event()

        def search() -> None:
            with joblib.parallel_config("minidask", scheduler=client):
                calls = joblib.Parallel(n_jobs=2, return_as="generator")(
                    joblib.delayed(time.sleep)(0.01) for _ in range(100)
                )
                for _ in calls:
                    running.set()

        thread = threading.Thread(target=search)
        thread.start()
        assert running.wait(30)
        futures = client.map(alone, [folder] * 5, range(5), resources=GPU)
        assert [value for value, _ in client.gather(futures)] == [0, -1, -2, -3, -4]
        with joblib.parallel_config("minidask", scheduler=client, resources=GPU):
            found = joblib.Parallel(n_jobs=2)(joblib.delayed(alone)(folder, i) for i in range(4))
        assert [value for value, _ in found] == [0, -1, -2, -3]
        thread.join(60)
        assert not thread.is_alive()
        wait_until(lambda: at_rest(client), "all is over")
