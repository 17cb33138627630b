"""`SlurmCluster` on a real slurmctld, slurmd and munged: scaled, adapted, and over its time limit."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import minidask
from tests.end_to_end.launch.slurm import have_slurm, slurm
from tests.helpers import wait_until

pytestmark = pytest.mark.skipif(not have_slurm(), reason="needs root, and Debian's slurmctld, slurmd and munge")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm(tmp_path_factory.mktemp("slurm")) as variables:
        yield variables


@pytest.fixture(autouse=True)
def in_environment(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def jobs() -> list[str]:
    told = subprocess.run(["squeue", "--me", "-h", "-o", "%A %T"], capture_output=True, text=True, timeout=20)
    return [line.split()[0] for line in told.stdout.splitlines() if "COMPLETING" not in line]


def note(folder: Path, number: int) -> int:
    with (folder / "begun").open("a") as file:
        file.write(f"{number}\n")
    time.sleep(0.3)
    return number


@pytest.mark.timeout(150)
def test_at_the_time_limit_no_task_is_lost_and_none_is_begun_twice(tmp_path: Path) -> None:
    with minidask.SlurmCluster(minutes=1, drain=50) as cluster, minidask.Client(cluster) as client:
        cluster.adapt(minimum=1, maximum=1, idle=1000)
        first = wait_for_one(client)
        futures: list[minidask.Future] = []
        end = time.monotonic() + 100
        while not {future.worker for future in futures if future.done()} - {first}:  # SIGTERM comes after 10 to 40 s
            assert time.monotonic() < end, "no other machine has run anything"
            futures.append(client.submit(note, tmp_path, len(futures)))
            while sum(not future.done() for future in futures) > 8:
                time.sleep(0.05)
        assert client.gather(futures) == list(range(len(futures)))
        begun = Counter(map(int, (tmp_path / "begun").read_text().split()))
        assert begun == Counter(range(len(futures)))
        assert first in {future.worker for future in futures}
    wait_until(lambda: not jobs(), "no job was left")


def wait_for_one(client: minidask.Client) -> str:
    client.wait_for_workers(1, 60)
    (machine,) = client.scheduler_info()["machines"]
    return str(machine["name"])


@pytest.mark.timeout(120)
def test_scaled_up_and_down_and_closed() -> None:
    with minidask.SlurmCluster() as cluster, minidask.Client(cluster) as client:
        assert not jobs()
        cluster.scale(2)
        assert len(jobs()) == 2
        client.wait_for_workers(2, 60)
        slow = client.submit(time.sleep, 2)
        wait_until(lambda: client.scheduler_info()["tasks"]["running"] == 1, "it ran")
        (busy,) = [machine["name"] for machine in client.scheduler_info()["machines"] if machine["tasks"]]
        cluster.scale(1)
        wait_until(lambda: jobs() == [busy], "the one that did nothing was gone")
        cluster.scale(0)
        assert slow.result(30) is None
        assert slow.worker == busy
        wait_until(lambda: not jobs(), "it had ended when its task had")
        assert not cluster.failed


@pytest.mark.timeout(120)
def test_adapts_to_a_burst_and_back() -> None:
    with minidask.SlurmCluster() as cluster, minidask.Client(cluster) as client:
        cluster.adapt(0, 2, idle=2, worth=1)
        assert client.gather(client.map(time.sleep, [1] * 8)) == [None] * 8
        assert len({future["name"] for future in client.scheduler_info()["machines"]}) == 2
        wait_until(lambda: len(jobs()) == 1, "one was left, for the client")
        client.close()
        wait_until(lambda: not jobs(), "none was left")
        assert not cluster.failed


def test_a_job_that_ends_before_it_joins_is_named_with_why() -> None:
    with minidask.SlurmCluster(python="/no/python") as cluster:
        (name,) = cluster.start(1)
        wait_until(lambda: name in cluster.failed, "it was noticed")
        assert "/no/python" in cluster.failed[name]


def test_what_slurm_refuses_is_an_error_with_its_words() -> None:
    with (
        minidask.SlurmCluster(lines=["--partition=nosuch"]) as cluster,
        pytest.raises(minidask.errors.MinidaskError, match=r"sbatch refused: .*invalid partition"),
    ):
        cluster.scale(1)
