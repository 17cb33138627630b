"""A cluster that is shared, and one that changes: several clients, several calls, workers that join during a call."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import neg
from pathlib import Path
from typing import Any

import joblib
import psutil
import pytest
from joblib import Parallel, delayed

import minidask
from tests.helpers import Programs, wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where calls tell that they have begun: nothing else is in it."""
    made = tmp_path / "calls"
    made.mkdir()
    return made


def meet(folder: Path, number: int, count: int) -> bool:
    """Be there until so many calls have begun; whether they have."""
    (folder / str(number)).touch()
    end = time.monotonic() + 45  # new slots may take long to start on a busy machine
    while len(list(folder.iterdir())) < count and time.monotonic() < end:
        time.sleep(0.005)
    return len(list(folder.iterdir())) >= count


def meetings(folder: Path, count: int) -> Iterator[Any]:
    return (delayed(meet)(folder, number, count) for number in range(3 * count))


# --- workers that join during a call ---


def join_when_begun(folder: Path, count: int, join: Callable[[], object]) -> threading.Thread:
    """A thread in which workers join once so many calls have begun."""

    def wait() -> None:
        wait_until(lambda: len(list(folder.iterdir())) >= count, "the first calls had begun")
        join()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_a_call_fills_slots_that_come_while_it_waits(return_as: str, folder: Path) -> None:
    """joblib itself has four calls under way, twice the slots of the beginning, until one of them ends."""
    with minidask.LocalCluster(2) as cluster, minidask.Client(cluster) as client:
        joiner = join_when_begun(folder, 2, lambda: cluster.scale(6))
        with joblib.parallel_config("minidask", scheduler=client):
            assert all(Parallel(batch_size=1, return_as=return_as)(meetings(folder, 6)))
        joiner.join()
        assert not client.shell.workers.on_change


def test_a_call_fills_a_machine_that_joins(programs: Programs, folder: Path) -> None:
    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "2")
    with minidask.Client(address) as client, joblib.parallel_config("minidask", scheduler=client):
        client.wait_for_workers(2)
        joiner = join_when_begun(folder, 2, lambda: programs.worker(address, "--nworkers", "4"))
        assert all(Parallel()(meetings(folder, 6)))
        joiner.join()


def running(folder: Path, name: str, hold: Callable[[], bool] = lambda: False) -> int:
    """How many calls of this name run now, with this one."""
    mine = folder / f"{name}-{time.monotonic_ns()}"
    mine.touch()
    while hold():
        time.sleep(0.005)
    time.sleep(0.02)
    count = len(list(folder.glob(f"{name}-*")))
    mine.unlink()
    return count


@pytest.mark.parametrize("options", [{"n_jobs": 2}, {"pre_dispatch": 2}])
def test_what_the_user_has_limited_stays_limited(options: dict[str, Any], folder: Path) -> None:
    gate = folder / "gate"
    with minidask.LocalCluster(2) as cluster, minidask.Client(cluster) as client:

        def grow() -> None:
            cluster.scale(4)
            client.wait_for_workers(4)
            gate.touch()

        joiner = join_when_begun(folder, 2, grow)
        with joblib.parallel_config("minidask", scheduler=client):
            calls = (delayed(running)(folder, "call", lambda: not gate.exists()) for _ in range(20))
            assert max(Parallel(batch_size=1, **options)(calls)) == 2
        joiner.join()


# --- several clients, and several calls of one ---


def test_two_clients_with_four_threads_each_get_their_own_results(programs: Programs) -> None:
    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "2")
    programs.worker(address, "--nworkers", "1")

    def call(client: minidask.Client, number: int) -> bool:
        with joblib.parallel_config("minidask", scheduler=client):
            results = Parallel(batch_size=1 if number % 2 else "auto")(
                delayed(neg)(1000 * number + i) for i in range(500)
            )
        return bool(results == [-1000 * number - i for i in range(500)])

    with minidask.Client(address, name="first") as first, minidask.Client(address, name="second") as second:
        first.wait_for_workers(3)
        with ThreadPoolExecutor(8) as threads:
            calls = [threads.submit(call, client, number) for number in range(4) for client in (first, second)]
            assert all(call.result(50) for call in calls)
        wait_until(lambda: not any(c["running"] + c["queued"] for c in first.scheduler_info()["clients"]), "all ended")


def test_clients_are_told_apart_with_their_counts(programs: Programs, folder: Path) -> None:
    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "2")
    with minidask.Client(address, name="busy") as busy, minidask.Client(address, name="late") as late:
        futures = busy.map(meet, [folder] * 10, range(10), [3] * 10)
        wait_until(lambda: len(list(folder.iterdir())) == 2, "two of its tasks ran")
        (busy_info, late_info) = late.scheduler_info()["clients"]
        assert busy_info.items() >= {"name": "busy", "running": 2, "queued": 8}.items()
        assert late_info.items() >= {"name": "late", "running": 0, "queued": 0}.items()
        waits = late.submit(meet, folder, 99, 3)
        wait_until(lambda: late.scheduler_info()["clients"][1]["queued"] == 1, "its task waited")
        (folder / "third").touch()
        assert waits.result(20)
        assert all(busy.gather(futures))


def test_a_newcomer_is_next_however_much_another_has_queued(programs: Programs, folder: Path) -> None:
    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as many, minidask.Client(address) as few:
        holds = many.submit(meet, folder, 0, 2)
        wait_until(lambda: list(folder.iterdir()), "the first task ran")
        queued = many.map(neg, range(3000))
        wait_until(lambda: many.scheduler_info()["clients"][0]["queued"] == 3000, "all were queued")
        first = few.submit(time.monotonic_ns)
        wait_until(lambda: few.scheduler_info()["clients"][1]["queued"] == 1, "the newcomer's was, too")
        after = many.submit(time.monotonic_ns, priority=1)  # before all others of its client
        (folder / "second").touch()
        assert holds.result(20)
        assert first.result(20) < after.result(20)
        assert many.gather(queued) == [-i for i in range(3000)]


def test_n_jobs_holds_for_each_call_of_its_own(folder: Path) -> None:
    with minidask.Client(n_workers=4) as client, ThreadPoolExecutor(3) as threads:

        def call(n_jobs: int) -> int:
            with joblib.parallel_config("minidask", scheduler=client):
                calls = (delayed(running)(folder, f"of{n_jobs}") for _ in range(30))
                return max(Parallel(n_jobs=n_jobs, batch_size=1, pre_dispatch="all")(calls))

        assert [found <= n_jobs for n_jobs, found in zip((2, 3), threads.map(call, (2, 3)), strict=True)] == [
            True,
            True,
        ]


def test_what_one_client_has_changed_another_does_not_see(programs: Programs) -> None:
    def change() -> int:
        json.changed = True  # type: ignore[attr-defined]
        return os.getpid()

    def changed() -> tuple[bool, int]:
        return hasattr(json, "changed"), os.getpid()

    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "1", "--fresh-slots")
    with minidask.Client(address) as one:
        pid = one.submit(change).result(20)
        assert one.submit(changed).result(20) == (True, pid)
        with minidask.Client(address) as two:
            seen, other = two.submit(changed).result(20)
            assert not seen and other != pid
            assert len(two.gather(two.map(abs, range(50)))) == 50
        again = one.submit(changed).result(20)
        assert not again[0]
        wait_until(lambda: one.nthreads() and sum(one.nthreads().values()) == 1, "there was one slot again")


# --- a client that is stopped ---

READS_NOTHING = """
import sys, minidask

def result(i):
    return bytes([i % 256]) * 900_000

client = minidask.Client(sys.argv[1])
futures = client.map(result, range(400))
print("all submitted", flush=True)
assert all(future.result() == result(i) for i, future in enumerate(futures))
print("all is right", flush=True)
"""


def test_results_for_a_client_that_reads_nothing_do_not_pile_up_and_others_go_on(programs: Programs) -> None:
    """It was stopped with Ctrl-Z, say. When it goes on, so do its tasks."""
    scheduler, address = programs.scheduler()
    programs.worker(address, "--nworkers", "2")
    memory = psutil.Process(scheduler.process.pid).memory_info
    before = memory().rss
    program = programs.script(READS_NOTHING, address)
    with minidask.Client(address) as client:
        program.wait_for("all submitted")
        program.send(signal.SIGSTOP)
        try:
            wait_until(lambda: not client.scheduler_info()["tasks"]["running"], "no task ran any more")
            assert client.scheduler_info()["tasks"]["queued"] > 100
            assert memory().rss - before < 150 << 20
            assert client.submit(neg, 1).result(30) == -1
        finally:
            program.send(signal.SIGCONT)
        program.wait_for("all is right")
