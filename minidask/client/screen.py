"""What a client shows to people: the output of tasks, and itself in a notebook."""

from __future__ import annotations

import contextlib
import html
import sys
from collections.abc import Callable
from typing import Any, TextIO

from minidask.client.workers import Worker
from minidask.host.versions import PYTHON


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
        # Where the user's screen is gone or closed, there is nobody to tell.
        with contextlib.suppress(OSError, ValueError), bars_aside(out):
            out.write(text if text.endswith("\n") or not _bars() else text + "\n")
            getattr(out, "flush", bool)()  # an object of the caller's own need not have it


def bars_aside(out: TextIO) -> contextlib.AbstractContextManager[Any]:
    """Have progress bars, ours and a user's own, out of the way of what is printed."""
    tqdm = _tqdm()
    return contextlib.nullcontext() if tqdm is None else tqdm.external_write_mode(out)


def beside_bars(write: Callable[[str], None], out: Callable[[], TextIO]) -> Callable[[str], None]:
    """Have bars out of the way of what `write` puts on the screen that `out` names."""

    def written(text: str) -> None:
        with bars_aside(out()):
            write(text)

    return written


def _bars() -> bool:
    """Whether there are any: they would overwrite a line that has no end."""
    return bool(getattr(_tqdm(), "_instances", None))


def _tqdm() -> Any:
    return getattr(sys.modules.get("tqdm.std"), "tqdm", None)


def client_table(title: str, workers: dict[str, Worker]) -> str:
    """A client and the machines of its cluster as HTML."""
    rows = "".join(
        f"<tr><td>{html.escape(worker.name)}</td><td>{html.escape(address)}</td>"
        f"<td>{html.escape(worker.versions.get(PYTHON, ''))}</td>"
        f"<td>{worker.slots if worker.usable else 'none: another Python'}</td></tr>"
        for address, worker in workers.items()
    )
    head = "<tr><th>machine</th><th>address</th><th>Python</th><th>workers</th></tr>"
    return f"<b>{html.escape(title)}</b><table>{head}{rows}</table>"
