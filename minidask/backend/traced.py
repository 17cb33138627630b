"""One trace for all calls of a configuration: `parallel_config("minidask", trace="run.json")`.

    the first call that runs ─ begin ─► Trace ─► the file
    the last call that ends ─── end ──► the file is whole

joblib does not say when the `with` block of a configuration ends. So the file is whole whenever no call runs, and a
later call adds to it.
"""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

from minidask.client.client import Client
from minidask.client.eventreader import EventReader
from minidask.client.trace import Trace
from minidask.host import checks
from minidask.task.context import current_slot


class CallsTrace:
    """The trace of a configuration; its calls may overlap, from several threads too.

    Args:
        path: of the file, as the user has given it. It is written anew.

    Raises:
        TypeError, ValueError: the path makes no sense, or this is a task.
        OSError: the file cannot be written.
    """

    def __init__(self, path: object) -> None:
        self._path = Path(str(checks.path("trace", path))).expanduser().absolute()
        if current_slot() is not None:
            raise ValueError(
                "trace= is for the program that makes the outermost call: its trace has all calls in tasks"
            )
        self._trace = Trace(self._path, self._open_events)
        try:
            self._trace.write_empty()
        except OSError as error:
            raise OSError(error.errno, f"trace= cannot be written: {error.strerror}", str(self._path)) from None
        self._lock = threading.Lock()
        self._running = 0

    def begin(self, client: Client) -> None:
        """A call begins. `end` is to be called when it has ended.

        Raises:
            SchedulerLost: there is no connection any more.
            OSError: the file cannot be written.
        """
        with self._lock:
            if not self._running:
                self._client = client
                self._trace.__enter__()
            self._running += 1

    def end(self) -> None:
        """A call has ended. Its results count more than its trace: if that cannot be written, there is a warning."""
        with self._lock:
            self._running -= 1
            if self._running:
                return
            del self._client  # nobody needs it, and the configuration may live on
            try:
                self._trace.__exit__()
            except OSError as error:
                text = f"the trace in {self._path} is not whole: {error.strerror or error}"
                warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _open_events(self) -> EventReader:
        return self._client.events()
