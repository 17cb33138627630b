"""The examples that follow `docs/protocol.md` alone: a client for Node.js, and a worker in one file."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

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


@pytest.fixture
def cluster(programs: Programs, tmp_path: Path) -> Cluster:
    """A scheduler, and the worker of the example."""
    access_file = tmp_path / "cluster" / "access"
    load_or_create_access(access_file)
    _, address = programs.scheduler("--access-file", str(access_file))
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
