"""How a client goes on when its connection is lost, or silent: with another one, which a thread of its own makes.

    lost     the thread that reads ─► `lost`   ─► thread: connect, and again after longer and longer pauses
    silent   the thread that reads ─► `silent` ─► thread: connect beside the silent one; which of the two is answered?
                                                    └─► `ClientShell.resume` with the connection that works

A scheduler that has stood still answers on both connections: the first one is kept then, and its client's tasks with
it. Else the next connection takes its place, and only then is it closed: so the scheduler does not take the client for
one that has ended. `Retry` decides when to try again, and when no more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from minidask.client.connection import Connection
from minidask.client.reading import Reader
from minidask.client.workers import WorkerTable
from minidask.errors import MinidaskError, SchedulerLost
from minidask.host.signals import start
from minidask.host.sizes import count

FIRST_PAUSE_SECONDS = 0.05
LAST_PAUSE_SECONDS = 1.0
ANSWER_SECONDS = 0.5
WORKERS_SECONDS = 1.5
"""How long a client that is back waits for the workers that it knew: they may still run its tasks."""

log = logging.getLogger("minidask.client")


class Return(NamedTuple):
    """How a client's lost connection is made again.

    Attributes:
        seconds: how long it is tried.
        timeout: seconds that each try may take.
        prepare: called before each try, with how often the scheduler was lost since a task had an outcome. It raises
            `MinidaskError` if there is no use in trying.
    """

    seconds: float
    timeout: float
    prepare: Callable[[int], None]


class Retry:
    """When something that has failed is tried again. Pure.

    Args:
        seconds: how long it is tried.
        now: the time on some clock, in seconds.
    """

    def __init__(self, seconds: float, now: float) -> None:
        self._end = now + seconds
        self._pause = FIRST_PAUSE_SECONDS

    def pause(self, now: float) -> float | None:
        """Seconds to wait before the next try; None if there is to be none."""
        pause, self._pause = self._pause, min(2 * self._pause, LAST_PAUSE_SECONDS)
        return pause if now + pause < self._end else None


class _Core(Protocol):
    losses: int

    @property
    def closed(self) -> bool: ...


class _Shell(Protocol):
    connection: Connection
    reader: Reader
    workers: WorkerTable

    @property
    def core(self) -> _Core: ...
    def leave(self, keep_open: bool) -> None: ...
    def resume(self, connection: Connection) -> None: ...


class Returning:
    """Makes a client's connection again.

    Args:
        shell: the client's.
        how: None: it is not made again.
    """

    def __init__(self, shell: _Shell, how: Return | None) -> None:
        self._shell = shell
        self._how = how
        self._closing = threading.Event()
        self._silent_since: float | None = None  # while a silent scheduler is looked for
        self.why = ""
        """Why a scheduler that was silent is given up; empty as long as it is not."""

    def lost(self, why: str) -> bool:
        """The connection is lost. Begin to make it again; returns False if that is not to be."""
        how = self._how
        if how is None or self._shell.core.closed or self.why:
            return False
        self._shell.leave(keep_open=self._silent_since is not None)
        address = self._shell.connection.address
        log.warning("%s: %s; the client connects again, for %g seconds at most", address, why, how.seconds)
        self._start(lambda: self._return(how, why))
        return True

    def silent(self) -> None:
        """Nothing was heard of the scheduler for long: look whether another connection is answered."""
        if self._how is not None:
            how, connection, began = self._how, self._shell.connection, time.monotonic()
            self._silent_since = began
            silence = f"silent for {count(connection.heartbeat_timeout or 0, 'second')}"
            log.warning("%s: the scheduler was %s; the client asks whether it answers", connection.address, silence)
            self._start(lambda: self._ask(how, began, silence))

    def close(self) -> None:
        """Make no more connections."""
        self._closing.set()

    def _start(self, run: Callable[[], None]) -> None:
        start(threading.Thread(target=run, name="minidask-return", daemon=True))

    def _return(self, how: Return, why: str) -> None:
        shell, retry, ended = self._shell, Retry(how.seconds, self._silent_since or time.monotonic()), why
        pause: float | None = 0.0
        while pause is not None and not self._closing.wait(pause):
            try:
                how.prepare(shell.core.losses)
                connection = self._connected(how)
                self._silent_since = None  # the silent one is closed as this one takes its place
                shell.resume(connection)
            except (SchedulerLost, OSError) as error:
                pause, ended = retry.pause(time.monotonic()), f"{why}, and {error}"
            except MinidaskError as error:
                pause, ended = None, f"{why}, and {error}"
            else:
                log.warning("%s: the client is connected again", shell.connection.address)
                return
        shell.reader.end(ended)

    def _connected(self, how: Return) -> Connection:
        """A connection for the client to go on with."""
        shell = self._shell
        connection = shell.connection.again(how.timeout)
        try:
            connection.wait_for(shell.workers.names(), WORKERS_SECONDS)
        except BaseException:
            connection.close()
            raise
        return connection

    def _ask(self, how: Return, began: float, silence: str) -> None:
        """Ask a silent scheduler on other connections until it answers. If it does so there alone, connect again."""
        shell = self._shell
        while not self._closing.wait(FIRST_PAUSE_SECONDS):
            why = ""
            try:
                shell.connection.ask(how.timeout)
                self._closing.wait(ANSWER_SECONDS)  # a scheduler that has stood still answers on both
            except MinidaskError as error:
                why = str(error)
            if self._silent_since != began or shell.connection.away:
                return  # the connection has ended meanwhile
            if not shell.reader.silent_since(began):
                self._silent_since = None
                log.warning("%s: the scheduler answers again", shell.connection.address)
                return
            if not why:
                shell.connection.stop_reading(f"it was {silence}")
                return
            if time.monotonic() - began > how.seconds:
                self.why = f"it was {silence}, and {why}"
                shell.connection.shut()
                return
