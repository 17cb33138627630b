"""The worker daemon's connection to a scheduler on the network: made, lost, and made again.

    connect ─► joined: work ─► lost: what runs goes on ─► wait 0.1 s, 0.2 s, … 1 s ─► connect
                  │   │                                    └─ no scheduler for death_timeout seconds: give up
                  │   └─ silent: ask whether it answers ─► heard again: work
                  │                │                    └► it answers, but not here: connect
                  │                └─ no answer for death_timeout seconds: give up
                  └─ drain, shut down, signal ─► the end

A worker that joins again tells what it runs. If the scheduler still knows these attempts, or clients submit their tasks
again, they go on. All others are stopped.

A scheduler that is silent for `heartbeat_timeout` seconds hangs, or the network is cut. It is asked on another
connection until it answers. If it has only stood still, it is heard on the first one too, and nothing has happened.
Else the next connection takes the place of the first, which is closed only then: so the scheduler does not take the
worker for lost in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time

from minidask._version import __version__
from minidask.errors import AuthenticationError, MinidaskError, ProtocolError, SchedulerLost
from minidask.host.sizes import count
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials
from minidask.net.sockets import dead_seconds, no_scheduler
from minidask.net.transport import MessageLink, answers, connect
from minidask.wire.handshake import NONCE_BYTES, Initiator
from minidask.wire.messages import BEATS, Goodbye, Message, Shutdown

from .events import SchedulerGone
from .shell import HEARTBEAT_SECONDS, WorkerShell
from .silence import LOOKS, Silence

FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 1.0
CLOSE_SECONDS = 2.0
ANSWER_SECONDS = 0.5
TELL_SECONDS, TELL_AGAIN_SECONDS = 3.0, 30.0
"""After how long the log tells that there is no scheduler, and how often."""

HEARTBEAT_TIMEOUT = BEATS * HEARTBEAT_SECONDS

log = logging.getLogger("minidask.worker")


def _heartbeat_timeout(link: MessageLink) -> float:
    """The scheduler's time limit for heartbeats, in seconds, as it has told it in the handshake."""
    info = link.handshake.peer_info if link.handshake is not None else None
    told = (info or {}).get("heartbeat_timeout")
    return float(told) if isinstance(told, int | float) and told > 0 else HEARTBEAT_TIMEOUT


class Reconnector:
    """Keeps a worker connected to its scheduler.

    Args:
        shell: the worker.
        address: the scheduler's.
        credentials: the cluster's.
        death_timeout: seconds after which a worker without a scheduler gives up.

    Attributes:
        stopped: to be set to end `run`; set when `run` has ended.
    """

    def __init__(self, shell: WorkerShell, address: Address, credentials: Credentials, death_timeout: float) -> None:
        self._shell = shell
        self._address = address
        self._credentials = credentials
        self._death_timeout = death_timeout
        self.stopped = asyncio.Event()
        self._link: MessageLink | None = None
        self._silent: MessageLink | None = None  # to be closed when another one has taken its place
        self._silent_since: float | None = None
        self._closed = asyncio.Event()
        self._error: MinidaskError | OSError | None = None
        self._was_open = False
        self._goodbye = ""
        self._known = False  # whether the scheduler has let this worker in
        self._waits_for_secret = False
        self._draining = False
        self._tell_after = TELL_SECONDS

    def drain(self) -> None:
        """Take no new calls, and end `run` once all calls are over; at once if no scheduler is connected."""
        if self._was_open and not self._closed.is_set():
            self._draining = True
            self._shell.drain()
        else:
            self.stopped.set()

    async def run(self) -> None:
        """Work for the scheduler until `stopped` is set, or until all calls are over after `drain()`.

        Raises:
            SchedulerLost: no scheduler answered for `death_timeout` seconds.
            AuthenticationError, ProtocolError: it turned this worker away; trying again would not help.
            MinidaskError: the slots cannot be started.
        """
        self._shell.start()
        stop = asyncio.create_task(self.stopped.wait())
        give_up = asyncio.create_task(self._shell.gave_up.wait())
        drained = asyncio.create_task(self._shell.drained.wait())
        work = asyncio.create_task(self._stay_connected())
        try:
            await asyncio.wait([stop, give_up, drained, work], return_when=asyncio.FIRST_COMPLETED)
            if give_up.done():
                raise MinidaskError(self._shell.reason)
            if work.done():
                work.result()
        finally:
            self.stopped.set()
            for task in (stop, give_up, drained, work):
                task.cancel()
            if self._link is not None:
                self._link.close()
            self._abort_silent()
            await self._shell.close()
            await self._wait_for_the_link()

    async def _wait_for_the_link(self) -> None:
        """Give the last messages some seconds to be written before the program ends."""
        if self._link is not None and self._was_open:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), CLOSE_SECONDS)
            self._link.abort()

    async def _stay_connected(self) -> None:
        last_contact, pause = time.monotonic(), FIRST_RETRY_SECONDS
        while True:
            await self._work_once()
            if self._draining:
                return
            if self._was_open:
                last_contact, pause = self._silent_since or time.monotonic(), FIRST_RETRY_SECONDS
                self._tell_after = TELL_SECONDS
                why = self._error or "the scheduler closed it"
                calls = self._shell.calls
                log.warning(
                    "the connection to %s is gone: %s; calls that go on: %d; trying again", self._address, why, calls
                )
            else:
                waited = time.monotonic() - last_contact
                if waited + pause > self._death_timeout:
                    raise SchedulerLost(f"gave up after {self._death_timeout:g} seconds: {self._error}")
                self._tell_of_waiting(waited)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_RETRY_SECONDS)

    def _tell_of_waiting(self, seconds: float) -> None:
        """Write now and then into the log that there is no scheduler."""
        if seconds >= self._tell_after:
            self._tell_after = seconds + TELL_AGAIN_SECONDS
            log.warning("no scheduler for %.0f seconds: %s; trying again", seconds, self._error)

    async def _work_once(self) -> None:
        """Connect once, and work until that connection ends.

        Raises:
            AuthenticationError, ProtocolError: the scheduler turned this worker away.
        """
        self._credentials.renew()
        secret, nonce = self._credentials.secret, os.urandom(NONCE_BYTES)
        handshake = Initiator(secret, role="worker", version=__version__, nonce=nonce, info=self._shell.info)
        self._closed.clear()
        self._error, self._was_open, self._goodbye = None, False, ""
        tls = self._credentials.stream(self._address, accepts=False)
        self._link = MessageLink(handshake, self._opened, self._received, self._lost, on_lag=self._lagged, tls=tls)
        try:
            await connect(self._address, self._link)
            await self._until_it_ends(self._link)
        except OSError as error:
            self._error = no_scheduler(self._address, error)
        if isinstance(self._error, AuthenticationError) and self._known:
            if not self._waits_for_secret:
                log.warning("turned away: %s; trying again, as the access file may come anew", self._error)
            self._waits_for_secret = True
        elif isinstance(self._error, AuthenticationError | ProtocolError):
            raise self._error

    async def _until_it_ends(self, link: MessageLink) -> None:
        """Wait until a connection has ended, or is given up because the scheduler is silent."""
        silence = Silence()
        while not self._closed.is_set():
            limit = _heartbeat_timeout(link)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), limit / LOOKS)
            if self._was_open and silence.look(link.reads):
                how = f"silent for {count(limit, 'second')}"
                log.warning("the scheduler at %s was %s; asking whether it answers", self._address, how)
                self._silent_since = time.monotonic()
                if await self._answers_here(link):
                    self._silent_since, silence = None, Silence()
                    log.warning("the scheduler at %s is heard again", self._address)
                elif not self._closed.is_set():
                    self._leave_silent(link, SchedulerLost(f"it was {how}"))

    async def _answers_here(self, link: MessageLink) -> bool:
        """Ask a silent scheduler on other connections. Returns whether it is heard on this one again.

        If not, it answers elsewhere, or this connection has ended, or the worker has waited long enough.
        """
        reads, since = link.reads, time.monotonic()
        while not self._closed.is_set() and time.monotonic() < since + self._death_timeout:
            answered = await answers(self._address, self._credentials.hello(self._address, "worker"))
            await asyncio.sleep(ANSWER_SECONDS)  # a scheduler that has stood still answers on both
            if link.reads != reads:
                return True
            if answered:
                break
        return False

    def _leave_silent(self, link: MessageLink, why: SchedulerLost) -> None:
        """Go on without this connection. It stays open until another one has taken its place."""
        self._link, self._silent = None, link
        self._disconnected(why)

    def _abort_silent(self) -> None:
        if self._silent is not None:
            self._silent.abort()
            self._silent = None

    def _opened(self, link: MessageLink) -> None:
        self._was_open, self._silent_since = True, None
        self._known, self._waits_for_secret = True, False
        log.info("joined the scheduler at %s", self._address)
        limit = _heartbeat_timeout(link)
        link.keep_alive(dead_seconds(limit))
        self._shell.attach(link, limit)
        self._abort_silent()

    def _received(self, link: MessageLink, messages: list[Message]) -> None:
        if link is not self._link:
            return
        for message in messages:
            if isinstance(message, Shutdown):
                log.info("ending: a client has shut the cluster down")
                self.stopped.set()
            elif isinstance(message, Goodbye):
                self._goodbye = message.reason
        self._shell.from_scheduler(messages)

    def _lagged(self, link: MessageLink, lags: bool) -> None:
        if link is self._link:
            self._shell.lag(lags)

    def _lost(self, link: MessageLink, error: MinidaskError | OSError | None) -> None:
        if link is self._link:
            self._disconnected(error)

    def _disconnected(self, error: MinidaskError | OSError | None) -> None:
        self._error = SchedulerLost(f"the scheduler said goodbye: {self._goodbye}") if self._goodbye else error
        self._closed.set()
        if self._was_open and not self.stopped.is_set():
            self._shell.attach(None)
            self._shell.post(SchedulerGone())
