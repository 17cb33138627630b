"""What a client shows to people: the output of tasks, and itself in a notebook."""

from __future__ import annotations

import contextlib
import html
import sys
from typing import Any, TextIO

from minidask.client.workers import Worker
from minidask.versions import PYTHON


def show_output(worker: str, stream: str, text: str) -> None:
    """Print what a task printed, each line marked with its worker."""
    out = sys.stdout if stream == "stdout" else sys.stderr
    if out is not None:
        # Where the user's screen is gone or closed, there is nobody to tell.
        with contextlib.suppress(OSError, ValueError), _bars_aside(out):
            out.write("".join(f"[{worker}] {line}" for line in text.splitlines(keepends=True)))
            out.flush()


def _bars_aside(out: TextIO) -> contextlib.AbstractContextManager[Any]:
    """Have progress bars, ours and a user's own, out of the way of what is printed."""
    tqdm = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    return contextlib.nullcontext() if tqdm is None else tqdm.external_write_mode(out)


def client_table(title: str, workers: dict[str, Worker]) -> str:
    """A client and its workers as HTML."""
    rows = "".join(
        f"<tr><td>{html.escape(worker.name)}</td><td>{html.escape(address)}</td>"
        f"<td>{html.escape(worker.versions.get(PYTHON, ''))}</td>"
        f"<td>{worker.slots if worker.usable else 'none: another Python'}</td></tr>"
        for address, worker in workers.items()
    )
    head = "<tr><th>worker</th><th>address</th><th>Python</th><th>tasks at once</th></tr>"
    return f"<b>{html.escape(title)}</b><table>{head}{rows}</table>"
