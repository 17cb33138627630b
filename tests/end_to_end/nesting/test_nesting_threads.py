"""Tasks within tasks at their edges: threads of tasks, calls in lent slots, clients that tasks close, limits."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_config

import minidask
from minidask import errors
from tests.helpers import Programs, wait_until

pytestmark = pytest.mark.timeout(120)
SECONDS = 30


@pytest.fixture(params=[(1, True), (2, True), (1, False), (2, False)], ids=str)
def few_workers(request: pytest.FixtureRequest, clusters: Callable[..., minidask.Client]) -> minidask.Client:
    return clusters(*request.param)


def same(value: int) -> int:
    return value


def in_threads() -> list[int]:
    """What threads of a task submit, and wait for."""
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda i: minidask.get_client().submit(same, i).result(), range(6)))


def calls_in_threads() -> list[int]:
    """`Parallel` in threads of a task. joblib's configuration is a thread's own, and would be loky there."""

    def total(first: int) -> int:
        with parallel_config("minidask"):
            return sum(Parallel(n_jobs=2)(delayed(same)(i) for i in range(first, first + 3)))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(total, range(4)))


def calls_that_wait_in_threads() -> list[int]:
    """One thread of the task runs what the other ones, too, wait for; and that waits itself."""
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda i: minidask.get_client().submit(within, one).result(), range(3)))


def one() -> int:
    time.sleep(0.05)
    return 1


def iterable_that_waits_for_another_thread() -> list[int]:
    items: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    for item in range(4):
        items.put(item)
    results: list[int] = []

    def consume() -> None:
        calls = (delayed(same)(item) for item in iter(items.get, None))
        with parallel_config("minidask"):
            results.extend(Parallel(n_jobs=2, pre_dispatch=2, batch_size=1)(calls))

    thread = threading.Thread(target=consume)
    thread.start()
    items.put(sum(minidask.get_client().gather([minidask.get_client().submit(one) for _ in range(2)])))
    items.put(None)
    thread.join()
    return results


def within(function: Any) -> Any:
    return minidask.get_client().submit(function).result()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (in_threads, [*range(6)]),
        (calls_in_threads, [3, 6, 9, 12]),
        (calls_that_wait_in_threads, [1, 1, 1]),
        (iterable_that_waits_for_another_thread, [0, 1, 2, 3, 2]),
    ],
)
def test_threads_of_tasks_wait_for_tasks_of_theirs(few_workers: minidask.Client, function: Any, expected: Any) -> None:
    client = few_workers
    futures = [client.submit(function) for _ in range(2)] + [client.submit(within, function) for _ in range(2)]
    assert [future.result(SECONDS) for future in futures] == [expected] * 4
    wait_until(lambda: client.scheduler_info()["tasks"]["running"] == 0, "nothing was left")


def test_a_thread_belongs_to_the_task_that_has_started_it(one_worker: minidask.Client) -> None:
    def guest() -> list[int]:
        return minidask.task.context.current_slot().call  # type: ignore[union-attr]

    def task() -> bool:
        numbers = []

        def work() -> None:
            numbers.append(minidask.task.context.current_slot().call)  # type: ignore[union-attr]
            numbers.append(minidask.get_client().submit(guest).result())
            numbers.append(minidask.task.context.current_slot().call)  # type: ignore[union-attr]

        own = minidask.task.context.current_slot().call  # type: ignore[union-attr]
        thread = threading.Thread(target=work)
        thread.start()
        minidask.get_client().submit(guest).result()
        thread.join()
        return numbers[0] == numbers[2] == own != numbers[1]

    assert one_worker.submit(task).result(SECONDS)


def test_calls_that_a_guest_shares_are_its_own(tmp_path: Path) -> None:
    """So that its slot, too, runs those that nobody has taken: else the guest would only wait."""

    def job(number: int) -> int:
        time.sleep(0.05)
        return os.getpid()

    def guest() -> tuple[int, list[int]]:
        wait_until(lambda: (tmp_path / "free").exists(), "the other slot was to be free")
        return os.getpid(), Parallel(n_jobs=-1, batch_size=1, pre_dispatch="all")(delayed(job)(i) for i in range(20))

    def blocker() -> None:
        wait_until(lambda: (tmp_path / "guest").exists(), "the guest ran")
        (tmp_path / "free").touch()

    def host() -> tuple[int, list[int]]:
        (tmp_path / "guest").touch()
        return minidask.get_client().submit(guest).result()

    with minidask.Client(n_workers=2) as client:
        blocked = client.submit(blocker)
        own, pids = client.submit(host).result(SECONDS)
        blocked.result(SECONDS)
    assert set(pids) > {own} or pids.count(own) == len(pids)
    assert pids.count(own) >= 5


def test_a_time_limit_in_a_lent_slot_leaves_the_parent_in_peace_whatever_was_imported(
    one_worker: minidask.Client,
) -> None:
    def slow() -> None:
        import ftplib  # noqa: F401
        import sqlite3  # noqa: F401

        while True:
            time.sleep(0.01)

    def parent() -> int:
        with pytest.raises(errors.TaskTimeout):
            minidask.get_client().submit(slow, timeout=0.5).result()
        return os.getpid()

    assert len({one_worker.submit(parent).result(SECONDS) for _ in range(2)}) == 1


def test_a_stop_reaches_the_thread_that_runs_the_call(one_worker: minidask.Client) -> None:
    def slow() -> None:
        while True:
            time.sleep(0.01)

    def parent() -> str:
        client, caught = minidask.get_client(), []

        def wait_for_it() -> None:
            try:
                client.submit(slow, timeout=0.3).result()
            except errors.TaskTimeout:
                caught.append("a timeout")

        thread = threading.Thread(target=wait_for_it)
        thread.start()
        while thread.is_alive():
            time.sleep(0.01)
        return caught[0]

    assert one_worker.submit(parent).result(SECONDS) == "a timeout"


def test_a_done_callback_works_for_the_call_that_has_submitted(one_worker: minidask.Client) -> None:
    def child() -> bool:
        client, parents, called = minidask.get_client(), [], threading.Event()

        def callback(future: Any) -> None:
            parents.append(minidask.get_client().shell.parent())
            called.set()

        client.submit(one).add_done_callback(callback)
        while not called.wait(0.01):
            client.submit(same, 1).result()
        return parents == [client.shell.parent()]

    def parent() -> bool:
        return minidask.get_client().submit(same, 1).result() == 1 and within(child)

    assert one_worker.submit(parent).result(SECONDS)


def test_two_clients_of_a_task_hold_data_each_for_itself(one_worker: minidask.Client) -> None:
    def task(address: str) -> float:
        array = np.arange(300_000.0)
        first = minidask.get_client()
        with minidask.Client(address) as second:
            handles = first.scatter(array), second.scatter(array)
            handles[0].release()
            first.shell.release_dropped()
            held = set(os.listdir(second.shell.store.folder))  # type: ignore[union-attr]
            handles[1].release()
            second.shell.release_dropped()
            return len(held - set(os.listdir(second.shell.store.folder)))  # type: ignore[union-attr]

    assert one_worker.submit(task, one_worker.address).result(SECONDS) == 1


def test_a_client_that_a_task_closes_stays_for_the_others(one_worker: minidask.Client) -> None:
    def child() -> int:
        with minidask.get_client() as client:
            return client.submit(same, 5).result()

    def parent() -> int:
        return minidask.get_client().submit(child).result() + minidask.get_client().submit(child).result()

    assert one_worker.submit(parent).result(SECONDS) == 10


@pytest.mark.parametrize("through_joblib", [True, False])
def test_a_task_may_name_its_own_cluster(through_joblib: bool, one_worker: minidask.Client) -> None:
    def task(address: str) -> list[int]:
        if through_joblib:
            with joblib.parallel_config("minidask", scheduler=address):
                return list(Parallel(n_jobs=2)(delayed(same)(i) for i in range(4)))
        with minidask.Client(address) as client:
            return client.gather(client.map(same, range(4)))

    futures = [one_worker.submit(task, one_worker.address) for _ in range(2)]
    assert [future.result(SECONDS) for future in futures] == [[0, 1, 2, 3]] * 2


def test_tasks_on_two_machines_that_run_something_on_both(programs: Programs, tmp_path: Path) -> None:
    def task(number: int) -> int:
        (tmp_path / f"{number}").touch()
        wait_until(lambda: (tmp_path / f"{1 - number}").exists(), "both ran")
        return len(minidask.get_client().run(os.getpid))

    _, address = programs.scheduler()
    for _ in range(2):
        programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as client:
        client.wait_for_workers(2, SECONDS)
        assert [future.result(SECONDS) for future in client.map(task, range(2))] == [2, 2]


def test_a_worker_that_drains_finishes_tasks_that_are_about_to_nest(programs: Programs, tmp_path: Path) -> None:
    def task() -> list[int]:
        (tmp_path / "runs").touch()
        wait_until(lambda: (tmp_path / "drains").exists(), "the worker drains")
        return list(Parallel(n_jobs=2)(delayed(same)(i) for i in range(3)))

    _, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as client:
        client.wait_for_workers(1, SECONDS)
        future = client.submit(task)
        wait_until(lambda: (tmp_path / "runs").exists(), "the task ran")
        worker.process.terminate()
        wait_until(lambda: client.slots() == 0, "the worker drains")
        (tmp_path / "drains").touch()
        assert future.result(SECONDS) == [0, 1, 2]


def test_never_more_than_n_jobs_calls_at_once_with_those_that_run_in_the_task(tmp_path: Path) -> None:
    def job(number: int) -> tuple[float, float]:
        began = time.monotonic()
        time.sleep(0.1)
        return began, time.monotonic()

    def task() -> list[tuple[float, float]]:
        calls = (delayed(job)(i) for i in range(12))
        return list(Parallel(n_jobs=2, batch_size=1, pre_dispatch="all")(calls))

    with minidask.Client(n_workers=4) as client:
        client.gather(client.map(same, range(8)))
        blockers = client.map(time.sleep, [0.25] * 3)
        spans = client.submit(task).result(SECONDS)
        client.gather(blockers)
    assert max(sum(began <= start < ended for began, ended in spans) for start, _ in spans) == 2


def test_calls_are_shared_while_the_tasks_own_code_keeps_it_from_them(tmp_path: Path, client: minidask.Client) -> None:
    def job(number: int) -> int:
        (tmp_path / f"{number}").touch()
        return os.getpid()

    def task() -> list[int]:
        def calls() -> Iterator[Any]:
            for number in range(6):
                if number == 4:
                    wait_until(lambda: len(list(tmp_path.iterdir())) >= 3, "the calls before ran elsewhere")
                yield delayed(job)(number)

        return list(Parallel(n_jobs=2, batch_size=1, pre_dispatch=4)(calls()))

    assert len(client.submit(task).result(SECONDS)) == 6


def test_a_slot_is_lent_again_after_a_callback_that_waits_itself(tmp_path: Path) -> None:
    def job(number: int) -> int:
        if number < 4:
            time.sleep(0.1)
        return os.getpid()

    def block(number: int) -> None:
        (tmp_path / f"blocked {number}").touch()
        wait_until(lambda: (tmp_path / "done").exists(), "the others are done")

    def task() -> list[int]:
        client = minidask.get_client()

        def calls() -> Iterator[Any]:
            yield from (delayed(job)(number) for number in range(12))
            client.submit(same, 1, priority=5).result()

        return list(Parallel(n_jobs=2, batch_size=1, pre_dispatch=10)(calls()))

    with minidask.Client(n_workers=3) as client:
        future = client.submit(task)
        blockers = [client.submit(block, number, priority=1) for number in range(2)]
        assert len(future.result(SECONDS)) == 12
        (tmp_path / "done").touch()
        client.gather(blockers)


@pytest.mark.parametrize("processes", [True, False])
def test_a_thread_that_a_task_leaves_behind_takes_nobodys_slot(
    processes: bool, clusters: Callable[..., minidask.Client]
) -> None:
    def leave_a_thread() -> None:
        client = minidask.get_client()
        child = client.submit(time.sleep, 0.02)
        threading.Thread(target=wait, args=([child], 5), name="left behind", daemon=True).start()
        time.sleep(0.01)

    client = clusters(2, processes)
    blocker = client.submit(time.sleep, 3600) if processes else None
    for number in range(30):
        client.submit(leave_a_thread).result(SECONDS)
        assert client.submit(same, number).result(SECONDS) == number
    if blocker is not None:
        client.cancel(blocker, force=True)
    wait_until(lambda: not any(thread.name == "left behind" for thread in threading.enumerate()), "they ended")


def test_a_task_that_nobody_waits_for_any_more_goes_on_as_it_would(client: minidask.Client, tmp_path: Path) -> None:
    def task() -> None:
        (tmp_path / "runs").touch()
        wait_until(lambda: (tmp_path / "cancelled").exists(), "it was cancelled")
        if minidask.get_client().gather(minidask.get_client().map(same, range(3))) == [0, 1, 2]:
            (tmp_path / "went on").touch()

    future = client.submit(task)
    wait_until(lambda: (tmp_path / "runs").exists(), "the task ran")
    future.cancel()
    (tmp_path / "cancelled").touch()
    wait_until(lambda: (tmp_path / "went on").exists(), "the task came to its end")
