"""`LocalCluster`: a scheduler and workers on this machine, which end with the process that made them.

    this process                              the node, a process of its own
    LocalCluster ──control channel──────────► boot, then node: {"scale": 3} …
         │       ◄─{"ready": true}, {"error"}─
         └─ closes it, or dies ──────────────► its end: the node ends itself and all slots

The control channel is a socketpair. The kernel closes it even if this process is killed, so no node is left behind. A
forked child must not hold it open: see `abandon`. With `processes=False` the node is a thread, and an event takes the
place of the channel.

Scheduler and worker are imported here only if they are to run in this process.
"""

from __future__ import annotations

import _thread
import asyncio
import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING

from minidask.data.store import BlobStore
from minidask.errors import MinidaskError
from minidask.host import checks, descriptors
from minidask.host.folders import remove_folders, runtime_folder
from minidask.host.forks import Layer, on_fork
from minidask.host.resources import cpu_count, memory_total
from minidask.host.signals import pass_on, start
from minidask.host.sizes import count
from minidask.host.spawn import start_python
from minidask.local.config import NodeConfig
from minidask.task.context import SlotConfig

if TYPE_CHECKING:
    from minidask.local.node import LocalNode

MAX_LOSSES = 3
START_SECONDS = 30.0
CLOSE_SECONDS = 8.0

_live_clusters: list[LocalCluster] = []


class LocalCluster:
    """A cluster on this machine.

    Args:
        n_workers: how many tasks run at once; None for the number of usable cores.
        processes: whether workers are processes, or threads of this process.
        memory_limit: bytes that each worker process may use, as a number or "4GiB"; "auto" guards only the machine's
            memory as a whole; None and 0 mean no limit.
        resources: what the machine has beside its workers, as `{"gpu": 1}`, for tasks that need some of it.

    Attributes:
        scheduler_address: the address for `Client`, in this process or another one of the same user.

    Raises:
        TypeError, ValueError: an argument makes no sense.
        MinidaskError: the cluster did not start. The error says why.
    """

    def __init__(
        self,
        n_workers: int | None = None,
        *,
        processes: bool = True,
        memory_limit: str | int | None = "auto",
        resources: Mapping[str, float] | None = None,
    ) -> None:
        if sys.platform == "win32":
            raise MinidaskError("minidask does not support Windows; it runs in WSL")
        self.n_workers = cpu_count() if n_workers is None else checks.workers("n_workers", n_workers)
        slot_limit = checks.memory("memory_limit", memory_limit)
        processes = checks.flag("processes", processes)
        resources = checks.resources("resources", resources)
        if not processes and _thread.start_new_thread.__module__ != "_thread":
            raise MinidaskError(
                "a cluster of threads needs real ones, and gevent or Eventlet has put greenlets in their place:"
                " use processes=True"
            )
        if processes:
            descriptors.check(self.n_workers)
        try:
            self._folder = runtime_folder()
            self._store = BlobStore.make()
        except OSError as error:
            pass_on(error)
            raise MinidaskError(f"the local cluster did not start: {error}") from error
        self.scheduler_address = f"unix://{self._folder}/scheduler"
        self.access_file = str(self._folder / "access")
        self._pid = os.getpid()
        self._node: _NodeProcess | _NodeThread
        slot_config = SlotConfig(
            str(self._store.folder), self.scheduler_address, self.access_file, uid=os.urandom(16).hex()
        )
        self._config = NodeConfig(
            self.n_workers,
            slot_limit if processes else None,
            memory_total(),
            slot_config,
            [str(folder) for folder in (self._folder, *self._store.folders())],
            resources,
        )
        self._reviving = threading.Lock()
        try:
            self._node = _NodeProcess(self._config) if processes else _NodeThread(self._config)
        except OSError as error:
            self._remove_folders()
            pass_on(error)
            raise MinidaskError(f"the local cluster did not start: {error}") from error
        except BaseException:
            self._remove_folders()
            raise
        _live_clusters.append(self)

    def scale(self, n: int) -> None:
        """Change the number of workers to `n`. Surplus workers end after the task that they run.

        Raises:
            ValueError: `n` is no whole number from 1 to 10,000.
            MinidaskError: the cluster is closed, or `n` workers need more open files than this process may have.
        """
        count = checks.workers("n", n)
        if self not in _live_clusters:
            raise MinidaskError("this cluster is closed, or belongs to the process that forked this one off")
        if isinstance(self._node, _NodeProcess):
            descriptors.check(count)
        self.n_workers = count
        self._node.scale(count)

    def revive(self, losses: int) -> None:
        """Start the cluster's process again if it has died. Clients call this when they have lost their connection.

        Args:
            losses: how often a client has lost it since a task of its had an outcome.

        Raises:
            MinidaskError: the cluster is closed, does not start, or has died `MAX_LOSSES` times for nothing.
        """
        with self._reviving:
            if self._pid != os.getpid() or self not in _live_clusters:
                raise MinidaskError("the cluster is closed")
            if not isinstance(self._node, _NodeProcess) or not self._node.has_ended():
                return
            if losses >= MAX_LOSSES:
                raise MinidaskError(f"the cluster's process has died {losses + 1} times, and no task ended in between")
            self._node.close()
            self._node = _NodeProcess(self._config._replace(slots=self.n_workers))

    def close(self) -> None:
        """End the cluster, stop all of its tasks and wait for its processes to end. Further calls do nothing."""
        if self._pid == os.getpid() and self in _live_clusters:
            self._node.close()
            self._remove_folders()
            with contextlib.suppress(ValueError):  # another thread has closed it too
                _live_clusters.remove(self)  # last: a close that was interrupted is tried again at exit

    def _remove_folders(self) -> None:
        remove_folders(self._folder, *self._store.folders())

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = count(self.n_workers, "worker") if self in _live_clusters else "closed"
        return f"<minidask.LocalCluster {self.scheduler_address} {state}>"


class _NodeProcess:
    """The node as a process of its own. It ends when this end of the control channel is closed.

    Raises:
        MinidaskError: the node did not start within 30 seconds, or it said why it cannot.
        OSError: the system has no process or descriptor to spare.
    """

    def __init__(self, config: NodeConfig) -> None:
        self._control, theirs = socket.socketpair()
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = start_python(
                "minidask.local.boot",
                [str(theirs.fileno()), config.to_json()],
                [theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,  # the terminal's Ctrl-C is for the user's own process
            )
            theirs.close()
            answer = self._answer()
        except BaseException:
            theirs.close()
            if self._process is not None:
                self._process.kill()  # a closed channel would end it only once it has started
            self.close()
            raise
        if "ready" not in answer:
            self.close()
            reason = json.loads(answer)["error"] if answer else "it said nothing; see its messages above"
            raise MinidaskError(f"the local cluster did not start: {reason}")

    def _answer(self) -> str:
        """Return the node's first words, a line of JSON; "" if it has ended or is too slow."""
        self._control.settimeout(START_SECONDS)
        try:
            with self._control.makefile() as file:
                return file.readline()
        except OSError as error:
            pass_on(error)
            return ""

    def has_ended(self) -> bool:
        """Whether the node has ended, by whatever cause."""
        return self._process is None or self._process.poll() is not None

    def scale(self, slots: int) -> None:
        """Have this many slots from now on."""
        self._control.sendall(json.dumps({"scale": slots}).encode() + b"\n")

    def close(self) -> None:
        self._control.close()
        if self._process is None:
            return
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def abandon(self) -> None:
        """Close a forked child's copy of the control channel: otherwise the child would keep the node alive."""
        self._control.close()


class _NodeThread:
    """The node as a thread of this process, with threads for slots.

    Raises:
        MinidaskError: the node did not start.
    """

    def __init__(self, config: NodeConfig) -> None:
        self._started: Future[tuple[LocalNode, asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, args=(config,), name="minidask-node", daemon=True)
        start(self._thread)
        try:
            self._node, self._loop, self._end = self._started.result(START_SECONDS)
        except OSError as error:
            pass_on(error)
            raise MinidaskError(f"the local cluster did not start: {error}") from error

    def _run(self, config: NodeConfig) -> None:
        from minidask.host.program import run_loop  # noqa: PLC0415 - as in _serve

        run_loop(self._serve(config))

    async def _serve(self, config: NodeConfig) -> int:
        # The user's process loads scheduler and worker only if they are to run inside it.
        from minidask.local.node import run_node  # noqa: PLC0415
        from minidask.worker.slotpool import ThreadSlot  # noqa: PLC0415

        loop, end = asyncio.get_running_loop(), asyncio.Event()
        try:
            await run_node(
                config, ThreadSlot, lambda node: self._started.set_result((node, loop, end)), lambda _: end.wait()
            )
        except (OSError, MinidaskError) as error:
            if self._started.done():
                raise
            self._started.set_exception(error)
        return 0

    def scale(self, slots: int) -> None:
        """Have this many slots from now on."""
        self._loop.call_soon_threadsafe(self._node.shell.resize, slots)

    def close(self) -> None:
        """End the node, and wait up to 8 seconds for its thread. A thread that takes longer is left to itself."""
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(CLOSE_SECONDS)

    def abandon(self) -> None:
        """Do nothing: a forked child has no copy of the node's thread."""


def _close_all() -> None:
    for cluster in list(_live_clusters):
        cluster.close()


def _after_fork_in_child() -> None:
    for cluster in _live_clusters:
        cluster._node.abandon()
    _live_clusters.clear()


atexit.register(_close_all)
on_fork(Layer.CLUSTERS, _after_fork_in_child)
