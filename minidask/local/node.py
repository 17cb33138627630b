"""The node: scheduler and worker in one event loop, for a cluster on one machine.

    client ─socket─► SchedulerServer ─list─► WorkerShell ─socketpair─► slot
    client ◄───────── SchedulerServer ◄─list─ WorkerShell ◄─────────── slot

The two are joined by a link inside the process, a list of messages. So a task crosses two process borders on its way to
a slot, and none of its messages is encoded between scheduler and worker.

As a process, the node has a control channel to the user's process (`cluster.py`). The node reads its configuration from
it, writes one line that it is ready, and then reads commands. The end of the channel means that the user's process is
gone. Then the node ends, with all slots.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import platform
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from minidask._version import __version__
from minidask.data.store import BlobStore
from minidask.host import logs
from minidask.host.folders import hold, remove_folders
from minidask.host.packages import installed, python_version
from minidask.host.program import run_loop, start_logging, unpickle_nothing
from minidask.local.config import NodeConfig
from minidask.net.access import load_or_create_access, put_back
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials
from minidask.scheduler.core import SchedulerCore
from minidask.scheduler.events import Received
from minidask.scheduler.server import SchedulerServer
from minidask.task.context import SlotConfig
from minidask.wire.messages import Message
from minidask.worker.launch import Launched
from minidask.worker.memory import MemoryLimits
from minidask.worker.shell import WorkerShell
from minidask.worker.slotpool import PoolEvents, ProcessSlot, SlotFactory, ThreadSlot

LOOK_SECONDS = 1.0

log = logging.getLogger("minidask.node")


class LocalNode:
    """A scheduler and one worker in one event loop.

    Args:
        config: the node's configuration.
        make_slot: makes slots, as processes or threads.

    Raises:
        AuthenticationError: the file for the secret cannot be written.
    """

    def __init__(self, config: NodeConfig, make_slot: SlotFactory) -> None:
        core = SchedulerCore(
            {"version": __version__, "pid": os.getpid(), "python": python_version(), "packages": installed()},
            allow_shutdown=True,
        )
        core.answers.logs.own = logs.kept.last
        limits, store = MemoryLimits(config.memory_limit, config.machine_memory), BlobStore(config.slot.store)
        self.shell = WorkerShell(
            "local", config.slots, make_slot, limits, config.slot, store, None,
            recipients=core, resources=config.resources,
        )  # fmt: skip
        self._config = config.slot
        self._access = load_or_create_access(config.slot.access_file)
        described = {"store": config.slot.store, "leases": make_slot is not ThreadSlot}
        self.server = SchedulerServer(core, Credentials(self._access), described)
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen for clients, join scheduler and worker, and start the slots.

        Raises:
            OSError: the address cannot be listened at.
        """
        await self.server.listen(Address.parse(self._config.scheduler))
        self._keeping = asyncio.create_task(self._keep_reachable())
        # A task reaches this worker without a round trip, so the worker prefetches none.
        info = {**self.shell.info, "prefetch": 0}
        to_worker = InProcessLink(self.shell.from_scheduler)
        peer = self.server.attach(to_worker, "worker", f"local://{platform.node()}/{os.getpid()}", info)
        self.shell.attach(InProcessLink(lambda messages: self.server.post(*(Received(peer, m) for m in messages))))
        self.shell.start()

    async def _keep_reachable(self) -> None:
        """Make socket and access file again if somebody removes them, as a cleaner of `/tmp` does. Tasks need both."""
        socket_file = Path(Address.parse(self._config.scheduler).path)
        warned = False
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if socket_file.exists() and Path(self._config.access_file).exists():
                continue
            try:
                put_back(self._config.access_file, self._access)
                await self.server.listen(Address.parse(self._config.scheduler))
                hold(socket_file.parent)
            except OSError as error:
                if not warned:
                    log.warning("%s is gone, and cannot be made again: %s", socket_file, error)
                warned = True

    async def close(self) -> None:
        """Tell all clients why this is the end, end all slots, and wait until they are gone."""
        if self._keeping is not None:
            self._keeping.cancel()
        await self.server.close(self.shell.reason or "the cluster was closed")
        await self.shell.close()


class InProcessLink:
    """A link inside one process: `flush` calls `deliver` with all queued messages."""

    def __init__(self, deliver: Callable[[list[Message]], None]) -> None:
        self._deliver = deliver
        self._messages: list[Message] = []

    def send(self, message: Message) -> None:
        """Queue a message."""
        self._messages.append(message)

    def flush(self) -> None:
        """Deliver all queued messages."""
        messages, self._messages = self._messages, []
        self._deliver(messages)

    def close(self) -> None:
        """Drop all queued messages."""
        self._messages.clear()


async def run_node(
    config: NodeConfig,
    make_slot: SlotFactory,
    on_ready: Callable[[LocalNode], None],
    until: Callable[[LocalNode], Coroutine[Any, Any, object]],
) -> None:
    """Run a node to its end: `until(node)` returns, a client shuts it down, or its worker gives up.

    Args:
        config: the node's configuration.
        make_slot: makes slots, as processes or threads.
        on_ready: called with the node, once clients can connect.
        until: called with the node; the node ends when it returns.

    Raises:
        AuthenticationError, OSError: the node cannot start.
    """
    node = LocalNode(config, make_slot)
    try:
        await node.start()
        on_ready(node)
        waits = (until(node), node.server.stopped.wait(), node.shell.gave_up.wait())
        ends = [asyncio.create_task(wait) for wait in waits]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
    finally:
        await node.close()


# --- the node as a process ---


async def _serve(control: socket.socket, config: NodeConfig, launched: list[Launched]) -> int:
    reader, writer = await asyncio.open_unix_connection(sock=control)

    def make_slot(
        number: int, events: PoolEvents, environment: Mapping[str, str], slot_config: SlotConfig
    ) -> ProcessSlot:
        return ProcessSlot(number, events, environment, slot_config, launched.pop() if launched else None)

    def on_ready(node: LocalNode) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, node.server.stopped.set)
        writer.write(b'{"ready": true}\n')

    try:
        await run_node(config, make_slot, on_ready, functools.partial(_obey, reader))
    except OSError as error:
        writer.write(json.dumps({"error": str(error)}).encode() + b"\n")
        return 1
    finally:
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()
        remove_folders(*map(Path, config.folders))  # the user's process may be gone
    return 0


async def _obey(reader: asyncio.StreamReader, node: LocalNode) -> None:
    """Carry out the commands of the user's process, until the control channel ends."""
    with contextlib.suppress(ConnectionError):
        while line := await reader.readline():
            node.shell.resize(json.loads(line)["scale"])


def serve(control: socket.socket, config: NodeConfig, launched: list[Launched]) -> None:
    """Run the node until its control channel ends, with the slots that `boot` has launched; then exit the process."""
    start_logging("warning", "%(levelname)s:%(name)s: %(message)s")
    unpickle_nothing()
    sys.exit(run_loop(_serve(control, config, launched)))
