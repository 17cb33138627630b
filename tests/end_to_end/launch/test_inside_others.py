"""A cluster inside a Dask or a Ray cluster that runs, and taken away again: with the real ones."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from bench.hosts import Hosts, possible
from tests.helpers import Programs

DASK = """
import sys, distributed, joblib, minidask, minidask.launch
with distributed.Client(sys.argv[1]) as dask_client:
    dask_client.wait_for_workers(2)
    with minidask.launch.dask(dask_client) as cluster, minidask.Client(cluster) as client:
        machines = client.scheduler_info()["machines"]
        print(sorted((machine["name"], machine["workers"]) for machine in machines))
        with joblib.parallel_config("minidask"):
            print(sum(joblib.Parallel(n_jobs=-1)(joblib.delayed(abs)(-i) for i in range(100))), flush=True)
    print(dask_client.submit(sum, (1, 2)).result(), cluster, flush=True)
"""

RAY = """
import ray, joblib, minidask, minidask.launch
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
with minidask.launch.ray() as cluster, minidask.Client(cluster) as client:
    machines = client.scheduler_info()["machines"]
    print([machine["workers"] for machine in machines], ray.available_resources().get("CPU", 0))
    with joblib.parallel_config("minidask"):
        print(sum(joblib.Parallel(n_jobs=-1)(joblib.delayed(abs)(-i) for i in range(100))), flush=True)

@ray.remote(num_cpus=2)
def three():
    return 3

print(ray.get(three.remote(), timeout=60), "ray is itself again", flush=True)
ray.shutdown()
"""


def have(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@pytest.mark.timeout(120)
@pytest.mark.skipif(not (possible() and have("distributed")), reason="needs root, iproute2 and distributed")
def test_inside_a_dask_cluster_there_is_one_worker_on_each_node(programs: Programs) -> None:
    with Hosts(3) as hosts:
        dask = (sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard", "--port", "8700")
        programs.start(*hosts.on(0, *dask)).wait_for("Scheduler at")
        address = f"tcp://{hosts.address(0)}:8700"
        for number, count in ((1, "2"), (2, "1")):
            options = ("--nworkers", count, "--nthreads", "1", "--no-dashboard")
            worker = hosts.on(number, sys.executable, "-m", "distributed.cli.dask_worker", address, *options)
            programs.start(*worker).wait_for("Registered to")
        path = programs.folder / "inside.py"
        path.write_text(DASK)
        script = programs.start(*hosts.on(0, sys.executable, str(path), address))
        assert script.exit_code(60) == 0, script.text
        assert f"[('{hosts.address(1)}', 2), ('{hosts.address(2)}', 1)]\n4950\n" in script.text
        assert "3 <minidask.LaunchedCluster" in script.text
        programs.end_all()


@pytest.mark.timeout(120)
@pytest.mark.skipif(not have("ray"), reason="needs ray")
def test_inside_a_ray_cluster_an_actor_owns_the_cores_meanwhile(programs: Programs) -> None:
    script = programs.script(RAY, RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    assert script.exit_code(100) == 0, script.text
    assert "[2] 0\n4950\n3 ray is itself again\n" in script.text


@pytest.mark.timeout(120)
@pytest.mark.skipif(not have("distributed"), reason="needs distributed")
def test_the_same_search_on_clusters_of_both_side_by_side(programs: Programs, tmp_path: Path) -> None:
    access = tmp_path / "access"
    _, address = programs.scheduler("--access-file", str(access))
    programs.worker(address, "--nworkers", "2", "--access-file", str(access))
    dask = (sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard", "--port", "0")
    text = programs.start(*dask, "--host", "127.0.0.1").wait_for("Scheduler at")
    found = re.search(r"tcp://[\d.]+:\d+", text)
    assert found is not None
    worker = (sys.executable, "-m", "distributed.cli.dask_worker", found[0], "--nthreads", "2", "--no-dashboard")
    programs.start(*worker).wait_for("Registered to")
    command = (
        "-m",
        "bench",
        "clusters",
        f"minidask={access}",
        f"dask={found[0]}",
        "--rounds",
        "1",
        "--candidates",
        "2",
    )
    ran = programs.start(sys.executable, *command)
    assert ran.exit_code(80) == 0, ran.text
    lines = [line for line in ran.text.splitlines() if "=" in line and " s " in line]
    assert sorted(line.partition("=")[0] for line in lines) == ["dask", "minidask"]
