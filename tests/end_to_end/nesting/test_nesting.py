"""Tasks that submit tasks and wait for them: at any depth, on any number of workers, nothing lost, nothing stuck."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed

import minidask
from minidask import errors
from tests.helpers import Programs, wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=[(1, True), (2, True), (8, True), (1, False), (2, False), (8, False)], ids=str)
def any_client(request: pytest.FixtureRequest, clusters: Callable[..., minidask.Client]) -> minidask.Client:
    return clusters(*request.param)


def backend(client: minidask.Client) -> joblib.parallel_config:
    return joblib.parallel_config("minidask", scheduler=client)


def leaves(depth: int, return_as: str = "list") -> int:
    if not depth:
        return 1
    calls = Parallel(n_jobs=2, return_as=return_as, batch_size=1)(
        delayed(leaves)(depth - 1, return_as) for _ in range(3)
    )
    return sum(calls)


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_four_levels_of_calls(any_client: minidask.Client, return_as: str) -> None:
    with backend(any_client):
        assert leaves(4, return_as) == 81
    wait_until(lambda: any_client.scheduler_info()["tasks"]["running"] == 0, "nothing was left")
    assert [client["running"] for client in any_client.scheduler_info()["clients"]] == [0]


@pytest.mark.parametrize(("workers", "processes"), [(2, True), (2, False)])
def test_searches_over_what_is_parallel_itself(
    workers: int, processes: bool, clusters: Callable[..., minidask.Client]
) -> None:
    from sklearn.datasets import make_classification
    from sklearn.ensemble import BaggingClassifier, RandomForestClassifier, StackingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.tree import DecisionTreeClassifier

    X, y = make_classification(200, 8, random_state=0)

    def results(n_jobs: int | None) -> Any:
        forest = RandomForestClassifier(10, random_state=0, n_jobs=n_jobs)
        search = GridSearchCV(forest, {"max_depth": [2, 4]}, n_jobs=n_jobs, cv=3).fit(X, y)
        bagging = BaggingClassifier(DecisionTreeClassifier(random_state=0), 5, random_state=0, n_jobs=n_jobs)
        stack = StackingClassifier([("bag", bagging), ("line", LogisticRegression())], cv=3, n_jobs=n_jobs)
        return search.cv_results_["mean_test_score"].tolist(), cross_val_score(
            stack, X, y, cv=3, n_jobs=n_jobs
        ).tolist()

    with backend(clusters(workers, processes)):
        assert results(-1) == results(1)


@pytest.mark.parametrize("through_joblib", [True, False])
def test_tasks_within_tasks_use_idle_workers_and_count_for_their_client(tmp_path: Path, through_joblib: bool) -> None:
    def inner(number: int) -> int:
        (tmp_path / f"{os.getpid()}").touch()
        wait_until(lambda: len(list(tmp_path.iterdir())) == 3, "tasks ran on three workers")
        return number

    def outer() -> list[int]:
        return list(Parallel(n_jobs=-1, batch_size=1)(delayed(inner)(i) for i in range(6)))

    with minidask.Client(n_workers=3) as client, backend(client):
        done = Parallel(n_jobs=2)([delayed(outer)()])[0] if through_joblib else client.submit(outer).result()
        assert done == list(range(6))
        (told,) = client.scheduler_info()["clients"]
        assert told["queued"] == told["running"] == 0


def test_without_n_jobs_calls_within_a_task_stay_inside_it(client: minidask.Client) -> None:
    def inner() -> set[int]:
        return set(Parallel()(delayed(os.getpid)() for _ in range(4)))

    with backend(client):
        assert all(len(pids) == 1 for pids in Parallel(n_jobs=2)(delayed(inner)() for _ in range(4)))


def test_shared_memory_and_threads_mean_what_joblib_says(client: minidask.Client) -> None:
    def inner(**hints: str) -> tuple[int, int]:
        seen: list[int] = []

        def note(number: int) -> int:
            seen.append(number)
            return os.getpid()

        return len(set(Parallel(n_jobs=2, **hints)(delayed(note)(i) for i in range(4)))), len(seen)

    with backend(client):
        assert Parallel(n_jobs=2)(delayed(inner)(require="sharedmem") for _ in range(2)) == [(1, 4)] * 2
        for pids, _ in Parallel(n_jobs=2)(delayed(inner)(prefer="threads") for _ in range(2)):
            assert pids in (1, 2)


def test_the_client_of_a_task(any_client: minidask.Client) -> None:
    def tree(depth: int) -> list[int]:
        client = minidask.get_client()
        if not depth:
            return [0]
        futures = [client.submit(tree, depth - 1) for _ in range(2)]
        gathered = client.gather(futures)
        futures = client.map(abs, range(-3, 0))
        done, waiting = concurrent.futures.wait(futures)
        assert len(done) == 3 and not waiting
        futures = client.map(abs, range(-3, 0))
        assert sorted(future.result() for future in concurrent.futures.as_completed(futures)) == [1, 2, 3]
        return [depth, *(number for part in gathered for number in part)]

    results = any_client.gather([any_client.submit(tree, 2) for _ in range(3)])
    assert results == [[2, 1, 0, 0, 1, 0, 0]] * 3


def test_a_lent_slot_runs_its_own_tasks_only(one_worker: minidask.Client, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def write(text: str) -> None:
        with log.open("a") as file:
            file.write(text)

    def outer(name: str) -> None:
        write(f"{name}(")
        minidask.get_client().gather(minidask.get_client().map(write, [name] * 3))
        write(")")

    one_worker.gather(one_worker.map(outer, "ab"))
    assert log.read_text() == "a(aaa)b(bbb)"


def test_several_threads_of_a_task_wait_at_once(any_client: minidask.Client) -> None:
    def outer() -> list[int]:
        results: dict[int, int] = {}

        def wait(number: int) -> None:
            results[number] = client.submit(abs, -number).result(60)

        client = minidask.get_client()
        threads = [threading.Thread(target=wait, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(results.values())

    assert any_client.submit(outer).result(60) == [0, 1, 2, 3]


def test_what_a_task_has_submitted_ends_with_it(client: minidask.Client, tmp_path: Path) -> None:
    def sleep() -> None:
        (tmp_path / "started").touch()
        time.sleep(60)

    def leave() -> int:
        futures = minidask.get_client().map(lambda _: sleep(), range(5))
        wait_until((tmp_path / "started").exists, "a child ran")
        return len(futures)

    assert client.submit(leave).result(30) == 5
    wait_until(lambda: client.scheduler_info()["tasks"] | {"finished": 0} == IDLE, "its children were stopped")


IDLE = {"queued": 0, "running": 0, "finished": 0}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_parent_that_is_cancelled_takes_its_descendants_with_it(
    workers: int, tmp_path: Path, clusters: Callable[..., minidask.Client]
) -> None:
    def grandchild(number: int) -> None:
        (tmp_path / f"{number}").touch()
        time.sleep(60)

    def child() -> None:
        minidask.get_client().gather(minidask.get_client().map(grandchild, range(5)))

    def parent() -> None:
        minidask.get_client().submit(child).result()

    client = clusters(workers)
    future = client.submit(parent)
    wait_until(lambda: len(list(tmp_path.iterdir())) >= 1, "a grandchild ran")
    client.cancel(future, force=True)
    wait_until(lambda: client.scheduler_info()["tasks"] | {"finished": 0} == IDLE, "all were stopped")
    assert client.submit(abs, -1).result(10) == 1


def test_a_parent_that_dies_takes_its_descendants_with_it_and_is_tried_again(
    tmp_path: Path, client: minidask.Client
) -> None:
    def child() -> None:
        (tmp_path / "child").touch()
        time.sleep(60)

    def parent() -> int:
        if (tmp_path / "again").exists():
            return 7
        (tmp_path / "again").touch()
        minidask.get_client().submit(child)
        wait_until((tmp_path / "child").exists, "the child ran")
        os._exit(3)

    assert client.submit(parent).result(30) == 7
    wait_until(lambda: client.scheduler_info()["tasks"] | {"finished": 0} == IDLE, "the child was stopped")


@pytest.mark.parametrize(("workers", "parents"), [(1, 1), (2, 1), (2, 2)])
def test_a_child_that_kills_its_process_is_to_blame_wherever_it_runs(
    workers: int, parents: int, clusters: Callable[..., minidask.Client]
) -> None:
    """With all slots taken it runs on top of its parent, whose process it ends too."""

    def parent(depth: int) -> str:
        client = minidask.get_client()
        if depth:
            return str(client.submit(parent, depth - 1).result())
        try:
            client.submit(os._exit, 1).result()
        except errors.KilledWorker as error:
            return str(error)
        return ""

    client = clusters(workers)
    for text in client.gather([client.submit(parent, depth) for depth in range(parents)]):
        assert text.startswith("task '_exit': it was tried 3 times") and text.count("exit code 1") == 3
    assert client.submit(abs, -2).result(30) == 2


def test_a_child_in_its_parents_slot_that_takes_too_long(one_worker: minidask.Client) -> None:
    def parent() -> str:
        client = minidask.get_client()
        slow = client.submit(time.sleep, 60, timeout=0.2)
        with pytest.raises(errors.TaskTimeout, match="time limit"):
            slow.result()
        return str(client.submit(abs, -3).result())

    assert one_worker.submit(parent).result(30) == "3"


def test_errors_of_children_reach_their_parents(any_client: minidask.Client) -> None:
    def inner(number: int) -> int:
        return 1 // number

    def outer() -> int:
        with pytest.raises(ZeroDivisionError):
            Parallel(n_jobs=2)(delayed(inner)(i) for i in range(3, -1, -1))
        return sum(Parallel(n_jobs=2)(delayed(inner)(1) for _ in range(3)))

    with backend(any_client):
        assert Parallel(n_jobs=2)(delayed(outer)() for _ in range(3)) == [3] * 3


def test_a_generator_that_is_given_up_half_way(any_client: minidask.Client) -> None:
    def outer() -> int:
        results = Parallel(n_jobs=2, batch_size=1, return_as="generator")(delayed(abs)(-i) for i in range(50))
        first = next(results) + next(results)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib's, of results that are not used
            results.close()
        return int(first)

    with backend(any_client):
        assert Parallel(n_jobs=2)(delayed(outer)() for _ in range(3)) == [1] * 3


def test_large_data_goes_on_to_children_and_back(client: minidask.Client) -> None:
    def inner(array: np.ndarray[Any, Any], number: int) -> np.ndarray[Any, Any]:
        return np.asarray(array * number)

    def outer(array: np.ndarray[Any, Any]) -> float:
        return float(sum(part.sum() for part in Parallel(n_jobs=2)(delayed(inner)(array, i) for i in range(4))))

    with backend(client):
        assert Parallel(n_jobs=2)(delayed(outer)(np.ones(1 << 18)) for _ in range(2)) == [6.0 * (1 << 18)] * 2


def test_what_children_print_reaches_the_screen(client: minidask.Client, capfd: pytest.CaptureFixture[str]) -> None:
    def outer() -> None:
        minidask.get_client().submit(print, "from within").result()

    client.submit(outer).result()
    wait_until(lambda: "from within" in capfd.readouterr().out, "it was printed")


def test_a_fork_of_a_task_has_no_part_in_its_slot(client: minidask.Client) -> None:
    def outer() -> tuple[int, int]:
        number = minidask.get_client().submit(abs, -1).result()
        pid = os.fork()
        if not pid:
            try:
                minidask.get_client()
            except errors.MinidaskError:
                os._exit(7)
            os._exit(1)
        return number, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert client.submit(outer).result(30) == (1, 7)


def test_between_machines(programs: Programs) -> None:
    def inner(array: np.ndarray[Any, Any], number: int) -> np.ndarray[Any, Any]:
        return np.asarray(array * number)

    def outer(array: np.ndarray[Any, Any]) -> float:
        calls = (delayed(inner)(array, i) for i in range(4))
        return float(sum(part.sum() for part in Parallel(n_jobs=-1, return_as="generator", batch_size=1)(calls)))

    _, address = programs.scheduler("--host", "127.0.0.1")
    for name in "ab":
        programs.worker(address, "--nworkers", "2", "--name", name)
    with minidask.Client(address) as client, backend(client):
        client.wait_for_workers(4)
        assert Parallel(n_jobs=-1)(delayed(outer)(np.ones(1 << 18)) for _ in range(6)) == [6.0 * (1 << 18)] * 6
        assert leaves(4) == 81
