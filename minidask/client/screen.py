"""What a client shows to people: the output and log records of tasks, and the client itself in a notebook.

The screen is the user's. `sys.stdout` may raise, or stand still, so it is written to in a thread of its own (see
`aside.py`). The thread that reads waits a moment for each text: so output is on the screen before the outcome of its
task is known. It does not wait once the screen is behind.
"""

from __future__ import annotations

import contextlib
import html
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import msgpack

from minidask.client.aside import Aside
from minidask.client.workers import Worker
from minidask.host.texts import printable
from minidask.host.versions import PYTHON
from minidask.wire.messages import Payload, TaskOutput

WAIT_SECONDS = 0.5
"""How long the thread that reads waits until a text is shown."""
MOST_WAITING = 10_000
"""How many texts may wait for a screen that stands still."""
MOST_MACHINES = 50
"""So many are shown in a notebook."""


class Screen:
    """Shows what tasks print and log, in order, in a thread of its own.

    Attributes:
        marks_output: whether each line that a task prints is marked with its worker.
        takes_records: whether records that tasks log are logged here; to be set before the first task.
    """

    def __init__(self, marks_output: bool) -> None:
        self.marks_output = marks_output
        self.takes_records = True
        self._failed = False
        self._aside: Aside[Callable[[], None]] = Aside("minidask-output", self._show, MOST_WAITING, _tell_left_out)

    def print(self, output: TaskOutput) -> None:
        """Print what a task printed, and wait a moment until it is there."""
        worker = printable(output.worker) if self.marks_output else ""
        self._put(lambda: show_output(worker, output.stream, output.text))

    def log(self, records: Payload) -> None:
        """Log what a task logged, and wait a moment until that is done."""
        if self.takes_records:
            self._put(lambda: log_here(records))

    def close(self) -> None:
        """End the thread once all is shown."""
        self._aside.close()

    def _put(self, code: Callable[[], None]) -> None:
        behind = self._aside.busy
        self._aside.put(code)
        if not behind:
            self._aside.flush(WAIT_SECONDS)

    def _show(self, code: Callable[[], None]) -> None:
        try:
            code()
        except BaseException as error:  # noqa: BLE001 - the user's own code: it ends nothing of ours
            if not self._failed:
                self._failed = True
                what = f"sys.stdout or sys.stderr raised {type(error).__name__}: {error}"
                _say(f"what tasks print cannot be shown: {what}")


def _tell_left_out(count: int) -> None:
    _say(f"{count} times tasks printed what was left out, as the screen stood still")


def _say(text: str) -> None:
    """Write to the process's first `sys.stderr`: the one that the user has put in its place may be what is broken."""
    if sys.__stderr__ is not None:
        with contextlib.suppress(OSError, ValueError):  # it is gone too
            sys.__stderr__.write(f"minidask: {text}\n")


def show_output(worker: str, stream: str, text: str) -> None:
    """Print what a task printed.

    Args:
        worker: marks each line; empty: none is marked.
        stream: "stdout" or "stderr".
        text: whole lines; only the end of a call may cut one short.
    """
    out = sys.stdout if stream == "stdout" else sys.stderr
    if out is not None:
        if worker:
            text = "".join(f"[{worker}] {line}\n" for line in text.removesuffix("\n").split("\n"))
        # If the screen is gone or closed, there is nobody who could read it.
        with contextlib.suppress(OSError, ValueError), bars_aside(out):
            out.write(text if text.endswith("\n") or not _bars() else text + "\n")
            getattr(out, "flush", bool)()  # an object of the caller's own need not have it


def log_here(records: Payload) -> None:
    """Log records that tasks logged, packed as `minidask.worker.slot.logs` does.

    The levels and handlers of this process's loggers decide what becomes of them.
    """
    for packed in records:
        attributes = msgpack.unpackb(packed, unicode_errors="surrogatepass", strict_map_key=False)
        record = logging.makeLogRecord(attributes)
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            with bars_aside(sys.stderr):
                logger.handle(record)


def bars_aside(out: TextIO) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which progress bars are off the screen, so that text can be printed in their place."""
    tqdm = _tqdm()
    return contextlib.nullcontext() if tqdm is None else tqdm.external_write_mode(out)


def beside_bars(write: Callable[[str], None], out: Callable[[], TextIO]) -> Callable[[str], None]:
    """Return a function that does what `write` does, with progress bars off the screen that `out` returns."""

    def written(text: str) -> None:
        with bars_aside(out()):
            write(text)

    return written


def _bars() -> bool:
    """Whether there are progress bars: these would overwrite a line without a line end."""
    return bool(getattr(_tqdm(), "_instances", None))


def _tqdm() -> Any:
    return getattr(sys.modules.get("tqdm.std"), "tqdm", None)


def client_table(title: str, workers: dict[str, Worker], runs: Mapping[str, str]) -> str:
    """Return a client and the machines of its cluster as HTML, for notebooks.

    Args:
        workers: the machines, by address; of many the first ones are shown.
        runs: what runs on each, by address.
    """
    rows = [
        (worker.name, address, worker.versions.get(PYTHON, ""),
         str(worker.slots) if worker.usable else "none: another Python", runs.get(address, ""))
        for address, worker in list(workers.items())[:MOST_MACHINES]
    ]  # fmt: skip
    more = len(workers) - len(rows)
    rows += [(f"{more:,} more", "", "", "", "")] if more else []
    cells = ("".join(f"<td>{html.escape(printable(cell))}</td>" for cell in row) for row in rows)
    head = "".join(f"<th>{name}</th>" for name in ("machine", "address", "Python", "workers", "running now"))
    table = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<b>{html.escape(title)}</b><table><tr>{head}</tr>{table}</table>"
