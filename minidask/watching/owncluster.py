"""A cluster of the watcher's own: a scheduler, and a worker that connects by the relay: so all is seen."""

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
    """A scheduler and a worker on this machine. They end with this process.

    Args:
        options: for both, on encryption.

    Attributes:
        access_file: for all who connect.

    Raises:
        OSError: no folder can be written to.
    """

    def __init__(self, *options: str) -> None:
        self._folder = runtime_folder()
        self.access_file = str(self._folder / "access")
        self._options = ["--access-file", self.access_file, *options]
        self._programs: list[Tethered] = []

    async def start_scheduler(self, *, slow: bool) -> Address:
        """Start the scheduler. Returns its address.

        Args:
            slow: whether nobody is to be lost for being silent.

        Raises:
            MinidaskError, OSError: it did not start. The error says why.
        """
        options = ["--port", "0", "--no-workers-timeout", "inf", *(["--heartbeat-timeout", PATIENT] if slow else [])]
        return Address.parse(await self._start(r"minidask\.Client\(\"(.+)\"\)", "", "minidask.scheduler", *options))

    async def start_worker(self, relay: Address, workers: int) -> None:
        """Start a worker with so many slots, and wait until it has joined: as `start_scheduler`."""
        await self._start("(joined)", str(relay), "minidask.worker", "--nworkers", str(workers))

    async def _start(self, pattern: str, *command: str) -> str:
        tether = [sys.executable, "-m", "minidask.launch.tether", *command, *self._options]
        program = Tethered(tether, b"\n", self._folder / f"{len(self._programs)}.log")
        self._programs.append(program)
        end = time.monotonic() + START_SECONDS
        while (found := re.search(pattern, program.text)) is None:
            if not program.is_alive() or time.monotonic() > end:
                raise MinidaskError(f"a cluster to be watched did not start: {program.last_words}")
            await asyncio.sleep(0.02)
        return found[1]

    def close(self) -> None:
        """End both, and remove their folder."""
        for program in reversed(self._programs):
            program.close()
        remove_folders(self._folder)
