"""Workloads that send one array to several hosts, whose cards send 1 Gbit/s each: `python -m bench broadcast_4`.

    python -m bench.broadcast ENGINE ADDRESS HOSTS MEBIBYTES

is the client. It runs on the first host, and prints the seconds that it took.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.hosts import Hosts, possible
from bench.workload import Setting, workload

RATE = "1gbit"
PORT = 8786
ENGINES = ("minidask", "dask")


def _commands(engine: str, address: str) -> tuple[list[str], list[str]]:
    """Return the command of a scheduler, and that of a worker with one slot."""
    host = address.partition(":")[0]
    python = sys.executable
    if engine == "dask":
        scheduler = [
            python,
            "-m",
            "distributed.cli.dask_scheduler",
            "--host",
            host,
            "--port",
            str(PORT),
            "--no-dashboard",
        ]
        worker = [python, "-m", "distributed.cli.dask_worker", f"tcp://{address}", "--nworkers", "1", "--nthreads", "1"]
        return scheduler, [*worker, "--no-nanny", "--no-dashboard"]
    scheduler = [python, "-m", "minidask.scheduler", "--host", host, "--port", str(PORT)]
    return scheduler, [python, "-m", "minidask.worker", address, "--nworkers", "1"]


def broadcast(engine: str, hosts: int, mebibytes: int) -> float:
    """Return the seconds until a task on each host has read all of the array.

    Raises:
        RuntimeError: there can be no network namespaces here, or the client has failed.
    """
    if not possible():
        raise RuntimeError("network namespaces need root, and Debian's iproute2")
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Hosts(hosts + 1, RATE))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        environment = {**os.environ, "XDG_STATE_HOME": folder}
        address = f"{network.address(0)}:{PORT}"
        scheduler, worker = _commands(engine, address)

        def start(number: int, command: list[str]) -> None:
            process = subprocess.Popen(
                network.on(number, *command), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)

        start(0, scheduler)
        _wait_for(network, scheduler)
        for number in range(1, hosts + 1):
            start(number, worker)
        client = [sys.executable, "-m", "bench.broadcast", engine, address, str(hosts), str(mebibytes)]
        result = subprocess.run(
            network.on(0, *client), env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    if result.returncode:
        raise RuntimeError(result.stderr.strip().splitlines()[-1])
    return float(result.stdout)


def _wait_for(network: Hosts, scheduler: list[str]) -> None:
    """Wait until something listens on the first host."""
    script = f"import socket; socket.create_connection(('{network.address(0)}', {PORT}), 1)"
    end = time.monotonic() + 60
    while subprocess.run(network.on(0, sys.executable, "-c", script), capture_output=True, check=False).returncode:
        if time.monotonic() > end:
            raise RuntimeError(f"{' '.join(scheduler)} does not listen")
        time.sleep(0.1)


def _total(array: np.ndarray[Any, Any]) -> float:
    return float(array.sum())


def _minidask(address: str, hosts: int) -> Callable[[Any], list[float]]:
    import minidask

    client = minidask.Client(address)
    client.wait_for_workers(hosts, 60)
    client.run(_total, np.ones(1))
    return lambda array: list(client.run(_total, client.scatter(array)).values())


def _dask(address: str, hosts: int) -> Callable[[Any], list[float]]:
    import distributed

    client = distributed.Client(f"tcp://{address}")
    client.wait_for_workers(hosts, 60)
    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    client.gather([client.submit(_total, np.ones(1), workers=[worker], pure=False) for worker in workers])

    def spread(array: Any) -> list[float]:
        future = client.scatter(array, broadcast=True)
        results = client.gather([client.submit(_total, future, workers=[worker], pure=False) for worker in workers])
        return list(results)

    return spread


def main(engine: str, address: str, hosts: int, mebibytes: int) -> None:
    """Run the client, and print the seconds that it took.

    Raises:
        SystemExit: a task has returned a wrong result.
    """
    spread = {"minidask": _minidask, "dask": _dask}[engine](address, hosts)
    array = np.random.default_rng(0).random(mebibytes * 2**17)
    began = time.perf_counter()
    totals = spread(array)
    seconds = time.perf_counter() - began
    if not np.allclose(totals, [array.sum()] * hosts):
        raise SystemExit(f"wrong results: {totals}")
    print(seconds)


def _run(hosts: int) -> Callable[[Setting], float]:
    return lambda setting: broadcast(setting.engine, hosts, 4 if setting.short else 256)


for _hosts in (1, 2, 4, 8):
    _measure = _run(_hosts)
    _measure.__name__, _measure.__module__ = f"broadcast_{_hosts}", __name__
    _title = f"256 MiB to a task on each of {_hosts} hosts, whose cards send {RATE}/s"
    workload(_title, "s", ENGINES, possible)(_measure)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
