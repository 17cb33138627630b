"""The faults: what injects each, and what is promised."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from joblib import Parallel, delayed, parallel_config

import minidask
from minidask.errors import KilledWorker, TaskTimeout
from minidask.scheduler.core import HEARTBEAT_TIMEOUT
from tests.faults.scene import Scene, Seen, Skipped
from tests.faults.search import FITS, IN_FLIGHT, SAME, note
from tests.helpers import at_rest, wait_until
from tests.network import CLIENT, FIRST, Network, possible

# --- slots and tasks, on a cluster on this machine ---


def kill_slot(scene: Scene) -> Seen:
    with minidask.Client(n_workers=2, forward_output=False) as client:
        seen = scene.search(client, lambda: os.kill(scene.noted()[-1].pid, signal.SIGKILL))
    return Seen(seen, scene.gone_on())


def within_a_task(scene: Scene, fault: str, **options: Any) -> Seen:
    def begin() -> None:
        Path(f"{scene.notes}.new").write_text(fault)
        os.rename(f"{scene.notes}.new", f"{scene.notes}.fault")

    with minidask.Client(n_workers=2, forward_output=False, **options) as client:
        seen = scene.search(client, begin)
    scene.when = os.stat(f"{scene.notes}.done").st_ctime + 0.01  # when a fit has found it; times of files are coarse
    return Seen(seen, scene.gone_on())


def hang(scene: Scene) -> Seen:
    """One of 40 calls never comes back from C, and holds the lock of its interpreter."""

    def call(i: int) -> int:
        if i == 20:
            note(str(scene.notes))
            ctypes.PyDLL(None).sleep(600)
        time.sleep(0.01)
        return -i

    with minidask.Client(n_workers=2, forward_output=False) as client:
        limits = {"task_timeout": 1.0, "on_error": "return"}
        with parallel_config("minidask", scheduler=client, **limits):
            results = list(Parallel()(delayed(call)(i) for i in range(40)))
        seconds = time.time() - scene.noted()[0].when
    assert isinstance(results[20], TaskTimeout), results[20]
    assert [r for r in results if r is not results[20]] == [-i for i in range(40) if i != 20]
    return Seen("TaskTimeout in its place, 39 results", seconds)


def poison(scene: Scene) -> Seen:
    def call(i: int) -> int:
        note(f"{scene.notes}{i}")
        if i == 25:
            os._exit(1)
        return -i

    with minidask.Client(n_workers=2, forward_output=False) as client:
        with parallel_config("minidask", scheduler=client, on_error="return"):
            results = list(Parallel()(delayed(call)(i) for i in range(51)))
        seconds = time.time() - float(Path(f"{scene.notes}25").read_text().split()[0])
    assert isinstance(results[25], KilledWorker), results[25]
    assert [r for r in results if r is not results[25]] == [-i for i in range(51) if i != 25]
    tries = [len(Path(f"{scene.notes}{i}").read_text().splitlines()) for i in range(51)]
    assert tries == [3 if i == 25 else 1 for i in range(51)], f"tries: {tries}"
    return Seen("KilledWorker in its place, 50 results", seconds)


def kill_node(scene: Scene) -> Seen:
    with minidask.Client(n_workers=2, forward_output=False) as client:
        node = client.scheduler_info()["pid"]
        seen = scene.search(client, lambda: os.kill(node, signal.SIGKILL))
    return Seen(seen, scene.gone_on())


# --- machines, a scheduler and other clients ---


class Machines:
    """A scheduler, which can be started again on its port, and two machines of one slot each."""

    def __init__(self, scene: Scene) -> None:
        self._programs = scene.programs
        self.scheduler, self.address = scene.programs.scheduler()
        self.workers = [scene.programs.worker(self.address, "--nworkers", "1") for _ in range(2)]

    def restart_scheduler(self) -> None:
        self.scheduler.send(signal.SIGKILL)
        self.scheduler.exit_code()
        port = self.address.rpartition(":")[2]
        self.scheduler = self._programs.start(sys.executable, "-m", "minidask.scheduler", "--port", port)
        self.scheduler.wait_for("listens on")

    def stop_for(self, seconds: float) -> None:
        """All processes of a machine stand still."""
        stopped = [
            self.workers[0].process.pid,
            *(p.pid for p in psutil.Process(self.workers[0].process.pid).children()),
        ]
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in stopped:
                os.kill(pid, number)
            if number == signal.SIGSTOP:
                time.sleep(seconds)


def on_machines(scene: Scene, fault: Callable[[Machines], Any], most_fits: int = FITS + IN_FLIGHT) -> Seen:
    machines = Machines(scene)
    with minidask.Client(machines.address) as client:
        seen = scene.search(client, lambda: fault(machines))
    fits = len(scene.noted())
    assert fits <= most_fits, f"{fits} fits began, of {FITS}"
    return Seen(seen, scene.gone_on())


def drain(scene: Scene) -> Seen:
    def ask(machines: Machines) -> None:
        machines.workers[0].ask_to_end()
        assert machines.workers[0].exit_code() == 0

    seen = on_machines(scene, ask, most_fits=FITS)
    return Seen(f"{seen.what}, no fit ran twice", seen.seconds)


def restart_scheduler_often(scene: Scene) -> Seen:
    """One call, which ends when the scheduler has been killed often enough."""
    machines = Machines(scene)
    longest, enough = 0.0, False

    def calls() -> Iterator[Any]:
        while not enough:
            yield delayed(pow)(len(given), 2)
            given.append(0)

    def kill_often() -> None:
        nonlocal longest, enough
        try:
            for _ in range(scene.times):
                began, before = time.monotonic(), len(given)
                machines.restart_scheduler()
                wait_until(lambda before=before: len(given) > before + 20, "the call went on", 60)  # type: ignore[misc]
                longest = max(longest, time.monotonic() - began)
        finally:
            enough = True

    given: list[int] = []
    with minidask.Client(machines.address) as client, parallel_config("minidask", scheduler=client):
        client.wait_for_workers(2)
        thread = threading.Thread(target=kill_often)
        thread.start()
        results = list(Parallel(return_as="generator", batch_size=1)(calls()))
        thread.join()
    assert results == [i * i for i in range(len(given))], "a result is wrong or missing"
    return Seen(f"{len(given)} right results of one call, {scene.times} kills", longest)


def kill_client(scene: Scene) -> Seen:
    """Another client's tasks hold all slots until it is killed; then the search has them."""
    machines = Machines(scene)
    with minidask.Client(machines.address) as client:
        other = scene.user("--scheduler", machines.address, "--hang")
        wait_until(lambda: client.scheduler_info()["tasks"]["running"] == 2, "its tasks ran")
        other.send(signal.SIGKILL)
        killed = time.monotonic()
        wait_until(lambda: at_rest(client), "its tasks had ended")
        seconds = time.monotonic() - killed
        seen = scene.search(client, lambda: None)
    return Seen(f"the others: {seen}", seconds)


# --- a network and a file system of one's own ---


def cut(scene: Scene, host: int, seconds: float) -> Seen:
    """The network of one host is cut for so long; or for good, as is told by what goes on without it."""
    if not possible():
        raise Skipped("network namespaces need root, and `ip` (Debian's iproute2)")
    with Network(scene.programs) as network:
        user = scene.user("--scheduler", network.address, before=network.on(CLIENT))
        scene.wait_for_the_middle()
        scene.when = time.time()
        network.cut(host)
        if seconds == FOR_GOOD and host == CLIENT:
            assert user.exit_code(150) == 1, user.text
            last = user.text.strip().splitlines()[-1]
            return Seen(last.partition(":")[0].rpartition(".")[2], time.time() - scene.when)
        if seconds < FOR_GOOD:
            time.sleep(seconds)
            network.mend(host)
        ended = time.time()
        seen = scene.result_of(user)
        after = [note.when for note in scene.noted() if note.when > ended]
    if seconds > HEARTBEAT_TIMEOUT and host != CLIENT:
        return Seen(seen, scene.gone_on())
    return Seen(seen, (after[0] if after else ended) - scene.when)


def kill_all_and_resume(scene: Scene) -> Seen:
    user = scene.user("--resume", str(scene.folder / "kept"))
    scene.wait_for_the_middle()
    os.killpg(user.process.pid, signal.SIGKILL)
    user.exit_code()
    scene.when = time.time()
    seen = scene.result_of(scene.user("--resume", str(scene.folder / "kept")))
    fits = len(scene.noted())
    assert fits <= FITS + IN_FLIGHT, f"{fits} fits began, of {FITS}"
    return Seen(f"{seen}, {fits - FITS} of {FITS} fits twice", scene.gone_on())


def fill_shared_memory(scene: Scene) -> Seen:
    if os.getuid() != 0 or not shutil.which("unshare"):
        raise Skipped("a file system of one's own needs root, and `unshare`")
    script = 'mount -t tmpfs -o size=16M tmpfs /dev/shm && exec "$@"'
    user = scene.user("--fill", before=["unshare", "--mount", "sh", "-c", script, "sh"])
    seen = scene.result_of(user)
    warnings = user.text.count("large data goes to")
    assert warnings == 1, f"{warnings} warnings: {user.text}"
    return Seen(f"{seen}, and one warning", None)


class Fault(NamedTuple):
    """A fault, what docs/faults.md promises, and what injects it; `long` ones are injected only by name."""

    name: str
    promised: str
    inject: Callable[[Scene], Seen]
    long: bool = False


FOR_GOOD = float("inf")


FAULTS = [
    Fault("slot-killed", SAME, kill_slot),
    Fault("slot-segfault", SAME, lambda scene: within_a_task(scene, "segfault")),
    Fault("slot-exit", SAME, lambda scene: within_a_task(scene, "exit")),
    Fault("slot-memory", SAME, lambda scene: within_a_task(scene, "memory", memory_limit="500MiB")),
    Fault("task-hangs", "TaskTimeout in its place, 39 results", hang),
    Fault("poison", "KilledWorker in its place, 50 results", poison),
    Fault("node-killed", SAME, kill_node),
    Fault("machine-killed", SAME, lambda scene: on_machines(scene, lambda m: m.workers[0].send(signal.SIGKILL))),
    Fault("machine-stopped", SAME, lambda scene: on_machines(scene, lambda m: m.stop_for(3))),
    Fault("machine-drained", f"{SAME}, no fit ran twice", drain),
    Fault("machine-cut", SAME, lambda scene: cut(scene, FIRST, 5)),
    Fault("machine-cut-long", SAME, lambda scene: cut(scene, FIRST, 40), long=True),
    Fault("machine-gone", SAME, lambda scene: cut(scene, FIRST, FOR_GOOD), long=True),
    Fault("scheduler-killed", SAME, lambda scene: on_machines(scene, lambda m: m.restart_scheduler())),
    Fault("scheduler-killed-often", "right results", restart_scheduler_often),
    Fault("client-killed", f"the others: {SAME}", kill_client),
    Fault("client-cut", SAME, lambda scene: cut(scene, CLIENT, 5)),
    Fault("client-cut-long", SAME, lambda scene: cut(scene, CLIENT, 40), long=True),
    Fault("client-gone", "SchedulerLost", lambda scene: cut(scene, CLIENT, FOR_GOOD), long=True),
    Fault("all-killed", SAME, kill_all_and_resume),
    Fault("shared-memory-full", f"{SAME}, and one warning", fill_shared_memory),
]
