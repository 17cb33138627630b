"""What an engine is: it places workers on machines, and forgets them. They find the scheduler by themselves."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ALIVE = "alive"
"""What `Engine.alive` says of a machine that waits in a queue, starts or runs."""


@dataclass(frozen=True)
class Plan:
    """What all machines of a cluster are told.

    Attributes:
        address: the scheduler's, as other machines see it; `:8786` where they find out the host themselves.
        access_file: the path of the access file on this machine, and on those that share its disk.
        python: the Python of the machines that has minidask installed.
        options: for `minidask-worker`.
        folder: where logs go; None where nothing is started.
    """

    address: str
    access_file: str
    python: str = sys.executable
    options: tuple[str, ...] = ()
    folder: Path | None = None

    def worker(self, name: str) -> list[str]:
        """The command of a worker on a machine that shares this one's disk."""
        command = [self.python, "-m", "minidask.worker", self.address, "--name", name]
        return [*command, "--access-file", self.access_file, *self.options]

    def on_tether(self, name: str) -> list[str]:
        """The command of a worker that gets the access file by its standard input, and lives as long as that."""
        return [
            self.python,
            "-m",
            "minidask.launch.tether",
            self.address,
            "minidask.worker",
            "--name",
            name,
            *self.options,
        ]


class Engine(Protocol):
    """Places workers. A machine's id is also the name of its worker."""

    def start(self, n: int) -> list[str]:
        """Ask for `n` more machines. Returns their ids; fewer if there are no more.

        Raises:
            MinidaskError: the engine refuses.
        """
        ...

    def stop(self, ids: Collection[str]) -> None:
        """Have the workers of these machines end when what they run has ended; take back what waits in a queue."""
        ...

    def alive(self, ids: Iterable[str]) -> dict[str, str]:
        """Return `ALIVE` for each of these machines that waits, starts or runs, or else why it has ended."""
        ...

    def describe(self) -> str:
        """What `start` does, as commands or a script that people can run and change."""
        ...
