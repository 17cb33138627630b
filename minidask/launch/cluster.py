"""A cluster that an engine has put on machines: the scheduler runs here, and all ends with this process.

    this process                    this machine                          other machines
    LaunchedCluster ──── held ────► tether ──► minidask-scheduler ◄────── minidask-worker
         │  └──────── Client: how much is queued, who has joined ─┘             ▲
         └─ engine: start, stop, alive ─────────────────────────────────────────┘

A thread looks once a second: who has ended, and why; and with `adapt`, how many machines there should be.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minidask.client.client import Client
from minidask.client.registry import remove
from minidask.errors import MinidaskError, SchedulerLost
from minidask.host import checks
from minidask.host.folders import remove_folders, runtime_folder
from minidask.host.forks import Layer, on_fork
from minidask.host.signals import start as start_thread
from minidask.host.sizes import count
from minidask.launch.adapt import Adaptive, Backlog, JoinedMachine
from minidask.launch.engine import ALIVE, Engine, Plan
from minidask.launch.tethered import Tethered
from minidask.net.access import default_access_file

START_SECONDS = 60.0
END_SECONDS = 10.0
LOOK_SECONDS = 1.0
OWN_NAME = "minidask-launch"

log = logging.getLogger("minidask.launch")

_live_clusters: list[LaunchedCluster] = []


class LaunchedCluster:
    """A scheduler on this machine, and workers that an engine places on others.

    Args:
        engine: makes the engine, once it is known where the scheduler listens.
        host: where the scheduler listens.
        port: 0 lets the kernel choose.
        access_file: of the cluster; None for one of its own, which ends with it.
        reach: the host by which machines reach the scheduler; None: as the scheduler says.
        python: the Python of the machines.
        worker_options: for `minidask-worker`.
        scheduler_options: for `minidask-scheduler`.
        shared: whether machines read the access file, and write their logs, on a disk that they share with this one.

    Attributes:
        scheduler_address: for `Client`.
        access_file: the same.
        failed: why machines have ended, by id.

    Raises:
        MinidaskError: the scheduler did not start. The error says why.
    """

    def __init__(
        self,
        engine: Callable[[Plan], Engine],
        *,
        host: str = "0.0.0.0",
        port: int = 0,
        access_file: str | Path | None = None,
        reach: str | None = None,
        python: str | None = None,
        worker_options: Sequence[str] = (),
        scheduler_options: Sequence[str] = ("--allow-shutdown",),
        shared: bool = False,
    ) -> None:
        self.failed: dict[str, str] = {}
        self._failures = 0  # machines that have ended before they joined
        self._ids: list[str] = []
        self._joined: set[str] = set()  # of all times
        self._adaptive: Adaptive | None = None
        self._changing = threading.RLock()
        self._end = threading.Event()
        self._watch: threading.Thread | None = None
        self._client: Client | None = None
        self.folder = runtime_folder()
        self._shared = _shared_folder() if shared else self.folder
        self.access_file = str(access_file or self._shared / "access")
        options = ["--host", host, "--port", str(port), "--access-file", self.access_file, *scheduler_options]
        tether = [sys.executable, "-m", "minidask.launch.tether", "", "minidask.scheduler"]
        self._scheduler = Tethered(
            [*tether, *options, "--no-workers-timeout", "inf"], b"\n", self.folder / "scheduler.log"
        )
        _live_clusters.append(self)
        try:
            self.scheduler_address = self._address()
            self._client = Client(self.scheduler_address, access_file=self.access_file, name=OWN_NAME)
            remove(self._client)  # `Parallel` uses the clients that the user has made
            port = int(self.scheduler_address.rpartition(":")[2])
            address = self.scheduler_address if reach is None else f"{reach}:{port}"
            plan = Plan(address, self.access_file, python or sys.executable, tuple(worker_options), self._shared)
            self.engine = engine(plan)
        except BaseException:
            self.close()
            raise

    def _address(self) -> str:
        end = time.monotonic() + START_SECONDS
        while (found := re.search(r"minidask\.Client\(\"(.+)\"\)", self._scheduler.text)) is None:
            if not self._scheduler.is_alive() or time.monotonic() > end:
                raise MinidaskError(f"the scheduler did not start: {self._scheduler.last_words}")
            time.sleep(0.02)
        return found[1]

    # --- machines ---

    def scale(self, n: int) -> None:
        """Have `n` machines from now on. Surplus ones end after what they run; those go first that run least.

        Raises:
            TypeError, ValueError: `n` is no whole number, or below 0.
            MinidaskError: the engine refuses.
        """
        n = checks.whole("n", n, 0, checks.MOST_WORKERS)
        with self._changing:
            self._adaptive = None
            self._look()
            if len(self._ids) < n:
                started = self.start(n - len(self._ids))
                if len(self._ids) < n:
                    log.warning("%s more, of those that were asked for: there are no others", len(started))
            elif len(self._ids) > n:
                busy = {machine["name"]: machine["tasks"] for machine in self._info()["machines"]}
                least_first = sorted(self._ids, key=lambda name: busy.get(name, -1))
                self.stop(least_first[: len(self._ids) - n])

    def adapt(self, minimum: int = 0, maximum: int = 10, *, idle: float = 60.0, worth: float = 10.0) -> None:
        """Have as many machines from now on as there is work for. `scale` ends that.

        Args:
            minimum, maximum: machines. With a minimum of 0 one stays while a client is connected.
            idle: seconds without work after which a machine goes.
            worth: seconds that work must take for a machine to be started for it.

        Raises:
            TypeError, ValueError: these make no sense.
        """
        minimum = checks.whole("minimum", minimum, 0, checks.MOST_WORKERS)
        maximum = checks.whole("maximum", maximum, max(1, minimum), checks.MOST_WORKERS)
        with self._changing:
            self._adaptive = Adaptive(minimum, maximum, checks.seconds("idle", idle), checks.seconds("worth", worth))
        self._start_looking()

    def start(self, n: int) -> list[str]:
        """Ask the engine for `n` more machines. Returns their ids, which are the names of their workers."""
        with self._changing:
            ids = self.engine.start(n)
            self._ids += ids
            self._start_looking()
            return ids

    def stop(self, ids: Iterable[str]) -> None:
        """Have these machines end when what they run has ended."""
        with self._changing:
            gone = set(ids)
            self._ids = [name for name in self._ids if name not in gone]
            self.engine.stop(gone)

    def wait_for_machines(self, timeout: float = START_SECONDS) -> None:
        """Wait until each machine's worker has joined, or has ended. Those that have ended are logged, each with why.

        Raises:
            MinidaskError: none has joined by then.
        """
        end = time.monotonic() + timeout
        while True:
            joined = {machine["name"] for machine in self._info()["machines"]}
            self._joined |= joined
            with self._changing:
                self._look()
                waits = [name for name in self._ids if name not in joined]
            if not waits or time.monotonic() > end:
                break
            time.sleep(0.05)
        if not joined:
            reasons = [f"{name}: {why}" for name, why in self.failed.items()]
            reasons += [f"{name}: its worker has not joined within {count(timeout, 'second')}" for name in waits]
            raise MinidaskError("no machine has joined\n  " + "\n  ".join(reasons))

    def wait_until_joined(self, n: int, timeout: float = START_SECONDS) -> None:
        """Wait until `n` machines have joined, whoever has started them.

        Raises:
            MinidaskError: there are fewer by then.
        """
        end = time.monotonic() + timeout
        while (joined := len(self._info()["machines"])) < n:
            if time.monotonic() > end:
                raise MinidaskError(f"{joined} of {count(n, 'worker')} have joined within {count(timeout, 'second')}")
            time.sleep(0.05)

    def _info(self) -> dict[str, Any]:
        if self._client is None:
            raise MinidaskError("this cluster is closed")
        return self._client.scheduler_info()

    def _look(self) -> None:
        states = self.engine.alive(self._ids)
        for name, state in states.items():
            if state != ALIVE:
                log.warning("%s has ended: %s", name, state)
                self.failed[name] = state
                self._failures += name not in self._joined
        self._ids = [name for name in self._ids if states.get(name) == ALIVE]

    def _start_looking(self) -> None:
        if self._watch is None:
            self._watch = threading.Thread(target=self._keep_looking, name="minidask-launch", daemon=True)
            start_thread(self._watch)

    def _keep_looking(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            try:
                with self._changing:
                    if not self._end.is_set():
                        self._look()
                        self._adapt()
            except SchedulerLost as error:
                log.warning("the cluster is not looked after any more: %s", error)
                return
            except (MinidaskError, OSError) as error:
                log.warning("%s", error)

    def _adapt(self) -> None:
        if self._adaptive is None:
            return
        seen = see(self._info(), self._ids, self._failures)
        self._joined |= set(seen.joined)
        decision = self._adaptive.decide(seen, time.monotonic())
        if decision.start:
            started = self.start(decision.start)
            log.info("asked for %s", ", ".join(started) or "more machines, but the engine has no more")
        if decision.stop:
            log.info("not needed any more: %s", ", ".join(decision.stop))
            self.stop(decision.stop)

    # --- the end ---

    def close(self) -> None:
        """End the cluster, stop all of its tasks, and wait some seconds for its end. Further calls do nothing."""
        if self not in _live_clusters:
            return
        self._end.set()
        with self._changing:
            try:
                if self._client is not None and (self._client.shell.connection.peer_info or {}).get("shutdown"):
                    self._client.shutdown()
            except (MinidaskError, OSError) as error:
                log.warning("the cluster did not end by itself: %s", error)
            finally:
                self._close_the_rest()
        if self._watch is not None:
            self._watch.join(END_SECONDS)

    def _close_the_rest(self) -> None:
        if self._client is not None:
            self._client.close()
        self._scheduler.close()
        engine = getattr(self, "engine", None)
        if engine is not None:
            engine.stop(self._ids)
            end = time.monotonic() + END_SECONDS
            while ALIVE in engine.alive(self._ids).values() and time.monotonic() < end:
                time.sleep(0.02)
        remove_folders(self.folder, self._shared)
        _live_clusters.remove(self)

    def _abandon(self) -> None:
        self._scheduler.let_go()
        getattr(getattr(self, "engine", None), "abandon", lambda: None)()

    def __enter__(self) -> LaunchedCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = count(len(self._ids), "machine") if self in _live_clusters else "closed"
        return f"<minidask.{type(self).__name__} {self.scheduler_address} {state}>"


def _shared_folder() -> Path:
    """Make a folder beside the access file's usual place, in the user's home."""
    name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
    folder = default_access_file().expanduser().parent / name
    folder.mkdir(mode=0o700, parents=True)
    return folder


def see(info: dict[str, Any], ids: Sequence[str], failures: int) -> Backlog:
    """What `adapt` looks at, from what the scheduler says. Pure.

    A task that a machine has been sent ahead, and has no slot for yet, is queued. One that needs resources counts for
    as many slots as it takes up on these machines: see `slots_of`.
    """
    machines = [machine for machine in info["machines"] if machine["name"] in ids]
    ahead = sum(max(0, machine["tasks"] - machine["workers"]) for machine in machines)
    tasks = info["tasks"]
    joined = {machine["name"]: JoinedMachine(machine["workers"], machine["tasks"]) for machine in machines}
    clients = sum(client["name"] != OWN_NAME for client in info["clients"])
    needing = sum(waiting * (slots_of(needs, machines) - 1) for needs, waiting in info["needs"])
    queued, running = tasks["queued"] + ahead + math.ceil(needing), tasks["running"] - ahead
    return Backlog(queued, running, tasks["finished"], clients, joined, tuple(ids), failures)


def slots_of(needs: Mapping[str, float], machines: Sequence[Mapping[str, Any]]) -> float:
    """How many slots of these machines a task takes up that needs resources.

    That is 8 if each machine has 8 and one GPU. It is 0 if no machine has what the task needs: more of them would be of
    no use. As long as there is no machine, it is 1.
    """
    fitting = [
        (machine, min(machine["resources"].get(name, 0.0) / amount for name, amount in needs.items()))
        for machine in machines
    ]
    able = [max(1.0, machine["workers"] / int(times + 1e-6)) for machine, times in fitting if times > 1 - 1e-6]
    return min(able, default=0.0) if machines else 1.0


def _close_all() -> None:
    for cluster in list(_live_clusters):
        cluster.close()


def _after_fork_in_child() -> None:
    for cluster in _live_clusters:
        cluster._abandon()
    _live_clusters.clear()


atexit.register(_close_all)
on_fork(Layer.CLUSTERS, _after_fork_in_child)
