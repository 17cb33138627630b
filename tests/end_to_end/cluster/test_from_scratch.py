"""The examples that follow `docs/protocol.md` alone: a client for Node.js, a worker, a scheduler."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import pytest
from scipy.stats import loguniform
from sklearn.datasets import load_digits
from sklearn.model_selection import RandomizedSearchCV
from sklearn.svm import SVC

import minidask
from minidask import errors
from minidask.net.access import load_or_create_access
from tests.helpers import Programs, wait_until

EXAMPLES = Path(__file__).parents[3] / "examples"


class Cluster(NamedTuple):
    programs: Programs
    address: str
    access_file: Path

    def client(self) -> minidask.Client:
        return minidask.Client(self.address, access_file=self.access_file)


@pytest.fixture(params=["own scheduler", "scheduler from scratch"])
def cluster(programs: Programs, tmp_path: Path, request: pytest.FixtureRequest) -> Cluster:
    """A scheduler, and the worker of the example."""
    access_file = tmp_path / "cluster" / "access"
    load_or_create_access(access_file)
    if request.param == "own scheduler":
        _, address = programs.scheduler("--access-file", str(access_file))
    else:
        scheduler = programs.start(sys.executable, str(EXAMPLES / "scheduler_from_scratch.py"), str(access_file))
        address = scheduler.wait_for("listens on").split("listens on ")[1].split(",")[0]
    worker = programs.start(sys.executable, str(EXAMPLES / "worker_from_scratch.py"), str(access_file))
    worker.wait_for("joined a scheduler")
    return Cluster(programs, address, access_file)


def test_a_client_for_node_computes_on_the_workers(cluster: Cluster) -> None:
    node = shutil.which("node")
    if node is None and os.getuid() != 0:
        pytest.skip("needs Node.js, which tests/run installs for root")
    assert node is not None
    client = cluster.programs.start(node, str(EXAMPLES / "client.js"), str(cluster.access_file))
    assert client.exit_code(60) == 0, client.text
    assert "pow(2, 10) = 1024, computed by from-scratch\n100 calls were right" in client.text


def test_a_search_on_a_cluster_that_is_half_from_scratch(cluster: Cluster) -> None:
    options = ("--nworkers", "1", "--name", "own", "--access-file", str(cluster.access_file))
    cluster.programs.worker(cluster.address, *options)
    X, y = load_digits(return_X_y=True)
    search = RandomizedSearchCV(SVC(), {"C": loguniform(1e-2, 1e2)}, n_iter=6, cv=3, random_state=0)
    expected = search.fit(X, y).cv_results_["mean_test_score"].tolist()
    with cluster.client() as client, joblib.parallel_config("minidask", scheduler=client):
        client.wait_for_workers(2)
        assert search.fit(X, y).cv_results_["mean_test_score"].tolist() == expected
        everywhere = [client.submit(time.sleep, 0.05 + i / 1e6) for i in range(20)]
        assert client.gather(everywhere) == [None] * 20
        assert {future.worker for future in everywhere} == {"own", "from-scratch"}


def test_what_goes_wrong_in_a_task_is_told_as_by_any_worker(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.client() as client:
        with pytest.raises(errors.KilledWorker, match="exit code 3"):
            client.submit(os._exit, 3).result(60)
        with pytest.raises(ZeroDivisionError):
            client.submit(lambda: 1 / 0).result(60)
        with pytest.raises(SystemExit):
            client.submit(sys.exit, 3).result(60)
        with pytest.raises(errors.TaskTimeout):
            client.submit(time.sleep, 60, timeout=0.3).result(60)
        begun = tmp_path / "begun"
        endless = client.submit(lambda: (begun.touch(), time.sleep(60)))
        wait_until(begun.exists, "it had begun")
        client.cancel([endless], force=True)
        assert client.submit(pow, 2, 10).result(60) == 1024


# --- the core of the scheduler from scratch ---

WORKERS, SUBMIT, OPEN_GROUP, TASK_DONE, TASK_LOST, RUN, DONE, DIED = 8, 4, 2, 9, 11, 15, 18, 20
CLIENT, ONE, TWO = 1, 2, 3


def submit(number: int, *, priority: int = 0, group: int = 0, **resources: float) -> list[Any]:
    return [number, f"task{number}", priority, None, group, None, [], [], False, resources]


@pytest.fixture
def core() -> Any:
    """A core with a client and two workers of one slot each."""
    spec = importlib.util.spec_from_file_location("scheduler_from_scratch", EXAMPLES / "scheduler_from_scratch.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    core = module.Core()
    core.joined(CLIENT, "client", {"name": "c"})
    core.joined(ONE, "worker", {"name": "one", "slots": 1})
    core.joined(TWO, "worker", {"name": "two", "slots": 1})
    return core


def runs(sent: list[Any]) -> list[tuple[int, int, int, str]]:
    """Where what begins: worker, number, attempt and name."""
    return [(peer, *header[1:3], header[4]) for peer, header, _ in sent if header[0] == RUN]


def test_a_task_that_dies_three_times_is_lost_and_another_one_is_not(core: Any) -> None:
    ((_, number, attempt, _),) = runs(core.received(CLIENT, SUBMIT, submit(1), [b"x"]))
    for _ in range(2):
        sent = core.received(ONE, DIED, [number, attempt, "signal 9", ""], [])
        ((_, number, attempt, _),) = runs(sent)
    assert attempt == 3
    ((peer, header, _),) = core.received(ONE, DIED, [number, attempt, "signal 9", ""], [])
    assert peer == CLIENT and header[:3] == [TASK_LOST, 1, "killed"]
    assert runs(core.received(CLIENT, SUBMIT, submit(2), [b"x"]))


def test_what_a_lost_worker_ran_runs_elsewhere_and_its_late_word_counts_nothing(core: Any) -> None:
    ((where, number, attempt, _),) = runs(core.received(CLIENT, SUBMIT, submit(1), [b"x"]))
    sent = core.left(where)
    ((other, again, second, _),) = runs(sent)
    assert other != where and second == 2
    assert core.received(other, DONE, [number, attempt, 0.1], [b"stale"]) == []
    ((peer, header, payload),) = core.received(other, DONE, [again, second, 0.1], [b"result"])
    assert (peer, header[:2], payload) == (CLIENT, [TASK_DONE, 1], [b"result"])


def test_a_task_that_needs_what_it_knows_nothing_of_is_lost_and_not_just_run(core: Any) -> None:
    ((peer, header, _),) = core.received(CLIENT, SUBMIT, submit(1, gpu=1), [b"x"])
    assert peer == CLIENT and header[1:3] == [1, "internal"] and "no resources" in header[3]


def test_priorities_and_limits_of_groups(core: Any) -> None:
    core.received(CLIENT, OPEN_GROUP, [7, 1, []], [])
    assert len(runs(core.received(CLIENT, SUBMIT, submit(1, group=7), [b"x"]))) == 1
    assert runs(core.received(CLIENT, SUBMIT, submit(2, group=7), [b"x"])) == []
    ((where, number, attempt, _),) = runs(core.received(CLIENT, SUBMIT, submit(3), [b"x"]))
    core.received(CLIENT, SUBMIT, submit(4), [b"x"])
    core.received(CLIENT, SUBMIT, submit(5, priority=1), [b"x"])
    ((_, _, _, name),) = runs(core.received(where, DONE, [number, attempt, 0.1], [b"x"]))
    assert name == "task5"
