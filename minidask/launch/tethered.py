"""A process that this one holds: it ends, with all that it has started elsewhere, when its standard input does."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from minidask.host.signals import pass_on

KILL_SECONDS = 15.0


class Tethered:
    """A command whose standard input stays open until `let_go`.

    Args:
        command: the program and its arguments.
        first: what it reads first: the access file, or an empty line.
        log: the file that it prints to.

    Raises:
        OSError: there is no such program, or the system has no process to spare.
    """

    def __init__(self, command: list[str], first: bytes, log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the terminal's Ctrl-C is for the starter
            )
        assert self._process.stdin is not None
        self._stdin = self._process.stdin
        try:
            self._stdin.write(first)
            self._stdin.flush()
        except OSError as error:  # it has ended already: its log says why
            pass_on(error)

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def text(self) -> str:
        """All that it has printed."""
        return self._log.read_text(errors="replace")

    @property
    def last_words(self) -> str:
        """The last line that it has printed; how it has ended, if it has printed nothing."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"it ended with code {self._process.poll()}"

    def let_go(self) -> None:
        """Have it end, as soon as it likes. A forked child calls this too, and changes nothing by it."""
        with contextlib.suppress(OSError):
            self._stdin.close()

    def close(self, seconds: float = KILL_SECONDS) -> None:
        """Have it end, and wait for that; after so many seconds it is killed."""
        self.let_go()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
