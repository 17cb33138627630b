"""`minidask.report("run.html")`: a page on a run, made when it is over.

Client.events() ─► Follower ─► History ─ at the end ─► figures ─► sentences, page ─► the file
"""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import sys
import time
from pathlib import Path

from minidask.client.client import Client
from minidask.client.following import Follower
from minidask.client.nested import find_client
from minidask.host import checks
from minidask.task.context import current_slot

from .figures import Figures, figures
from .history import History
from .page import page
from .words import sentences


class Report:
    """A block whose run is told of in a file: see `report`.

    Attributes:
        path: the file.
        sentences: what held the run back; empty until the block is over.
    """

    def __init__(self, path: Path, client: Client | None) -> None:
        self.path = path
        self.sentences: list[str] = []
        self._client = client

    def __enter__(self) -> Report:
        with self.path.open("a", encoding="utf-8"):
            pass  # what cannot be written is known now, not when the run is over
        with contextlib.ExitStack() as stack:
            client = self._client or find_client()
            if client is None:
                client = stack.enter_context(Client())
            self._history = History()
            self._follower = Follower(self._history.take)
            self._follower.begin(client.events)
            self._stack = stack.pop_all()
        self._cpu, self._began = time.process_time(), time.time()
        return self

    def __exit__(self, *_: object) -> None:
        ended, cpu = time.time(), time.process_time() - self._cpu
        with self._stack:
            self._history.whole = self._follower.end()
        found = figures(self._history, self._began, ended, cpu)
        self.sentences = sentences(found)
        self._write(found)

    def _write(self, found: Figures) -> None:
        program = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python"
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._began))
        style = importlib.resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
        self.path.write_text(page(found, f"{program}: a run on minidask", when, style), encoding="utf-8")

    def __str__(self) -> str:
        """All sentences, one a line."""
        return "\n".join(self.sentences)


def report(path: str | os.PathLike[str], client: Client | None = None) -> Report:
    """Return a block whose run is told of in a file: one page for a browser, which needs nothing else.

    It has how long the run took beside the ideal, how busy the workers were, the longest calls, stragglers, failures,
    all machines, and in a sentence or two what held the run back::

        with minidask.report("run.html") as report:
            search.fit(X, y)
        print(report)

    It tells of all that the cluster does meanwhile. At the end it waits until each machine has told what it did, half a
    second mostly, 3 at most. If an error ends the block, the file is written all the same.

    Args:
        path: of the file, which is written anew.
        client: of the cluster. None: the last one that was made in this program, by you or by `Parallel`. If there is
            none, one is made as by `Client()`, and closed at the end of the block.

    Raises:
        TypeError, ValueError: an argument makes no sense, or this is a task.
        OSError: the block begins or ends, and the file cannot be written.
        MinidaskError: the block begins, and there is no scheduler.
    """
    where = Path(str(checks.path("path", path or ""))).expanduser().absolute()
    if client is not None and not isinstance(client, Client):
        raise TypeError(f"client must be a minidask.Client, got {type(client).__name__}")
    if current_slot() is not None:
        raise ValueError("report() is for the program that makes the outermost call: it tells of all calls in tasks")
    return Report(where, client)
