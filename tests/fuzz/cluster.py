"""Liars talk to a scheduler and a worker over their real connections, while an honest client computes."""

from __future__ import annotations

import contextlib
import random
import select
import threading
import time
import warnings
from collections.abc import Callable
from operator import neg

import psutil

import minidask
from minidask.errors import ProtocolError, VersionWarning
from minidask.wire.codec import decode
from tests.fuzz.core import Wrong
from tests.fuzz.words import Liar
from tests.helpers import Program, Programs
from tests.hostile import Hostile

MOST_GROWN = 600 << 20
WORDS_AT_ONCE = 20
ROLES = ("client", "client", "worker", "peer")


class Honest:
    """A client that computes all the time; its results are looked at."""

    def __init__(self, address: str) -> None:
        self.results = 0
        self.error: BaseException | None = None
        self._client = minidask.Client(address)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._compute, daemon=True)
        self._thread.start()

    def _compute(self) -> None:
        try:
            while not self._ends.is_set():
                futures = [self._client.submit(neg, number) for number in range(10)]
                if [future.result(120) for future in futures] != [-number for number in range(10)]:
                    raise Wrong("a result is wrong")
                self.results += 10
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        self._ends.set()
        self._thread.join(150)
        self._client.close()


class Siege:
    """A cluster with an honest client, and liars.

    Args:
        programs: starts the daemons.
        seed: of what the liars say; what comes of it also depends on time.
    """

    def __init__(self, programs: Programs, seed: int) -> None:
        warnings.filterwarnings("ignore", category=VersionWarning)  # of the workers that are none
        self._chance = random.Random(seed)
        scheduler, self._address = programs.scheduler()
        worker = programs.worker(self._address, "--nworkers", "2")
        self._daemons = scheduler, worker
        self._honest = Honest(self._address)
        with minidask.Client(self._address) as client:
            self._serves = str(client.scheduler_info()["machines"][0]["serves"])
        self._before = [_memory(daemon) for daemon in self._daemons]
        self._liars: list[tuple[Hostile, Liar]] = []
        self.words = 0
        self.connections = 0

    def go_on(self, seconds: float, tell: Callable[[str], None] = lambda text: None) -> None:
        """Lie for so long.

        Raises:
            Wrong: a result of the honest client is wrong or does not come, a daemon has ended, or takes much memory.
        """
        end, told = time.monotonic() + seconds, time.monotonic()
        while time.monotonic() < end:
            if len(self._liars) < len(ROLES) + 2:
                self._join()
            self._talk(self._chance.choice(self._liars))
            if self.words % (50 * WORDS_AT_ONCE) == 0:
                self._look()
            if time.monotonic() > told + 30:
                told = time.monotonic()
                tell(f"{self.words} words over {self.connections} connections, {self._honest.results} right results")
        for hostile, _ in self._liars:
            hostile.close()
        before = self._honest.results
        self._honest.end()
        self._look()
        if not before:
            raise Wrong("the honest client has had no result")

    def _join(self) -> None:
        role = self._chance.choice(ROLES)
        info: dict[str, object] = {"python": "9.9.9"}
        if role == "worker":
            info |= {"slots": self._chance.randrange(3), "serves": "tcp://127.0.0.1:9"}
        elif self._chance.random() < 0.5:
            info = {"nested": self._chance.random() < 0.3, "keys": [self._chance.randrange(1, 1 << 22)]}
        with contextlib.suppress(OSError):
            hostile = Hostile(self._serves if role == "peer" else self._address, role, info if role != "peer" else {})
            self._liars.append((hostile, Liar(role, self._chance)))
            self.connections += 1

    def _talk(self, liar: tuple[Hostile, Liar]) -> None:
        hostile, words = liar
        try:
            self.words += WORDS_AT_ONCE
            hostile.sock.settimeout(1)
            hostile.say_bytes(b"".join(words.word() for _ in range(WORDS_AT_ONCE)))
            if self._chance.random() < 0.5 and select.select([hostile.sock], [], [], 0.001)[0]:
                for frame in hostile.peer.received():
                    with contextlib.suppress(ProtocolError):
                        words.hear(decode(frame))
            if self._chance.random() > 0.02:
                return
        except (OSError, ProtocolError):
            pass
        hostile.close()
        self._liars.remove(liar)

    def _look(self) -> None:
        if self._honest.error is not None:
            raise Wrong("the honest client failed") from self._honest.error
        for daemon, before in zip(self._daemons, self._before, strict=True):
            if daemon.process.poll() is not None:
                raise Wrong(f"a daemon has ended: {daemon.text[-2000:]}")
            if _memory(daemon) - before > MOST_GROWN:
                raise Wrong(f"a daemon takes {_memory(daemon) >> 20} MiB")
            for sign in ("please report it", "Traceback"):
                if sign in daemon.text:
                    raise Wrong(f"an error of ours: {daemon.text.partition(sign)[2][-3000:]}")


def _memory(daemon: Program) -> int:
    return int(psutil.Process(daemon.process.pid).memory_info().rss)
