"""Large data when things go wrong: no shared memory, processes killed, machines that do not answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import minidask
from minidask import errors
from minidask.data.files import blob_id
from minidask.net import transport
from minidask.net.access import Access
from minidask.net.credentials import Credentials
from minidask.wire.messages import FetchChunk
from minidask.worker.peers import Peers
from tests.helpers import Program, Programs, alive, black_hole, wait_until

MIB = 2**20

USE_MUCH = """
import os, sys
import minidask, numpy as np
from joblib import Parallel, delayed, parallel_config

def double(array, i):
    return array * 2 + i

arrays = [np.random.default_rng(i).random(4 << 17) for i in range(6)]
with minidask.Client(n_workers=2) as client, parallel_config("minidask", scheduler=client):
    for _ in range(2):
        if sys.argv[1:] == ["meanwhile"]:
            os.system("head -c 1G /dev/zero > /dev/shm/others 2>/dev/null")
        results = Parallel(batch_size=1)(delayed(double)(array, i) for i, array in enumerate(arrays))
        handles = client.scatter(arrays)
        results += [client.submit(double, handle, i).result(30) for i, handle in enumerate(handles)]
        for number, result in enumerate(results):
            i = number % len(arrays)
            assert (result == arrays[i] * 2 + i).all()
            result[:] = 0
print("all is right", flush=True)
"""


@pytest.mark.parametrize(("size", "filled"), [(12, ""), (6, ""), (64, "before"), (64, "meanwhile")])
def test_a_small_or_full_shared_memory_costs_one_warning(programs: Programs, size: int, filled: str) -> None:
    if os.getuid() != 0 or not shutil.which("unshare"):
        pytest.skip("a file system of one's own needs root, and unshare")
    path = programs.folder / "use_much.py"
    path.write_text(USE_MUCH)
    fill = "head -c 1G /dev/zero > /dev/shm/others 2>/dev/null;" if filled == "before" else ""
    command = f"mount -t tmpfs -o size={size}M tmpfs /dev/shm; {fill} exec {sys.executable} {path} {filled}"
    program = programs.start("unshare", "--mount", "sh", "-c", command)
    assert program.exit_code(50) == 0, program.text
    assert "all is right" in program.text
    assert program.text.count("large data goes to") == 1, program.text
    assert not ours([program.process.pid])


HOLD_DATA = """
import os, sys, time
import minidask, numpy as np

client = minidask.Client(*sys.argv[1:2]) if sys.argv[1] else minidask.Client(n_workers=2)
client.wait_for_workers(2, 20)
folder = sys.argv[2]
array = np.random.default_rng(0).random(4 << 17)

def hold(array, number, folder=folder):
    if number:
        open(os.path.join(folder, f"busy{number}"), "w").close()
        time.sleep(600)
    return array + 1

kept = [client.submit(hold, client.scatter(array), 0).result(30) for _ in range(2)]
futures = client.map(hold, [array, array], [1, 2])
client.gather(futures)
"""

PARTS = ("client", "scheduler", "worker", "slots")
SUBSETS = [subset for size in range(1, 5) for subset in itertools.combinations(PARTS, size)]


def ours(pids: list[int]) -> list[str]:
    """What is left of the folders of these processes."""
    places = [Path("/dev/shm"), Path(tempfile.gettempdir()), Path("/tmp")]
    return [str(path) for place in places for pid in pids for path in place.glob(f"minidask-{pid}-*")]


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # slots end with their worker
            os.kill(pid, signal.SIGKILL)


def end(*started: Program) -> None:
    for program in started:
        if program.process.poll() is None:
            program.send(signal.SIGTERM)
    for program in started:
        program.exit_code(20)


def busy(folder: Path) -> bool:
    return all((folder / f"busy{number}").exists() for number in (1, 2))


@pytest.mark.parametrize("killed", SUBSETS, ids="+".join)
def test_nothing_stays_whatever_was_killed_once_anything_of_ours_starts(
    programs: Programs, killed: tuple[str, ...]
) -> None:
    scheduler, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "2")
    client = programs.script(HOLD_DATA, address, str(programs.folder))
    wait_until(lambda: busy(programs.folder), "both slots were busy")
    slots = [process.pid for process in psutil.Process(worker.process.pid).children()]
    pids = {
        "client": [client.process.pid],
        "scheduler": [scheduler.process.pid],
        "worker": [worker.process.pid],
        "slots": slots,
    }
    assert ours(pids["client"] + pids["worker"]), "there is something to remove"
    kill([pid for part in killed for pid in pids[part]])
    end(client, scheduler, worker)
    wait_until(lambda: not alive(slots), "the slots were gone")
    with minidask.Client(n_workers=1, processes=False):
        assert not ours([pid for part in pids.values() for pid in part])


@pytest.mark.parametrize("killed", [("client",), ("node",), ("client", "node"), ("slots",), ("client", "slots")])
def test_nothing_stays_of_a_local_cluster_either(programs: Programs, killed: tuple[str, ...]) -> None:
    client = programs.script(HOLD_DATA, "", str(programs.folder))
    wait_until(lambda: busy(programs.folder), "both slots were busy")
    (node,) = psutil.Process(client.process.pid).children()
    slots = [process.pid for process in node.children()]
    pids = {"client": [client.process.pid], "node": [node.pid], "slots": slots}
    kill([pid for part in killed for pid in pids[part]])
    end(client)
    wait_until(lambda: not alive([node.pid, *slots]), "node and slots were gone")
    with minidask.Client(n_workers=1, processes=False):
        assert not ours([pid for part in pids.values() for pid in part])


def test_another_container_that_shares_the_memory_removes_nothing_that_is_in_use(client: minidask.Client) -> None:
    if os.getuid() != 0 or not shutil.which("unshare"):
        pytest.skip("numbers of processes of one's own need root, and unshare")
    assert client.shell.store is not None
    code = (
        "import os; from minidask.host.folders import is_alive, sweep; sweep(); print(is_alive(int(os.environ['PID'])))"
    )
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    environment = {**os.environ, "PID": str(os.getpid())}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert result.stdout.strip() == "False", result.stderr
    assert client.shell.store.folder.exists()


def total(array: Any) -> float:
    return float(array.sum())


def test_a_scheduler_that_was_started_again_finds_the_data_where_it_was(programs: Programs) -> None:
    scheduler, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "1")
    data = np.random.default_rng(0).random(MIB)
    with minidask.Client(address, reconnect_timeout=0) as client:
        assert client.gather(client.map(total, [data])) == [data.sum()]
        (store,) = Path("/dev/shm").glob(f"minidask-{worker.process.pid}-*")
        (blob,) = [path for path in store.iterdir() if path.name == blob_id([data.tobytes()]).hex()]
        inode = blob.stat().st_ino
        pending = client.map(hold_it, [data])
        wait_until(lambda: client.scheduler_info()["tasks"]["running"] == 1, "it ran")
        scheduler.send(signal.SIGKILL)
        with pytest.raises(errors.SchedulerLost):
            client.gather(pending)
    scheduler.exit_code()
    again = programs.start(sys.executable, "-m", "minidask.scheduler", "--port", address.rpartition(":")[2])
    again.wait_for("listens on")
    with minidask.Client(address) as client:
        client.wait_for_workers(1, 20)
        assert client.gather(client.map(total, [data])) == [data.sum()]
        assert blob.stat().st_ino == inode
    wait_until(lambda: not list(store.glob(f"{blob.name}.*")), "the worker let go of it")


def hold_it(array: Any) -> None:
    time.sleep(2)  # it goes on for its client, which does not come again


class Told:
    """In the place of transfers: what they are told."""

    def __init__(self) -> None:
        self.lost: list[tuple[str, str]] = []
        self.heard = asyncio.Event()

    def source_lost(self, source: str, why: str) -> None:
        self.lost.append((source, why))
        self.heard.set()


def test_a_worker_behind_a_firewall_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.2)

    async def connect_to(address: str) -> list[tuple[str, str]]:
        told: Any = Told()
        guest = Peers(Credentials(Access(b"x" * 32)), told)
        guest.send(address, FetchChunk(b"n" * 16, 0, 1, 0))
        await asyncio.wait_for(told.heard.wait(), 20)
        guest.close()
        return list(told.lost)

    with black_hole() as address:
        assert asyncio.run(connect_to(address)) == [(address, "no answer within 0.2 seconds")]
