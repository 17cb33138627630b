"""Figures for Prometheus, of a process beside the scheduler: `minidask-scheduler --metrics-port`.

    Prometheus ─ GET /metrics ─► minidask.dashboard, without its pages ─ a client like others ─► the scheduler

The scheduler itself serves no HTTP. It only listens on the port, so that a port which is taken is known at once, and
hands that to the process. That ends when nobody holds the other end of a pipe: also when the scheduler is killed.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import subprocess
import threading
from collections.abc import Iterable

from minidask.errors import MinidaskError
from minidask.host.spawn import start_python

END_SECONDS = 5.0
NO_PACKAGE = "--metrics-port needs the package prometheus-client: pip install 'minidask[metrics]'"

log = logging.getLogger("minidask.scheduler")


class MetricsPage:
    """The process that serves the figures, to whoever reaches the port.

    Args:
        host: where it listens.
        port: 0: any that is free.

    Attributes:
        link: where the figures are.

    Raises:
        MinidaskError: it cannot listen there, or the package for it is missing.
    """

    def __init__(self, host: str, port: int) -> None:
        if importlib.util.find_spec("prometheus_client") is None:
            raise MinidaskError(NO_PACKAGE)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            where = f"{host}:{port}: {error.strerror or error}"
            raise MinidaskError(f"the metrics page cannot listen on {where}. Choose another --metrics-port") from None
        shown = f"[{host}]" if ":" in host else host
        self.link = f"http://{shown}:{self._socket.getsockname()[1]}/metrics"
        self._process: subprocess.Popen[bytes] | None = None
        self._ends = False

    def start(self, address: str, options: Iterable[str]) -> None:
        """Start the process.

        Args:
            address: of the scheduler, as who is on this machine finds it.
            options: of a client there: access file and encryption.

        Raises:
            OSError: the system has no process or descriptor to spare.
        """
        theirs, self._pipe = os.pipe()
        mine = self._socket.fileno()
        arguments = [address, *options, "--metrics-socket", str(mine), "--end-with", str(theirs)]
        try:
            self._process = start_python(
                "minidask.dashboard.__main__", arguments, [mine, theirs],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(theirs)
            self._socket.close()
        threading.Thread(target=self._watch, args=(self._process,), name="minidask-metrics", daemon=True).start()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        if not self._ends:
            log.warning("the metrics page has ended, with exit code %s: there are no figures any more", code)

    def close(self) -> None:
        """End the process."""
        self._ends = True
        self._socket.close()
        if self._process is not None:
            os.close(self._pipe)
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
