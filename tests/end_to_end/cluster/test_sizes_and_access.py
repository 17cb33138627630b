"""Clusters on this machine: their size, memory and threads; and where a client finds one, and who may use it."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from operator import neg
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minidask
from minidask import errors
from minidask.host.resources import thread_limits
from tests.helpers import wait_until


def meet(folder: Path, others: int) -> int:
    """Wait until so many calls are here at once."""
    (folder / str(os.getpid())).touch()
    end = time.monotonic() + 30
    while len(list(folder.iterdir())) < others and time.monotonic() < end:
        time.sleep(0.005)
    return os.getpid()


def test_a_cluster_grows_and_shrinks(tmp_path: Path) -> None:
    with minidask.LocalCluster(1) as cluster, minidask.Client(cluster) as client:
        cluster.scale(3)
        client.wait_for_workers(3, 10)
        meeting = [client.submit(meet, tmp_path, 3) for _ in range(3)]
        assert len({future.result(40) for future in meeting}) == 3
        cluster.scale(1)
        wait_until(lambda: client.slots() == 1, "the cluster shrank")
        assert client.gather(client.map(neg, range(4))) == [0, -1, -2, -3]
    assert "closed" in repr(cluster)


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True])
def test_a_cluster_of_no_sensible_size(n: Any) -> None:
    with pytest.raises(ValueError, match="whole number above 0"):
        minidask.LocalCluster(n)
    with pytest.raises(ValueError, match="no number of bytes"):
        minidask.LocalCluster(1, memory_limit="lots")


def test_a_slot_over_its_memory_limit_is_stopped_and_says_so() -> None:
    def hog() -> None:
        data = np.ones(150_000_000)
        time.sleep(60 + data[0])

    with minidask.Client(n_workers=1, memory_limit="600M") as client:
        with pytest.raises(errors.KilledWorker, match=r"limit of 600\.0 MiB"):
            client.submit(hog).result(50)
        assert client.submit(neg, 1).result(10) == -1


def in_a_child(size: int) -> None:
    subprocess.run([sys.executable, "-c", f"x = b'x' * {size}; import time; time.sleep(60)"], check=True)


def in_shared_memory(size: int) -> None:
    with mmap.mmap(-1, size) as shared:
        shared.write(b"x" * size)
        time.sleep(60)


@pytest.mark.parametrize("hog", [in_a_child, in_shared_memory])
def test_what_a_task_has_in_children_and_in_shared_memory_counts(hog: Callable[[int], None]) -> None:
    with minidask.Client(n_workers=1, memory_limit="200M") as client:
        error = client.submit(hog, 400 << 20).exception(50)
    assert isinstance(error, errors.KilledWorker) and "limit of 200.0 MiB" in str(error)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux has such a score")
def test_the_kernel_rather_kills_a_slot_than_the_node_or_the_user() -> None:
    def score() -> int:
        return int(Path("/proc/self/oom_score_adj").read_text())

    with minidask.Client(n_workers=1) as client:
        node = Path(f"/proc/{client.scheduler_info()['pid']}/oom_score_adj")
        assert client.submit(score).result(30) >= min(1000, score() + 300)
        assert int(node.read_text()) == score()


def test_library_threads_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with minidask.Client(n_workers=2) as client:
        limits = client.submit(lambda: (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"])).result(30)
    assert limits == (thread_limits(2, {})["OMP_NUM_THREADS"], "7")


# --- addresses and secrets ---


def test_an_address_where_nobody_listens() -> None:
    began = time.monotonic()
    for address in ("127.0.0.1:1", "unix:///nonexistent/socket", "[::1]:1"):
        with pytest.raises(errors.SchedulerLost, match="no scheduler answers"):
            minidask.Client(address)
    with pytest.raises(ValueError, match="unknown scheme"):
        minidask.Client("http://here:1")
    with pytest.raises(ValueError, match="n_workers"):
        minidask.Client("127.0.0.1:1", n_workers=2)
    assert time.monotonic() - began < 5


def test_a_wrong_secret_and_a_missing_one(client: minidask.Client, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("ab" * 32)
    wrong.chmod(0o600)
    with pytest.raises(errors.AuthenticationError, match="same secret"):
        minidask.Client(client.address, access_file=wrong)
    with pytest.raises(errors.AuthenticationError, match="no access file"):
        minidask.Client(client.address, access_file=tmp_path / "missing")
    assert client.submit(neg, 1).result(10) == -1
