"""Counterparts of joblib's `test_dask.py` about clusters: which one, workers that come late, what a scheduler keeps."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from operator import neg
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_config

import minidask
from minidask import errors
from minidask.wire.large import LARGE_BYTES
from tests.helpers import Programs, pids_of, wait_until


def test_the_scheduler_keyword_says_where_a_call_runs(client: minidask.Client) -> None:
    """By a client or by address; the address's own client is kept for the next call."""
    with minidask.LocalCluster(1) as small, minidask.Client(n_workers=2) as other:
        for scheduler, pids in ((client, pids_of(client)), (other, pids_of(other)), (other.address, pids_of(other))):
            with parallel_config("minidask", scheduler=scheduler):
                assert set(Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(10))) <= pids
        with parallel_config("minidask", scheduler=small.scheduler_address):
            ours = Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(10))
            again = Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(10))
        assert len({*ours, *again}) == 1 and os.getpid() not in ours


def test_where_nobody_listens_the_error_says_so(tmp_path: Path) -> None:
    with (
        parallel_config("minidask", scheduler=f"unix://{tmp_path}/nothing"),
        pytest.raises(errors.SchedulerLost, match="nothing"),
    ):
        Parallel(n_jobs=2)(delayed(neg)(i) for i in range(2))


def test_a_call_waits_for_the_first_worker(programs: Programs) -> None:
    _, address = programs.scheduler()
    with minidask.Client(address) as late, parallel_config("minidask", scheduler=late, wait_for_workers_timeout=30):
        assert late.slots() == 0
        programs.start(sys.executable, "-m", "minidask.worker", address, "--nworkers", "2")
        assert Parallel()(delayed(neg)(i) for i in range(10)) == [-i for i in range(10)]
        assert late.slots() > 0


def meet(folder: Path, count: int) -> int:
    (folder / str(os.getpid())).touch()
    wait_until(lambda: len(list(folder.iterdir())) == count, f"{count} processes met")
    return os.getpid()


def test_a_call_uses_the_workers_that_scale_has_just_asked_for(tmp_path: Path) -> None:
    with minidask.LocalCluster(2) as cluster, minidask.Client(cluster) as growing:
        cluster.scale(3)
        with parallel_config("minidask", scheduler=growing):
            assert len(set(Parallel(n_jobs=3, batch_size=1)(delayed(meet)(tmp_path, 3) for _ in range(3)))) == 3


@pytest.mark.parametrize("n_jobs", [2, -1])
@pytest.mark.parametrize("seconds", [0, 0.1])
def test_without_a_worker_in_time_the_error_says_how_to_wait_longer(
    n_jobs: int, seconds: float, programs: Programs
) -> None:
    _, address = programs.scheduler()
    with minidask.Client(address) as empty:
        with (
            parallel_config("minidask", scheduler=empty, wait_for_workers_timeout=seconds),
            pytest.raises(errors.NoWorkersError) as caught,
        ):
            Parallel(n_jobs=n_jobs)(delayed(neg)(i) for i in range(10))
        assert isinstance(caught.value, TimeoutError)
        assert f"0 workers after {seconds:g} seconds" in str(caught.value)
        assert f"minidask-worker {address}" in str(caught.value)
        assert "wait_for_workers_timeout=10" in str(caught.value)


def core_of(client: minidask.Client) -> Any:
    """The scheduler of a cluster in this process."""
    node: Any = client.cluster._node  # type: ignore[union-attr]
    return node._node.server.core


@pytest.mark.parametrize("return_as", ["list", "generator"])
@pytest.mark.parametrize("fails", [False, True])
def test_after_a_call_the_scheduler_keeps_nothing_of_it(
    return_as: str, fails: bool, thread_client: minidask.Client
) -> None:
    thread_client.submit(neg, 1).result(20)  # the session stays
    core = core_of(thread_client)
    before = set(core.blobs.records)

    def use(array: Any, i: int) -> float:
        return float(array[0]) / (i if fails else 1)

    def call() -> None:
        data = np.ones(LARGE_BYTES)
        list(Parallel(n_jobs=2, return_as=return_as)(delayed(use)(data, i) for i in range(10)))

    with parallel_config("minidask", scheduler=thread_client):
        if fails:
            with pytest.raises(ZeroDivisionError):
                call()
        else:
            call()
    (record,) = core.clients.values()
    thread_client.submit(neg, 1).result(20)  # which releases what the end of the data has left
    wait_until(lambda: not core.attempts.tasks and not record.groups, "tasks and groups were gone")
    wait_until(lambda: set(core.blobs.records) == before, "its functions and data were gone")
    assert len(thread_client.shell.core) == 0


@pytest.mark.parametrize("mixed", [False, True])
def test_the_scheduler_calls_a_batch_by_its_first_function(mixed: bool, thread_client: minidask.Client) -> None:
    started, go_on = threading.Event(), threading.Event()

    def blocking(_: int) -> None:
        started.set()
        assert go_on.wait(20)

    def look() -> None:
        assert started.wait(20)
        names.extend(task.name for task in list(core_of(thread_client).attempts.tasks.values()))
        go_on.set()

    global _shared
    _shared = blocking
    names: list[str] = []
    thread = threading.Thread(target=look)
    thread.start()
    calls: list[Any] = [delayed(abs if mixed and i % 2 else call_shared)(i) for i in range(4)]
    with parallel_config("minidask", scheduler=thread_client):
        Parallel(n_jobs=2, batch_size=2, pre_dispatch="all")(calls)
    thread.join(20)
    assert set(names) == {"call_shared"}


_shared: Callable[[int], None]


def call_shared(i: int) -> None:
    """What this process and its own threads share: events do not pickle."""
    _shared(i)
