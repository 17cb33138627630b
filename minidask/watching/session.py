"""A session of `minidask-watch`: what is seen is printed and passed on, until the command or a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from minidask.host.sizes import format_bytes
from minidask.host.texts import printable
from minidask.net.addresses import Address
from minidask.wire.messages import Heartbeat

from .definitions import Definition, Definitions
from .owncluster import OwnCluster
from .relay import SCHEDULER, Sighting, WatchRelay
from .sequence import CallSequence
from .words import fields_of

TEXT = "protocol.md"
END_SECONDS = 10.0


class Printer:
    """Prints what is seen: a line for each message, and what it means when its kind comes for the first time."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._definitions = Definitions(Path(__file__).with_name(TEXT).read_text(encoding="utf-8"))
        self._told: set[Definition] = set()

    def where(self, seen: Sighting) -> str:
        """Where the protocol's text defines a message, as "protocol.md:240"."""
        found = self._definition(seen)
        return f"{TEXT}:{found.line}" if found is not None else ""

    def _definition(self, seen: Sighting) -> Definition | None:
        ways = (seen.passage.role, SCHEDULER) if seen.from_program else (SCHEDULER, seen.passage.role)
        return self._definitions.find(type(seen.message).__name__, *ways)

    def show(self, seen: Sighting) -> None:
        """Print it.

        Raises:
            OSError: nobody reads.
        """
        if seen.message is None:
            who = seen.passage.name if seen.from_program else f"for {seen.passage.name}, the scheduler"
            self._print(f"{seen.at:9.4f}  {who} {seen.text}")
            return
        way = f"{seen.sender:>9} → {seen.receiver:<9}"
        name, size = type(seen.message).__name__, format_bytes(seen.size)
        self._print(f"{seen.at:9.4f}  {way}  {name:<13} {size:>9}  {self.where(seen)}  {fields_of(seen.message)}")
        found = self._definition(seen)
        if found is not None and found not in self._told:
            self._told.add(found)
            self._print(f"{'':11}“{found.heading}”: {found.meaning}")

    def _print(self, line: str) -> None:
        print(printable(line), file=self._out, flush=True)


class Watching(NamedTuple):
    """What is to be watched, and how.

    Attributes:
        relay: listens already, at `address`.
        address: where programs connect.
        access_file: for them.
        own: the cluster, if it has no worker yet.
        workers: how many slots that one is to have.
        command: to run, with the relay as its cluster; empty: none.
        slow: whether each message waits for a line of standard input.
        printer: prints what is seen.
        sequence: finds the call that is to be drawn.
        stopped: set to end it.
    """

    relay: WatchRelay
    address: Address
    access_file: str
    own: OwnCluster | None
    workers: int
    command: Sequence[str]
    slow: bool
    printer: Printer
    sequence: CallSequence
    stopped: asyncio.Event

    async def run(self) -> int:
        """Watch until the command ends, or a signal comes. Returns the command's exit code, or 0.

        Raises:
            MinidaskError: the scheduler has ended, or a worker of its own did not join.
            OSError: nobody reads what is printed, or there is no such command.
        """
        passing, working = asyncio.create_task(self._pass_on()), asyncio.create_task(self._work())
        ended = asyncio.create_task(self.stopped.wait())
        try:
            done, _ = await asyncio.wait((passing, working, ended), return_when=asyncio.FIRST_COMPLETED)
            if passing in done:
                passing.result()
            return working.result() if working in done else 0
        finally:
            working.cancel()
            await asyncio.wait([working])  # the command ends, and its messages still pass
            passing.cancel()
            ended.cancel()
            await self.relay.close()

    async def _pass_on(self) -> None:
        lines = _lines_of_stdin() if self.slow else None
        while True:
            seen = await self.relay.next()
            self.printer.show(seen)
            self.sequence.add(seen, self.printer.where(seen))
            is_step = seen.message is not None and not isinstance(seen.message, Heartbeat)
            if lines is not None and is_step and await lines.get() is None:
                lines = None  # nobody steps any more
            self.relay.pass_on(seen)

    async def _work(self) -> int:
        """Add the worker, and run the command. Returns its exit code."""
        if self.own is not None:
            await self.own.start_worker(self.address, self.workers)
        print(f"minidask-watch: connect to {self.address}, with the access file {self.access_file}", flush=True)
        if not self.command:
            await asyncio.Event().wait()
        variables = {"MINIDASK_SCHEDULER": str(self.address), "MINIDASK_ACCESS_FILE": self.access_file}
        process = await asyncio.create_subprocess_exec(
            *self.command, env={**os.environ, **variables}, stdin=asyncio.subprocess.DEVNULL if self.slow else None
        )
        try:
            return await process.wait()
        finally:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Have a process end that may still run."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), END_SECONDS)


def _lines_of_stdin() -> asyncio.Queue[bytes | None]:
    """The lines of standard input, as they come; None at its end."""
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[bytes | None]()

    def read() -> None:  # by the kernel's call: at the end of the process nothing waits for this thread
        while data := os.read(sys.stdin.fileno(), 4096):
            for _ in range(data.count(b"\n")):
                loop.call_soon_threadsafe(lines.put_nowait, b"")
        loop.call_soon_threadsafe(lines.put_nowait, None)

    threading.Thread(target=read, name="minidask-watch", daemon=True).start()
    return lines
