"""Where a fault is injected: programs, a search, and the moment of the fault."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from joblib import parallel_config

import minidask
from tests.faults.search import MIDDLE, SAME, scores
from tests.helpers import Program, Programs, wait_until


class Skipped(Exception):
    """A fault cannot be injected here, and why."""


class Note(NamedTuple):
    """A fit has begun: when, in which process, and which one."""

    when: float
    pid: int
    fit: str


class Scene:
    """Where a fault is injected: a folder, programs, a search, and the moment of the fault."""

    def __init__(self, folder: Path, expected: list[float], times: int) -> None:
        self.folder = folder
        self.expected = expected
        self.times = times
        self.notes = folder / "notes"
        self.programs = Programs(folder)
        self.when = 0.0

    def noted(self) -> list[Note]:
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [Note(float(when), int(pid), fit) for when, pid, fit in (line.split(" ") for line in lines)]

    def wait_for_the_middle(self) -> None:
        wait_until(lambda: len(self.noted()) >= MIDDLE, "the search was in its middle", 60)

    @contextlib.contextmanager
    def in_the_middle(self, fault: Callable[[], Any]) -> Iterator[None]:
        """Inject a fault while the block runs."""
        failed: list[Exception] = []

        def inject() -> None:
            try:
                self.wait_for_the_middle()
                self.when = time.time()
                fault()
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=inject)
        thread.start()
        try:
            yield
        finally:
            thread.join()
        if failed:
            raise failed[0]

    def search(self, client: minidask.Client, fault: Callable[[], Any]) -> str:
        """Search, with this fault in the middle."""
        client.wait_for_workers(2)
        with parallel_config("minidask", scheduler=client), self.in_the_middle(fault):
            found = scores(str(self.notes))
        assert found == self.expected, "the result is not the sequential one"
        return SAME

    def user(self, *options: str, before: list[str] | None = None) -> Program:
        command = [*(before or []), sys.executable, "-m", "tests.faults", "--user", str(self.notes), *options]
        return self.programs.start(*command)

    def result_of(self, user: Program) -> str:
        assert user.exit_code(60) == 0, user.text
        assert f"scores {self.expected}\n" in user.text, "the result is not the sequential one"
        return SAME

    def gone_on(self) -> float:
        """Seconds from the fault until a fit that it has ended began again; if there is none, until any fit began."""
        before = {note.fit for note in self.noted() if note.when <= self.when}
        after = [note for note in self.noted() if note.when > self.when]
        return min([note.when for note in after if note.fit in before] or [note.when for note in after]) - self.when


class Seen(NamedTuple):
    """What the user saw, and after how many seconds it went on, if that can be told."""

    what: str
    seconds: float | None
