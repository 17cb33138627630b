"""What a check is, what comes of it, and how the program that is checked is started and ended."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from minidask.errors import MinidaskError
from minidask.net.access import Access, new_secret
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials

from .peer import Silent

LEVELS = ("minimal", "full")
PASSED, FAILED, NOT_RUN = "passed", "FAILED", "not run"
END_SECONDS = 5.0


class Differs(Exception):
    """The program has done something else than the text says."""


class NotRun(Exception):
    """The check does not apply to this program, for this reason."""


class Check(NamedTuple):
    """One check.

    Attributes:
        name: its name for people and `--only`.
        heading: the heading of docs/protocol.md that it comes from.
        level: of `LEVELS`: the lowest one that it belongs to.
        expects: what is expected, in a line.
        run: the check itself; it raises if the program differs.
    """

    name: str
    heading: str
    level: str
    expects: str
    run: Callable[[Any], None]


class Result(NamedTuple):
    """What came of a check: `outcome` is `PASSED`, `FAILED` or `NOT_RUN`, and `why` the reason of the latter two."""

    check: Check
    outcome: str
    why: str

    def line(self) -> str:
        """Tell it to people."""
        text = f"{self.outcome:7}  {self.check.name}"
        if self.outcome == FAILED:
            return f"{text}\n         “{self.check.heading}”: {self.check.expects}\n         but {self.why}"
        return f"{text}: {self.why}" if self.why else text


class Checks(list[Check]):
    """The checks of one kind of program. To be called as a decorator: the docstring says what is expected."""

    def __call__(self, heading: str, level: str = "minimal") -> Callable[[Callable[[Any], None]], None]:
        """Add the decorated function as a check, by its name."""

        def add(function: Callable[[Any], None]) -> None:
            name = function.__name__.replace("_", "-")
            self.append(Check(name, heading, level, (function.__doc__ or "").split("\n")[0].rstrip("."), function))

        return add

    def of(self, level: str, only: Sequence[str] = ()) -> list[Check]:
        """Return those of a level, and of those the named ones."""
        wanted = LEVELS[: LEVELS.index(level) + 1]
        return [check for check in self if (check.name in only if only else check.level in wanted)]


def expect(holds: object, found: str) -> None:
    """Go on if something holds.

    Raises:
        Differs: it does not.
    """
    if not holds:
        raise Differs(found)


@dataclass
class Stage:
    """Where a program plays its part: its access file, and the program itself.

    Args:
        command: of the program; `{access}`, `{address}` and `{port}` are replaced.
        folder: for the access file and what the program prints.
    """

    command: Sequence[str]
    folder: Path

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.at = Address("tcp", *self.listener.getsockname()[:2])
        self.access_file = self.folder / "access"
        secret = new_secret()
        self.access_file.touch(0o600)
        self.access_file.write_text(f"{secret.hex()} {self.at}\n")
        self.credentials = Credentials(Access(secret, True, self.at, str(self.access_file)))
        self.strangers = Credentials(Access(secrets.token_bytes(32), True, self.at, str(self.access_file)))
        self.process: subprocess.Popen[bytes] | None = None
        self.log = self.folder / "output"

    def start(self) -> None:
        """Start the program anew; one that runs is ended first."""
        self.end()
        words = {"{access}": str(self.access_file), "{address}": str(self.at), "{port}": str(self.at.port)}
        command = list(self.command)
        for word, value in words.items():
            command = [part.replace(word, value) for part in command]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def runs(self) -> bool:
        """Whether the program runs."""
        return self.process is not None and self.process.poll() is None

    def exit_code(self, seconds: float) -> int:
        """Wait for the program to end.

        Raises:
            Differs: it does not.
        """
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Differs(f"it has not ended after {seconds:g} seconds") from None

    def end(self) -> None:
        """End the program, with all processes that it has started."""
        process, self.process = self.process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # until there are no more of the connections that it had begun again
            while True:
                self.listener.accept()[0].close()

    def close(self) -> None:
        """End the program, and leave nothing behind."""
        self.end()
        self.listener.close()

    def tail(self) -> str:
        """The last that the program has printed."""
        text = self.log.read_text(errors="replace").strip() if self.log.exists() else ""
        return " | ".join(text.splitlines()[-3:])[-400:]


def until(holds: Callable[[], object], what: str, seconds: float) -> None:
    """Wait until something holds.

    Raises:
        Differs: it does not in time.
    """
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise Differs(f"{seconds:g} seconds were not enough: {what}")
        time.sleep(0.01)


@contextlib.contextmanager
def staged(make: Callable[[Sequence[str], Path], Stage], command: Sequence[str]) -> Iterator[Stage]:
    """A stage in a temporary folder, which is closed at the end."""
    with tempfile.TemporaryDirectory(prefix="minidask-conformance-") as folder:
        stage = make(command, Path(folder))
        try:
            yield stage
        finally:
            stage.close()


def run(checks: Sequence[Check], stage: Stage) -> Iterator[Result]:
    """Run checks, one after the other. One that fails ends the program: the next one gets a fresh one."""
    for check in checks:
        try:
            check.run(stage)
        except NotRun as reason:
            yield Result(check, NOT_RUN, str(reason))
        except (Differs, Silent, OSError, MinidaskError, ValueError, LookupError) as error:
            why = str(error) if isinstance(error, Differs | Silent) else f"{type(error).__name__}: {error}"
            ended = "" if stage.process is None or stage.runs else f" (it has ended with {stage.process.returncode})"
            yield Result(check, FAILED, f"{why}{ended}; it printed: {stage.tail() or 'nothing'}")
            stage.end()
        else:
            yield Result(check, PASSED, "")
