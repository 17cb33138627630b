"""Scheduler and worker in one event loop, for a cluster on one machine.

The two are joined by a link inside the process, so a task crosses two process borders on its way out and
two on its way back: client ─► node ─► slot ─► node ─► client. As a process, the node is started by
`LocalCluster` with one end of a socketpair as its control channel: a line of JSON each way to begin
with, then commands; its end means that the user's process is gone, and ends the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import platform
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minidask._version import __version__
from minidask.data.store import BlobStore
from minidask.host.folders import hold
from minidask.host.packages import installed, python_version
from minidask.host.program import run_loop
from minidask.net.access import load_or_create_secret, put_back
from minidask.net.addresses import Address
from minidask.scheduler.core import SchedulerCore
from minidask.scheduler.events import Event, Received
from minidask.scheduler.server import SchedulerServer
from minidask.task.context import SlotConfig
from minidask.wire.messages import Message
from minidask.worker.launch import Launched
from minidask.worker.memory import MemoryLimits
from minidask.worker.shell import WorkerShell
from minidask.worker.slotpool import PoolEvents, ProcessSlot, SlotFactory

LOOK_SECONDS = 1.0

log = logging.getLogger("minidask.node")


class LocalNode:
    """A scheduler and one worker.

    Args:
        slots: how many calls run at once.
        make_slot: processes or threads.
        limits: how much memory slots may use.
        slot_config: where to listen, the file for the secret, and where large data is, shared with clients.
    """

    def __init__(self, slots: int, make_slot: SlotFactory, limits: MemoryLimits, slot_config: SlotConfig) -> None:
        self._core = SchedulerCore(
            {"version": __version__, "pid": os.getpid(), "python": python_version(), "packages": installed()}
        )
        self.agent = WorkerShell(
            "local", slots, make_slot, limits, slot_config, BlobStore(slot_config.store), None, recipients=self._core
        )
        self._slot_config = slot_config
        self.server: SchedulerServer | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, with a fresh secret, and start the slots."""
        info = {"store": self._slot_config.store}
        secret = load_or_create_secret(self._slot_config.access_file)
        self.server = SchedulerServer(self._core, secret, info)
        await self.server.listen(Address.parse(self._slot_config.scheduler))
        self._keeping = asyncio.create_task(self._keep_reachable(self.server, secret))
        to_worker = _ToWorker(self.agent)
        # A task reaches this worker without a round trip, so it need not hold any in advance.
        worker_info = {**self.agent.info, "prefetch": 0}
        peer = self.server.attach(to_worker, "worker", f"local://{platform.node()}/{os.getpid()}", worker_info)
        self.agent.attach(_ToScheduler(self.server, peer))
        self.agent.start()

    async def _keep_reachable(self, server: SchedulerServer, secret: bytes) -> None:
        """Make socket and secret again when somebody has cleaned their folder up: tasks look for them there."""
        socket_file = Path(Address.parse(self._slot_config.scheduler).path)
        told = False
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if socket_file.exists() and Path(self._slot_config.access_file).exists():
                continue
            try:
                put_back(self._slot_config.access_file, secret)
                await server.listen(Address.parse(self._slot_config.scheduler))
                hold(socket_file.parent)
            except OSError as error:
                if not told:
                    log.warning("%s is gone, and cannot be made again: %s", socket_file, error)
                told = True

    async def close(self) -> None:
        """Say goodbye to clients and end all slots."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self.server is not None:
            await self.server.close("the cluster was closed")
        await self.agent.close()


class _ToWorker:
    """The scheduler's link to the worker."""

    def __init__(self, agent: WorkerShell) -> None:
        self._agent = agent
        self._messages: list[Message] = []

    def send(self, message: Message) -> None:
        self._messages.append(message)

    def flush(self) -> None:
        messages, self._messages = self._messages, []
        self._agent.from_scheduler(messages)

    def close(self) -> None:
        self._messages.clear()


class _ToScheduler:
    """The worker's link to the scheduler."""

    def __init__(self, server: SchedulerServer, peer: int) -> None:
        self._server = server
        self._peer = peer
        self._events: list[Event] = []

    def send(self, message: Message) -> None:
        self._events.append(Received(self._peer, message))

    def flush(self) -> None:
        events, self._events = self._events, []
        self._server.post(*events)

    def close(self) -> None:
        self._events.clear()


# --- the node as a process ---


async def _serve(control: socket.socket, config: dict[str, Any], launched: list[Launched]) -> int:
    reader, writer = await asyncio.open_unix_connection(sock=control)
    limits = MemoryLimits(config["memory_limit"], config["machine_memory"])

    def make_slot(
        number: int, events: PoolEvents, environment: Mapping[str, str], slot_config: SlotConfig
    ) -> ProcessSlot:
        return ProcessSlot(number, events, environment, slot_config, launched.pop() if launched else None)

    slot_config = SlotConfig(config["store"], config["address"], config["access_file"])
    node = LocalNode(config["slots"], make_slot, limits, slot_config)
    try:
        await node.start()
        assert node.server is not None
        writer.write(b'{"ready": true}\n')
        ends = [asyncio.create_task(_obey(reader, node)), asyncio.create_task(node.server.stopped.wait())]
        ends.append(asyncio.create_task(node.agent.gave_up.wait()))
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, node.server.stopped.set)
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
    except OSError as error:
        writer.write(json.dumps({"error": str(error)}).encode() + b"\n")
        return 1
    finally:
        await node.close()
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()
        _remove(config["access_file"], Address.parse(config["address"]).path)
        BlobStore(config["store"]).remove()
    return 0


async def _obey(reader: asyncio.StreamReader, node: LocalNode) -> None:
    """Carry out the user's process's commands, until it ends or is gone."""
    with contextlib.suppress(ConnectionError):
        while line := await reader.readline():
            node.agent.resize(json.loads(line)["scale"])


def _remove(*paths: str) -> None:
    """Take away the node's files and their folder, if the user's process has not done so."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(paths[0]))


def serve(control: socket.socket, config: dict[str, Any], launched: list[Launched]) -> None:
    """The node process, from when `local_boot` has launched its slots."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s:%(name)s: %(message)s")
    sys.exit(run_loop(_serve(control, config, launched)))
