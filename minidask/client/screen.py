"""What a client shows to people: the output of tasks, and itself in a notebook."""

from __future__ import annotations

import contextlib
import html
import sys
from typing import Any, TextIO


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


def client_table(title: str, workers: dict[str, tuple[str, int]]) -> str:
    """A client and the machines of its cluster as HTML."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(address)}</td><td>{slots}</td></tr>"
        for address, (name, slots) in workers.items()
    )
    head = "<tr><th>machine</th><th>address</th><th>workers</th></tr>"
    return f"<b>{html.escape(title)}</b><table>{head}{rows}</table>"
