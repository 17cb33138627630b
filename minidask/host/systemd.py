"""Tells systemd that a daemon is ready, alive, or ending, where systemd has started it with `Type=notify`.

Each notice is a datagram of a line, as sd_notify(3) has it. `docs/systemd/` has units for both daemons.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import MutableMapping

from minidask.host.signals import suppress


class Systemd:
    """The service manager, if there is one; else nothing is told to anybody.

    Args:
        environment: what systemd has told this process. It is taken out, as it is not for the tasks.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        ours = environment.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self._watchdog = int(microseconds) / 1e6 if microseconds.isdecimal() and ours and self._address else 0.0
        self._watch: asyncio.Task[None] | None = None

    def ready(self) -> None:
        """Say that the daemon is ready, and from now on that its event loop runs; to be called in that loop."""
        self._tell("READY=1")
        self._watch = asyncio.get_running_loop().create_task(self._keep_telling())

    def stopping(self) -> None:
        """Say that the daemon ends."""
        if self._watch is not None:
            self._watch.cancel()
        self._tell("STOPPING=1")

    def _tell(self, line: str) -> None:
        """Send a notice. What does not arrive is nobody's loss: systemd acts by its limits then."""
        if self._address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.connect("\0" + self._address[1:] if self._address.startswith("@") else self._address)
                sock.send(line.encode())

    async def _keep_telling(self) -> None:
        while self._watchdog:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog / 2)  # twice in the time after which systemd would end this process
