"""The scheduler alone, as a process, with simulated workers and clients that speak the real wire over real sockets.

The simulated machines (`machines.py`) live in one process, the clients in this one. Costs are the scheduler's own
processor time, whatever the simulation takes.
"""

from __future__ import annotations

import contextlib
import functools
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.life import processor_seconds
from bench.workload import Setting, workload
from minidask.client.connection import Connection
from minidask.net.addresses import Address
from minidask.pickling.sharing import dumps
from minidask.wire.messages import Answer, Ask, Message, OpenGroup, Submit, TaskDone

_VIEWER = """
import sys, minidask
for event in minidask.Client(sys.argv[1], access_file=sys.argv[2]).events():
    if event.kind == "snapshot":
        print("looks", flush=True)
"""
BATCH = 100
PAYLOAD = dumps(("a call of", 64, "bytes or so", "x" * 32), "the simulated call")


class Costs(NamedTuple):
    """The costs of a run: seconds on the clock, the scheduler's processor seconds, and its growth in bytes."""

    seconds: float
    processor: float
    bytes_queued: float


@contextlib.contextmanager
def _scheduler(folder: Path) -> Iterator[tuple[psutil.Process, Address]]:
    command = [sys.executable, "-m", "minidask.scheduler", "--port", "0", "--no-workers-timeout", "600"]
    process = subprocess.Popen(
        [*command, "--access-file", str(folder / "access"), "--log-level", "error"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield psutil.Process(process.pid), Address.parse(process.stdout.readline().split()[-1])
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@contextlib.contextmanager
def _workers(count: int, address: Address, access_file: Path) -> Iterator[Callable[[], None]]:
    """Have `count` simulated machines join. Yields a function that lets them begin to work."""
    command = [sys.executable, "-m", "bench.machines", str(address), str(count), str(access_file)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    try:
        yield functools.partial(process.stdin.write, "go\n")
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


class _Client:
    """A client that submits no-ops and counts what comes back."""

    def __init__(self, address: Address, access_file: Path, name: str) -> None:
        self._connection = Connection(address, access_file, None, {"name": name}, 30)
        self._connection.send([OpenGroup(1, 0, [])])
        self._next = 0
        self.missing = 0
        self._answered = False

    def submit(self, count: int) -> None:
        first, self._next = self._next + 1, self._next + count
        self.missing += count
        for start in range(first, first + count, BATCH):
            numbers = range(start, min(start + BATCH, first + count))
            self._connection.send(
                Submit(number, "no-op", 0, None, 1, None, [], [], False, {}, PAYLOAD) for number in numbers
            )
            self._receive(0)

    def wait_for_scheduler(self) -> None:
        """Wait until the scheduler has read all messages that were sent."""
        self._connection.send([Ask(1)])
        while not self._answered:
            self._receive(60)

    def collect(self) -> None:
        while self.missing:
            self._receive(60)

    def _receive(self, seconds: float) -> None:
        if select.select([self._connection.fileno()], [], [], seconds)[0]:
            why = self._connection.receive(self._count)
            if why:
                raise RuntimeError(why)
        elif seconds:
            raise TimeoutError(f"{self.missing} results did not come")

    def _count(self, message: Message) -> None:
        self.missing -= type(message) is TaskDone
        self._answered |= type(message) is Answer

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def _viewers(count: int, address: Address, access_file: Path) -> Iterator[None]:
    """Have so many clients look at what happens."""
    command = [sys.executable, "-c", _VIEWER, str(address), str(access_file)]
    viewers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        for viewer in viewers:
            assert viewer.stdout is not None
            viewer.stdout.readline()
        yield
    finally:
        for viewer in viewers:
            viewer.kill()
            viewer.communicate()


def drain(tasks: int, workers: int, clients: int = 1, viewers: int = 0) -> Costs:
    """Queue tasks, then let machines with two workers each run them; return the costs."""
    with tempfile.TemporaryDirectory() as name, _scheduler(Path(name)) as (process, address):
        access_file = Path(name) / "access"
        with _workers(workers, address, access_file) as go, _viewers(viewers, address, access_file):
            peers = [_Client(address, access_file, f"client {number}") for number in range(clients)]
            memory = process.memory_info().rss
            started, before = time.perf_counter(), processor_seconds(process.pid)
            for peer in peers:
                peer.submit(tasks // clients)
            peers[-1].wait_for_scheduler()
            growth = process.memory_info().rss - memory
            go()
            for peer in peers:
                peer.collect()
            seconds, processor = time.perf_counter() - started, processor_seconds(process.pid) - before
            for peer in peers:
                peer.close()
    return Costs(seconds, processor, growth)


ENGINE = ("minidask",)


@workload("scheduler: wall time per task, 20,000 queued, 2 machines", "us/task", ENGINE)
def scheduler_rate(setting: Setting) -> float:
    tasks = 200 if setting.short else 20_000
    return drain(tasks, 2).seconds / tasks * 1e6


def _cost(title: str, tasks: int, machines: int, clients: int = 1, viewers: int = 0) -> Callable[[Setting], float]:
    """Add a workload for the scheduler's processor time per task, in microseconds."""

    def run(setting: Setting) -> float:
        count = 200 if setting.short else tasks
        return drain(count, min(machines, 20) if setting.short else machines, clients, viewers).processor / count * 1e6

    run.__name__ = f"scheduler_{title}"
    described = f"{tasks:,} queued, {machines} machines, {clients} clients"
    described += f", {viewers} viewers" if viewers else ""
    return workload(f"scheduler: processor time per task, {described}", "us CPU/task", ENGINE)(run)


_cost("1e3", 1_000, 2)
_cost("1e4", 10_000, 2)
_cost("1e5", 100_000, 2)
_cost("1e6", 1_000_000, 2)
_cost("100_machines", 20_000, 100)
_cost("1000_machines", 20_000, 1_000)
_cost("8_clients", 20_000, 2, 8)
_cost("0_viewers", 20_000, 2)
_cost("1_viewer", 20_000, 2, viewers=1)
_cost("5_viewers", 20_000, 2, viewers=5)


@workload("scheduler: memory per queued task, 100,000 queued, beyond the payload's own bytes", "bytes", ENGINE)
def scheduler_memory(setting: Setting) -> float:
    tasks = 2_000 if setting.short else 100_000
    return drain(tasks, 2).bytes_queued / tasks - sum(len(part) for part in PAYLOAD)
