"""Large data between machines: hosts in network namespaces, each with its own address, the daemons' real sockets."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

import minidask
from bench.hosts import Hosts, ip, possible
from tests.helpers import Program, Programs, wait_until

MIB = 1 << 20

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """`[0]` has the scheduler and the client."""
    if not possible():
        pytest.skip("network namespaces need root, and Debian's iproute2")
    with Hosts(5) as made:
        yield made


def start(hosts: Hosts, programs: Programs) -> tuple[str, list[Program]]:
    """A scheduler on host 0 and a worker on each of the others."""
    host = hosts.address(0)
    scheduler = programs.start(
        *hosts.on(0, sys.executable, "-m", "minidask.scheduler", "--host", host, "--port", "8786")
    )
    scheduler.wait_for("minidask.Client(")
    workers = []
    for number in range(1, len(hosts.names)):
        options = ("--nworkers", "1", "--name", f"host{number}")
        worker = programs.start(
            *hosts.on(number, sys.executable, "-m", "minidask.worker", f"{host}:8786", *options),
        )
        workers.append(worker)
    for worker in workers:
        worker.wait_for("joined the scheduler")
    return f"{host}:8786", workers


def slowly(hosts: Hosts, number: int, rate: str) -> None:
    """Have a host's card send less than its programs can."""
    limit = ("tbf", "rate", rate, "burst", "256kb", "latency", "50ms")
    subprocess.run(hosts.on(number, "tc", "qdisc", "add", "dev", "e0", "root", *limit), check=True)


SCRIPT = """
import sys
import minidask, numpy as np, psutil

client = minidask.Client(sys.argv[1])
client.wait_for_workers(int(sys.argv[2]), 30)
scheduler = psutil.Process(client.scheduler_info()["pid"])

def memory():
    # What the scheduler has now; `grown` tells by how much more it had at some time since.
    with open(f"/proc/{scheduler.pid}/clear_refs", "w") as file:
        file.write("5")
    return scheduler.memory_info().rss

def grown(before):
    lines = open(f"/proc/{scheduler.pid}/status").read().splitlines()
    (peak,) = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    print("scheduler", peak - before, flush=True)

def sent():
    return int(open("/sys/class/net/e0/statistics/tx_bytes").read())

def total(data):
    return float(data.sum()), data.flags.writeable

def measure(data):
    before, had = sent(), memory()
    handle = client.scatter(data)
    results = set(client.run(total, handle).values())
    handle.release()
    print("results", results == {(float(data.sum()), False)}, flush=True)
    print("sent", (sent() - before) / data.nbytes, flush=True)
    grown(had)

client.run(total, np.ones(10))
"""


def figures(program: Program) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in program.text.splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name, []).append(value)
    return found


def test_the_clients_machine_sends_large_data_about_once_whatever_the_number_of_machines(
    hosts: Hosts, programs: Programs
) -> None:
    address, _ = start(hosts, programs)
    script = SCRIPT + "data = np.random.default_rng(0).random(256 << 17)\nmeasure(data)\nmeasure(data)\n"
    path = programs.folder / "client.py"
    path.write_text(script)
    client = programs.start(*hosts.on(0, sys.executable, str(path), address, "4"))
    assert client.exit_code(60) == 0, client.text
    found = figures(client)
    assert found["results"] == ["True", "True"]
    first, again = map(float, found["sent"])
    assert first < 1.1, "the workers have it from one another"
    assert again < 0.01, "the next call sends nothing but names"
    assert max(map(int, found["scheduler"])) < 64 * MIB


def test_a_peer_that_dies_in_the_middle_costs_only_its_transfer(hosts: Hosts, programs: Programs) -> None:
    address, workers = start(hosts, programs)
    script = """
handle = client.scatter(np.arange(512 << 17, dtype=float))
futures = [client.submit(total, handle) for _ in range(4)]
print("results", [future.result(60) for future in futures])
"""
    path = programs.folder / "client.py"
    path.write_text(SCRIPT + script)
    client = programs.start(*hosts.on(0, sys.executable, str(path), address, "4"))
    passed_on = [hosts.sent(number) for number in range(1, 5)]

    def one_passes_it_on() -> bool:
        return any(hosts.sent(number) - passed_on[number - 1] > 32 * MIB for number in range(1, 5))

    wait_until(one_passes_it_on, "a worker passed data on")
    number = max(range(1, 5), key=lambda number: hosts.sent(number) - passed_on[number - 1])
    workers[number - 1].send(signal.SIGKILL)
    assert client.exit_code(90) == 0, client.text
    assert figures(client)["results"] == [str([(float(np.arange(512 << 17, dtype=float).sum()), False)] * 4)]


def test_when_the_client_that_sends_dies_another_with_the_same_data_goes_on(hosts: Hosts, programs: Programs) -> None:
    address, workers = start(hosts, programs)
    for worker in workers[:3]:
        worker.end()
    slowly(hosts, 1, "200mbit")
    path = programs.folder / "client.py"
    script = """
import os, time
print("ready", flush=True)
while not os.path.exists(sys.argv[3]):
    time.sleep(0.01)
handle = client.scatter(np.arange(256 << 17, dtype=float))
future = client.submit(total, handle)
client.scheduler_info()
print("offered", flush=True)
print("result", future.result(60), flush=True)
"""
    path.write_text(SCRIPT + script)
    first, second = (
        programs.start(*hosts.on(number, sys.executable, str(path), address, "1", str(programs.folder / f"go{number}")))
        for number in (1, 2)
    )
    first.wait_for("ready")
    second.wait_for("ready")
    (programs.folder / "go1").touch()
    wait_until(lambda: hosts.sent(1) > 8 * MIB, "the first one sent data")
    (programs.folder / "go2").touch()
    second.wait_for("offered")
    assert hosts.sent(1) < 250 * MIB, "it was to be in the middle of it"
    first.send(signal.SIGKILL)
    assert second.exit_code(60) == 0, second.text
    assert figures(second)["result"] == [str((float(np.arange(256 << 17, dtype=float).sum()), False))]
    assert 200 * MIB < hosts.sent(1) + hosts.sent(2) < 300 * MIB, "it went on where the first one had ended"


def test_workers_that_cannot_reach_one_another_have_it_through_the_scheduler(hosts: Hosts, programs: Programs) -> None:
    address, _ = start(hosts, programs)
    for one in range(1, 5):
        for other in range(1, 5):
            if one != other:
                ip("-n", hosts.names[one], "route", "add", "prohibit", f"{hosts.address(other)}/32")
    path = programs.folder / "client.py"
    path.write_text(SCRIPT + "measure(np.arange(64 << 17, dtype=float))\n")
    client = programs.start(*hosts.on(0, sys.executable, str(path), address, "4"))
    assert client.exit_code(60) == 0, client.text
    found = figures(client)
    assert found["results"] == ["True"]
    assert 3.9 < float(found["sent"][0]) < 4.4
    assert int(found["scheduler"][0]) < 64 * MIB, "it passes parts on, and keeps none"


LOCAL = """
import time

def nap(data, number):
    time.sleep(0.2)

handle = client.scatter(np.arange(8 << 17, dtype=float))
before = sent()
workers = set()
for _ in range(6):
    future = client.submit(total, handle)
    future.result(60)
    workers.add(future.worker)
print("workers", len(workers), flush=True)
print("sent", (sent() - before) / (8 << 20), flush=True)
futures = client.map(nap, [handle] * 16, range(16))
client.gather(futures)
print("workers", len({future.worker for future in futures}), flush=True)
"""


def test_a_task_goes_where_its_data_is_but_does_not_wait_for_that(hosts: Hosts, programs: Programs) -> None:
    address, _ = start(hosts, programs)
    path = programs.folder / "client.py"
    path.write_text(SCRIPT + LOCAL)
    client = programs.start(*hosts.on(0, sys.executable, str(path), address, "4"))
    assert client.exit_code(60) == 0, client.text
    found = figures(client)
    assert found["workers"] == ["1", "4"]
    assert float(found["sent"][0]) < 1.2


MANY = """
arrays = [np.full(8 << 17, number, dtype=float) for number in range(16)]
had = memory()
handles = client.scatter(arrays)
for result in client.run(lambda *arrays: [float(array[-1]) for array in arrays], *handles).values():
    assert result == [float(number) for number in range(16)], result
grown(had)

def make(number):
    return np.full(8 << 17, number, dtype=float)

client.gather([client.submit(make, 0) for _ in range(8)])
had = memory()
futures = [client.submit(make, number) for number in range(32)]
for number, future in enumerate(futures):
    assert future.result(60)[-1] == number
grown(had)
"""


def test_many_blobs_and_results_do_not_pile_up_in_the_scheduler(hosts: Hosts, programs: Programs) -> None:
    address, workers = start(hosts, programs)
    for worker in workers[:2]:  # the client is there: what it sends and gets passes through the scheduler's machine
        worker.end()
    for one, other in ((3, 4), (4, 3)):
        ip("-n", hosts.names[one], "route", "add", "prohibit", f"{hosts.address(other)}/32")
    slowly(hosts, 0, "400mbit")
    path = programs.folder / "client.py"
    path.write_text(SCRIPT + MANY)
    client = programs.start(*hosts.on(1, sys.executable, str(path), address, "2"))
    assert client.exit_code(100) == 0, client.text
    arguments, results = map(int, figures(client)["scheduler"])
    assert arguments < 80 * MIB, "it passed on 256 MiB"
    assert results < 80 * MIB, "it passed on 256 MiB"


RESULTS = """
def make(number):
    return [number, np.full(64 << 17, number, dtype=float)]

had = memory()
futures = [client.submit(make, number) for number in range(8)]
for number, future in enumerate(futures):
    name, array = future.result(60)
    assert name == number and array.shape == (64 << 17,) and (array == number).all() and array.flags.writeable
    array[0] = -1
    print("result", name, flush=True)
grown(had)
"""


def test_large_results_pass_through_the_scheduler_and_are_not_kept_there(hosts: Hosts, programs: Programs) -> None:
    address, _ = start(hosts, programs)
    path = programs.folder / "client.py"
    path.write_text(SCRIPT + RESULTS)
    client = programs.start(*hosts.on(0, sys.executable, str(path), address, "4"))
    assert client.exit_code(60) == 0, client.text
    assert int(figures(client)["scheduler"][0]) < 100 * MIB


def test_a_result_whose_worker_dies_while_it_is_fetched_is_computed_again(hosts: Hosts, programs: Programs) -> None:
    address, workers = start(hosts, programs)
    path = programs.folder / "client.py"
    path.write_text(SCRIPT + RESULTS)
    before = [hosts.sent(number) for number in range(1, 5)]
    client = programs.start(*hosts.on(0, sys.executable, str(path), address, "4"))

    def one_delivers() -> bool:
        return any(hosts.sent(number) - before[number - 1] > 8 * MIB for number in range(1, 5))

    wait_until(one_delivers, "a worker delivered")
    number = max(range(1, 5), key=lambda number: hosts.sent(number) - before[number - 1])
    workers[number - 1].send(signal.SIGKILL)
    assert client.exit_code(90) == 0, client.text
    assert len(figures(client)["result"]) == 8


def test_a_stranger_gets_nothing_from_a_worker(programs: Programs) -> None:
    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as client:
        (worker,) = client.scheduler_info()["machines"]
    host, _, port = worker["serves"].removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b"400 Bad Request" in sock.recv(1000)
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"mD\x00\x00\x05\x00\x00\x00hello")
        answer = sock.recv(1000)
        assert b"refuse" in answer
        assert sock.recv(1000) == b""
