"""What encryption costs, beside Dask with and without TLS: `python -m bench.encryption [loopback|network]`.

Each engine has a scheduler, and one worker with one slot. All engines run at once, and the rounds take turns, so that
the machine's drift hits all alike. With `network` the worker has a host of its own, whose card sends 1 Gbit/s.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.hosts import Hosts

RATE = "1gbit"
ENGINES = {"minidask": 8801, "minidask, no encryption": 8802, "dask, TLS": 8803, "dask": 8804}
TASKS = 500
MEBIBYTES = 256


def _certificate(folder: Path) -> tuple[str, str]:
    """Make a certificate for Dask, signed by itself. Returns the paths of it and its key."""
    certificate, key = str(folder / "dask.pem"), str(folder / "dask.key")
    command = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=bench", "-days", "2"]
    subprocess.run([*command, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    return certificate, key


def _commands(engine: str, host: str, folder: Path) -> tuple[list[str], list[str]]:
    """Return the commands of a scheduler and of a worker."""
    port = ENGINES[engine]
    if engine.startswith("minidask"):
        options = ["--access-file", str(folder / str(port))]
        plain = ["--no-encryption"] if "no encryption" in engine else []
        program = [sys.executable, "-m"]
        scheduler = [*program, "minidask.scheduler", "--host", host, "--port", str(port), *plain, *options]
        return scheduler, [*program, "minidask.worker", f"{host}:{port}", "--nworkers", "1", *options]
    tls = ["--tls-ca-file", str(folder / "dask.pem"), "--tls-cert", str(folder / "dask.pem"), "--tls-key"]
    tls = [*tls, str(folder / "dask.key")] if "TLS" in engine else []
    scheme = "tls" if tls else "tcp"
    program = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard", "--host", f"{scheme}://{host}"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", f"{scheme}://{host}:{port}", "--no-dashboard"]
    return [*program, "--port", str(port), *tls], [*worker, "--nworkers", "1", "--nthreads", "1", "--no-nanny", *tls]


def _nothing(number: int) -> int:
    return number


def _total(array: np.ndarray[Any, Any]) -> float:
    return float(array[::1000].sum())


def _connect(engine: str, host: str, folder: Path) -> Any:
    if engine.startswith("minidask"):
        import minidask

        with warnings.catch_warnings(action="ignore"):
            return minidask.Client(f"{host}:{ENGINES[engine]}", access_file=folder / str(ENGINES[engine]))
    import distributed

    names = [str(folder / name) for name in ("dask.pem", "dask.pem", "dask.key")]
    security = distributed.Security(tls_ca_file=names[0], tls_client_cert=names[1], tls_client_key=names[2])
    if "TLS" in engine:
        return distributed.Client(f"tls://{host}:{ENGINES[engine]}", security=security)
    return distributed.Client(f"tcp://{host}:{ENGINES[engine]}")


def _options(engine: str) -> dict[str, Any]:
    return {} if engine.startswith("minidask") else {"pure": False}


def _tasks(engine: str, client: Any) -> float:
    began = time.perf_counter()
    client.gather(client.map(_nothing, range(TASKS), **_options(engine)))
    return (time.perf_counter() - began) / TASKS * 1e6


def _ping(engine: str, client: Any) -> float:
    began = time.perf_counter()
    for number in range(50):
        client.submit(_nothing, number, **_options(engine)).result()
    return (time.perf_counter() - began) / 50 * 1e6


def _blob(engine: str, client: Any) -> float:
    array = np.random.default_rng().random(MEBIBYTES * 2**17)
    began = time.perf_counter()
    if engine.startswith("minidask"):
        total = client.submit(_total, array).result()
    else:
        total = client.submit(_total, client.scatter(array), pure=False).result()
    seconds = time.perf_counter() - began
    assert np.isclose(total, _total(array))
    return seconds


MEASURES: dict[str, Callable[[str, Any], float]] = {
    f"a no-op of {TASKS} at once, µs": _tasks,
    "a no-op there and back, µs": _ping,
    f"{MEBIBYTES} MiB to a task, s": _blob,
}


def _cpu(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def measure(host: str, folder: Path, pids: dict[str, list[int]], rounds: int, tasks_only: bool) -> None:
    """Be the client: run all rounds, and print the medians."""
    found: dict[str, dict[str, list[float]]] = {}
    clients = {}
    for engine in pids:
        clients[engine] = _connect(engine, host, folder)
        clients[engine].submit(_nothing, 1).result()
    for number in range(rounds):
        for engine, client in clients.items():
            for name, do in MEASURES.items():
                if tasks_only and do is _blob:
                    continue
                processes = [psutil.Process(), *map(psutil.Process, pids[engine])]
                before = _cpu(processes)
                value = do(engine, client)
                if number:  # the first round warms up
                    found.setdefault(name, {}).setdefault(engine, []).append(value)
                    if do is _blob:
                        cpu = (_cpu(processes) - before) / (MEBIBYTES / 1024)
                        found.setdefault("CPU of all for a GiB, s", {}).setdefault(engine, []).append(cpu)
            began = time.perf_counter()
            other = _connect(engine, host, folder)
            if number:
                found.setdefault("to connect a client, ms", {}).setdefault(engine, []).append(
                    (time.perf_counter() - began) * 1e3
                )
            other.close()
    for name, engines in found.items():
        print(name)
        for engine, values in engines.items():
            print(f"    {engine:26}{statistics.median(values):10.3f}   {min(values):10.3f} … {max(values):.3f}")


@contextlib.contextmanager
def _programs(
    on: Callable[[int, list[str]], list[str]], host: str, folder: Path, only: str
) -> Iterator[dict[str, list[int]]]:
    """Start a scheduler on the first host, and a worker on the second one, for each engine. Yields their processes."""
    pids: dict[str, list[int]] = {}
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(folder / "log", "w"))
        for engine in (engine for engine in ENGINES if engine.startswith(only)):
            for number, command in enumerate(_commands(engine, host, folder)):
                process = subprocess.Popen(on(number, command), stdout=log, stderr=log, start_new_session=True)
                stack.callback(process.wait)
                stack.callback(process.terminate)
                pids.setdefault(engine, []).append(process.pid)
                time.sleep(2)
        yield pids


def main() -> None:
    """Start everything, and run the client as a process of the first host."""
    parser = argparse.ArgumentParser()
    parser.add_argument("where", choices=["loopback", "network", "client"])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--engines", default="", help="only those whose names begin so")
    parser.add_argument("--tasks-only", action="store_true")
    parser.add_argument("client", nargs="*")
    options = parser.parse_intermixed_args()
    if options.where == "client":
        host, folder, pids = options.client
        measure(host, Path(folder), json.loads(pids), options.rounds, options.tasks_only)
        return
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.chmod(folder, 0o700)
        _certificate(folder)
        if options.where == "network":
            network = stack.enter_context(Hosts(2, RATE))
            host, on = network.address(0), lambda number, command: network.on(number, *command)
        else:
            host, on = "127.0.0.1", lambda number, command: command
        pids = stack.enter_context(_programs(on, host, folder, options.engines))
        client = [sys.executable, "-m", "bench.encryption", "--rounds", str(options.rounds), "client"]
        client += ["--tasks-only"] if options.tasks_only else []
        subprocess.run(on(0, [*client, host, str(folder), json.dumps(pids)]), check=True)


if __name__ == "__main__":
    main()
