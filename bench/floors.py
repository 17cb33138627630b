"""The floor under each figure: what the machine itself needs for the same work, so that no engine can be faster."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import cast

from bench.data import large_array
from bench.workload import Setting
from minidask.host.program import run_loop

MESSAGE = b"x" * 128
ECHOES = 2000


@contextlib.contextmanager
def _echo_process() -> Iterator[socket.socket]:
    """Yield a socket. At its other end, a process with the node's kind of event loop sends back what it receives."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "bench.floors", str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()
    try:
        with ours:
            yield ours
    finally:
        process.wait(10)


def _echo(setting: Setting) -> float:
    """Return the seconds that one echo takes."""
    with _echo_process() as sock:
        for _ in range(50):
            sock.sendall(MESSAGE)
            sock.recv(1024)
        count = 50 if setting.short else ECHOES
        began = time.perf_counter()
        for _ in range(count):
            sock.sendall(MESSAGE)
            sock.recv(1024)
        return (time.perf_counter() - began) / count


def _copy(setting: Setting) -> float:
    """Return the seconds that one copy of the large array takes."""
    array = large_array(setting)
    target = array.copy()
    began = time.perf_counter()
    target[:] = array
    return time.perf_counter() - began


FLOORS: dict[str, tuple[str, Callable[[Setting], float]]] = {
    "noop": ("one echo", lambda setting: _echo(setting) * 1e6),
    "one_task": ("one echo", lambda setting: _echo(setting) * 1e3),
    "large_first": ("one copy in memory", _copy),
    "large_next": ("one copy in memory", _copy),
}
"""By workload: what the floor is, and how it is measured, in the workload's unit."""


class _Echo(asyncio.Protocol):
    def __init__(self, gone: asyncio.Event) -> None:
        self._gone = gone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()


async def _serve(sock: socket.socket) -> int:
    gone = asyncio.Event()
    await asyncio.get_running_loop().create_unix_connection(lambda: _Echo(gone), sock=sock)
    await gone.wait()
    return 0


if __name__ == "__main__":
    sys.exit(run_loop(_serve(socket.socket(fileno=int(sys.argv[1])))))
