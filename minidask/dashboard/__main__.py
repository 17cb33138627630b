"""`minidask-dashboard`: what a cluster does, in a browser.

    Client.events() ─► one thread ─► Model ◄─ DashboardServer ─► browsers

It outlives its scheduler: it shows that there is none, and tries again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from minidask.client.client import Client
from minidask.errors import MinidaskError, SchedulerLost
from minidask.host.program import fail, port_option
from minidask.viewers.options import connected, viewer_parser

from .model import Model
from .server import SECONDS, Dashboard, DashboardServer

PROGRAM = "minidask-dashboard"
DESCRIPTION = "Show in a browser what the cluster at ADDRESS does: machines, tasks, time, data. It prints a link."
EPILOG = """\
ADDRESS is host:port, tcp://host:port or unix:///path. Ctrl-C ends it. The cluster does not notice: nothing is slower.
It listens on this machine only. From another one: ssh -L 8787:localhost:8787 this-machine

exit codes: 0 ended, 1 no scheduler answers, or the port is taken, 2 wrong usage
"""
PORT = 8787
AGAIN_SECONDS = 3.0
"""Between two tries to find a lost scheduler."""


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = viewer_parser(PROGRAM, DESCRIPTION, EPILOG)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="where the dashboard listens; others than this machine get the link unencrypted (default: %(default)s)",
    )
    parser.add_argument("--port", type=port_option, help=f"default: {PORT}, or any if that is taken; 0: any")
    parser.add_argument("--end-with", type=int, metavar="DESCRIPTOR", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run `minidask-dashboard` with these arguments, by default those of the command line. Returns its exit code."""
    options = _parse(arguments)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    if options.end_with is not None:  # the program that has started this one holds the other end
        threading.Thread(target=_wait_for_end, args=(options.end_with, ended), daemon=True).start()
    try:
        viewer = _Viewer(lambda: connected(PROGRAM, options))
        with contextlib.closing(viewer), _listen(options.host, options.port, viewer.dashboard) as server:
            threading.Thread(target=server.serve_forever, name="minidask-http", daemon=True).start()
            shown = options.host if options.host not in ("0.0.0.0", "::", "") else os.uname().nodename
            print(server.link(shown), flush=True)
            viewer.run(ended)
            viewer.dashboard.ended.set()
            server.shutdown()
        return 0
    except (MinidaskError, ValueError, OSError) as error:
        return fail(PROGRAM, error)


def _wait_for_end(descriptor: int, ended: threading.Event) -> None:
    with open(descriptor, "rb") as pipe:
        pipe.read()
    ended.set()


def _listen(host: str, port: int | None, dashboard: Dashboard) -> DashboardServer:
    if port is not None:
        return DashboardServer(host, port, dashboard)
    try:
        return DashboardServer(host, PORT, dashboard)
    except OSError:
        return DashboardServer(host, 0, dashboard)


class _Viewer:
    """A client that feeds a dashboard, and is made again when its scheduler is lost.

    Args:
        connect: makes the client.

    Raises:
        MinidaskError, OSError: there is no scheduler to begin with.
    """

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client = connect()
        self.dashboard = Dashboard(self._explain, _metrics())

    def _explain(self, task: int) -> str:
        return self._client.explain(task)

    def run(self, ended: threading.Event) -> None:
        """Feed the dashboard until the end."""
        while not ended.is_set():
            with self._client:
                self._follow(ended)
                reason = self._client.shell.core.why_closed or "the connection has ended"
            while not ended.is_set():
                with self.dashboard.lock:
                    self.dashboard.model.lose(time.time(), reason)
                    self.dashboard.model.tick(time.time())
                if ended.wait(AGAIN_SECONDS):
                    return
                try:
                    self._client = self._connect()
                    break
                except (MinidaskError, OSError) as error:
                    reason = str(error)

    def _follow(self, ended: threading.Event) -> None:
        model, lock = self.dashboard.model, self.dashboard.lock
        with contextlib.suppress(SchedulerLost), self._client.events() as events:
            with lock:
                model.lose(time.time(), "")
            ticked = 0.0
            while not ended.is_set():
                batch = events.get(SECONDS / 2)
                with lock:
                    model.take(batch)
                    if time.monotonic() >= ticked + SECONDS:
                        ticked = time.monotonic()
                        model.tick(time.time())
                if not batch and events.closed:
                    return

    def close(self) -> None:
        """Disconnect."""
        self._client.close()


def _metrics() -> Callable[[Model], bytes] | None:
    try:
        from .metrics import exposition  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    return exposition


if __name__ == "__main__":
    sys.exit(main())
