"""A scheduler, two machines and a place for a client, each on a host of its own, whose network can be cut."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from bench.hosts import Hosts, ip, possible
from tests.helpers import Program, Programs

CLIENT, SCHEDULER, FIRST, SECOND = range(4)

__all__ = ["CLIENT", "FIRST", "SCHEDULER", "SECOND", "Network", "possible"]


class Network:
    """Hosts with the daemons of a cluster, each machine with one slot; a context manager. Its end ends the programs.

    Args:
        programs: starts the programs.
        heartbeat_timeout: of the scheduler.
        death_timeout: of the workers.
    """

    def __init__(self, programs: Programs, heartbeat_timeout: float = 15.0, death_timeout: float = 60.0) -> None:
        self._programs = programs
        self._hosts = Hosts(4)
        self._heartbeat_timeout = heartbeat_timeout
        self._death_timeout = death_timeout
        self.address = f"{self._hosts.address(SCHEDULER)}:8786"

    def __enter__(self) -> Network:
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._hosts)
            stack.callback(self._programs.end_all)  # before their network goes
            self.scheduler = self.start_scheduler()
            self.workers = [self.start_worker(FIRST, "first"), self.start_worker(SECOND, "second")]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def on(self, host: int) -> list[str]:
        """What begins a command that runs on a host."""
        return self._hosts.on(host)

    def start_scheduler(self) -> Program:
        options = ("--host", self._hosts.address(SCHEDULER), "--heartbeat-timeout", str(self._heartbeat_timeout))
        program = self._programs.start(*self.on(SCHEDULER), sys.executable, "-m", "minidask.scheduler", *options)
        program.wait_for("listens on")
        return program

    def start_worker(self, host: int, name: str) -> Program:
        options = ("--nworkers", "1", "--name", name, "--death-timeout", str(self._death_timeout))
        program = self._programs.start(*self.on(host), sys.executable, "-m", "minidask.worker", self.address, *options)
        program.wait_for("joined the scheduler")
        return program

    def cut(self, host: int) -> None:
        """Drop whatever goes to a host or comes from it: nobody is told."""
        self._set(host, "down")

    def mend(self, host: int) -> None:
        """Let it through again."""
        self._set(host, "up")

    @contextlib.contextmanager
    def a_cut(self, host: int) -> Iterator[None]:
        """The host is cut off during the block."""
        self.cut(host)
        try:
            yield
        finally:
            self.mend(host)

    def _set(self, host: int, state: str) -> None:
        ip("link", "set", f"{self._hosts.mark}v{host}", state)
