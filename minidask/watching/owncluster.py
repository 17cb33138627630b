"""A cluster of the watcher's own: a scheduler, and a worker that connects by the relay. All of its frames are seen."""

from __future__ import annotations

import asyncio
import re
import sys
import time

from minidask.errors import MinidaskError
from minidask.host.folders import remove_folders, runtime_folder
from minidask.launch.tethered import Tethered
from minidask.net.addresses import Address

START_SECONDS = 60.0
PATIENT = str(7 * 24 * 3600)
"""Of a cluster whose messages are stepped through: nobody is lost for being silent, as long as one reads."""


class OwnCluster:
    """A scheduler on this machine, and a worker that connects by a relay. They end with this process.

    Args:
        slow: whether nobody is to be lost for being silent.
        plain: whether its connections are not encrypted.

    Raises:
        MinidaskError: it did not start.
        OSError: the system has no process to spare.
    """

    def __init__(self, *, slow: bool, plain: bool) -> None:
        self.folder = runtime_folder()
        self.access_file = str(self.folder / "access")
        self._options = ["--access-file", self.access_file, *(["--no-encryption"] if plain else [])]
        patience = ["--heartbeat-timeout", PATIENT] if slow else []
        self._programs: list[Tethered] = []
        self._start("", "minidask.scheduler", "--port", "0", "--no-workers-timeout", "inf", *patience)

    def _start(self, address: str, module: str, *options: str) -> Tethered:
        command = [sys.executable, "-m", "minidask.launch.tether", address, module, *options, *self._options]
        program = Tethered(command, b"\n", self.folder / f"{module}.log")
        self._programs.append(program)
        return program

    def scheduler(self) -> Address:
        """Wait until the scheduler listens. Returns its address.

        Raises:
            MinidaskError: it did not start. The error says why.
        """
        (program,) = self._programs
        end = time.monotonic() + START_SECONDS
        while (found := re.search(r"minidask\.Client\(\"(.+)\"\)", program.text)) is None:
            if not program.is_alive() or time.monotonic() > end:
                raise MinidaskError(f"the scheduler did not start: {program.last_words}")
            time.sleep(0.02)
        return Address.parse(found[1])

    async def add_worker(self, relay: Address, workers: int) -> None:
        """Start a worker with so many slots, and wait until its log says that it has joined.

        Raises:
            MinidaskError: it has ended, or has not joined within a minute.
        """
        program = self._start(str(relay), "minidask.worker", "--nworkers", str(workers))
        end = time.monotonic() + START_SECONDS
        while "joined" not in program.text:
            if not program.is_alive() or time.monotonic() > end:
                raise MinidaskError(f"the worker did not join: {program.last_words}")
            await asyncio.sleep(0.02)

    def close(self) -> None:
        """End both, and remove their folder."""
        for program in reversed(self._programs):
            program.close()
        remove_folders(self.folder)
