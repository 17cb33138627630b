"""The worker daemon's shell: joins the link to the scheduler, the slots and the clock to `WorkerCore`.

    scheduler ─► FromScheduler ┐                         ┌► ToScheduler, ToSlot, ToTransfers
    slots     ─► FromSlot      ├─► inbox ─► core.handle ─┤
    clock     ─► WorkerTick    ┘                         └► Spawn, Interrupt, Kill, Retire …

Events wait in an inbox until the one before is dealt with, so the core is never entered twice, also when the scheduler
is in the same process and answers at once. Every link written to is flushed once, when the inbox is empty.

An error in the core or in an effect ends what it came from, and nothing else: `_went_wrong` says what that is.

Where the scheduler takes less than slots say, or is away, what they say waits here. From 64 MiB on a slot that says
something is not read any more, until the scheduler has caught up or is there again: its call waits. What slots print is
dropped meanwhile, as it is by the scheduler for a client that does not read.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from minidask.data.store import BlobStore
from minidask.errors import ProtocolError
from minidask.host import logs
from minidask.host.checks import is_module_name
from minidask.host.folders import place_of
from minidask.host.output import SlotOutput
from minidask.host.packages import installed, python_version
from minidask.host.resources import thread_limits
from minidask.host.usage import ProcessGroups, memory_left
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials
from minidask.net.transport import LAG_BYTES, Link
from minidask.task.context import SlotConfig
from minidask.wire import messages as m
from minidask.wire.observing import ReadLog, Subscribe

from . import activity, intake
from . import events as e
from .core import GRACE_SECONDS, WorkerCore
from .memory import MemoryLimits, over_limit
from .peers import Peer, Peers
from .reports import Reports
from .slotpool import EXIT_SECONDS, PoolEvents, SlotFactory, SlotHandle
from .transfers import SCHEDULER, Transfers
from .untaken import Recipients, Untaken

HEARTBEAT_SECONDS = 5.0  # as long as the scheduler has not told its time limit
KILL_SECONDS = 2.0
READ_SECONDS = 0.001
RETRY_SECONDS = 0.5
MOST_PRELOADED = 100
MOST_HOLDS = 150
"""So many attempts are named in the handshake, which is short; those of a larger machine may be run again."""
PREFETCH = 16  # short calls for each slot, at most: how many they are the scheduler decides

log = logging.getLogger("minidask.worker")


class WorkerShell:
    """The worker of one machine: its slots, its store, and its connections.

    Args:
        name: what people call it.
        slots: how many calls it runs at once.
        make_slot: `ProcessSlot` or `ThreadSlot`.
        limits: how much memory slots may use.
        slot_config: what slots have to know of the cluster.
        store: where this machine's large data is.
        credentials: the cluster's, for connections between workers; None where clients share the store, and no
            other workers are.
        fresh_slots: whether a slot that has worked for one client is replaced before it works for another.
        recipients: knows which client waits for an outcome, where clients share the store.
        resources: what the machine has beside its slots, by name.
    """

    def __init__(
        self,
        name: str,
        slots: int,
        make_slot: SlotFactory,
        limits: MemoryLimits,
        slot_config: SlotConfig,
        store: BlobStore,
        credentials: Credentials | None,
        fresh_slots: bool = False,
        recipients: Recipients | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        self.name = name
        self._resources = dict(resources or {})
        self.gave_up = asyncio.Event()
        self.drained = asyncio.Event()
        """Set after `drain()`, when every call is over and its outcome is on its way."""
        self.reason = ""
        self._heartbeat_seconds = HEARTBEAT_SECONDS
        self._uid = slot_config.uid
        self._size = slots
        self._make_slot = make_slot
        self._limits = limits
        self._slot_config = slot_config
        self._store = store
        self._transfers = Transfers(store, credentials is None, self.post, self._send_to)
        self._peers = Peers(credentials, self._transfers) if credentials is not None else None
        self._untaken = Untaken(store, recipients)
        self._core = WorkerCore(fresh_slots, shared=credentials is None)
        self._link: Link | None = None
        self._slots: dict[int, SlotHandle] = {}
        self._output = SlotOutput()
        self._pool_events = PoolEvents(self._slot_said, self._slot_printed, self._slot_exited)
        self._inbox: collections.deque[e.Event] = collections.deque()
        self._busy = False
        self._touched: set[SlotHandle | Link] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._reading_first = False
        self._chores: list[asyncio.Task[None]] = []
        self._environment: Mapping[str, str] = {}
        self._memory = 0
        self._reports = Reports()
        self._lags = False
        self._may_lose_reports = credentials is not None  # as the scheduler is not in this process
        self._unsent_size: list[m.Resized] = []  # the last one, which may have come too late for `info`
        self._groups = ProcessGroups()
        self._activity = activity.ActivityReport(store)
        self._looked_at = False
        self._usage: Mapping[int, int] = {}
        self._draining = False
        self._closing = False

    @property
    def info(self) -> dict[str, Any]:
        """What this worker tells the scheduler when it joins."""
        return {
            "name": self.name,
            "slots": self._size - self._core.table.missing,
            "prefetch": PREFETCH * self._size,
            "resources": self._resources,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "python": python_version(),
            "packages": installed(),
            "serves": self._peers.address if self._peers is not None else "",
            "place": place_of(self._store.folder),
            "uid": self._uid,
            "holds": [[*hold] for hold in {**self._reports.attempts(), **self._core.holds()}.items()][:MOST_HOLDS],
            "ended": [[*hold] for hold in self._reports.ended().items()],
        }

    @property
    def calls(self) -> int:
        """How many calls run."""
        return len(self._core.holds())

    # --- life ---

    def start(self) -> None:
        """Start the slots; to be called in the event loop."""
        self._set_environment()
        self.post(e.Resize(self._size))
        loop = asyncio.get_running_loop()
        self._chores = [
            loop.create_task(self._repeat(chore))
            for chore in (self._send_heartbeat, self._watch_memory, self._tell_activity)
        ]

    async def listen(self, scheduler: Address, port: int) -> None:
        """Let other workers fetch large data here, on the scheduler's network; with port 0 the kernel chooses one."""
        if self._peers is not None:
            await self._peers.listen(scheduler, port)

    def attach(self, link: Link | None, heartbeat_timeout: float = m.BEATS * HEARTBEAT_SECONDS) -> None:
        """Talk to the scheduler over this link from now on; None while there is no scheduler.

        Args:
            heartbeat_timeout: after how many seconds of silence the scheduler takes this worker for lost.
        """
        self._link = link
        self._be_looked_at(False)  # the next scheduler says it again
        self.lag(False)
        if link is None:
            self._transfers.close()
            return
        self._heartbeat_seconds = heartbeat_timeout / m.BEATS
        size, self._unsent_size = self._unsent_size, []
        for message in [*size, *self._reports.joined(), *self._core.waiting()]:
            self._pass_on(link, message)

    def lag(self, lags: bool) -> None:
        """Note whether the scheduler takes less than slots say; if not, all slots are read."""
        self._lags = lags
        for slot in () if lags else self._slots.values():
            slot.read(on=True)

    def resize(self, slots: int) -> None:
        """Have this many slots from now on, and tell the scheduler. Surplus ones end after their calls."""
        self._size = slots
        self._set_environment()
        self._send(m.Resized(slots))  # first: what is given back must not come again
        self.post(e.Resize(slots))

    def drain(self) -> None:
        """Take no new calls, give back those that have not begun, and set `drained` when the rest is over."""
        self._draining = True
        self.resize(0)

    def _set_environment(self) -> None:
        """Set the environment variables of slots that start from now on."""
        self._environment = {**thread_limits(max(self._size, 1), os.environ), "MINIDASK_WORKER": self.name}

    async def close(self) -> None:
        """End every slot and wait until all are gone. Idle ones end by themselves; busy ones are killed if need be."""
        self._closing = True
        for chore in self._chores:
            chore.cancel()
        if self._timer is not None:
            self._timer.cancel()
        slots = list(self._slots.items())
        for number, slot in slots:
            if self._core.starting(number):
                slot.kill()  # no call is in it yet
            elif (run := self._core.running(number)) is not None:
                slot.interrupt(run.task, run.attempt)
            slot.retire()
        await _wait_until(lambda: not self._slots, GRACE_SECONDS)
        for number, slot in self._slots.items():
            if self._core.running(number) is not None:
                slot.kill()
        await _wait_until(
            lambda: not self._slots, KILL_SECONDS
        )  # idle slots first end what their libraries have started
        for slot in self._slots.values():
            slot.kill()
        await _wait_until(lambda: not self._slots, KILL_SECONDS)
        # Their children, a resource tracker for one, get the time to notice and to clean up.
        await _wait_until(lambda: not any(slot.lingers() for _, slot in slots), EXIT_SECONDS)
        for _, slot in slots:
            slot.sweep()
        if self._peers is not None:
            self._peers.close()

    # --- events in, effects out ---

    def post(self, *events: e.Event) -> None:
        """Have the core handle events, after those in the inbox, and carry out the effects."""
        self._inbox.extend(events)
        if self._busy:
            return
        self._busy = True
        try:
            while self._inbox:
                while self._inbox:
                    self._handle(self._inbox.popleft())
                if not self._inbox:
                    self._flush()
        finally:
            self._busy = False
        if self._draining and self._core.drained:
            self.drained.set()
        self._set_timer()

    def _handle(self, event: e.Event) -> None:
        try:
            effects = self._core.handle(event, time.monotonic())
        except Exception as error:  # noqa: BLE001 - ends what it came from
            self._went_wrong(event, error)
            return
        for effect in effects:
            try:
                self._carry_out(effect)
            except Exception as error:  # noqa: BLE001 - ends what it came from
                self._went_wrong(effect, error)

    def _went_wrong(self, what: e.Event | e.Effect, error: Exception) -> None:
        """End what an error came from: a slot, a call or a transfer; this worker, if the error is our own."""
        kind = type(what).__name__
        match what:
            case e.FromSlot(slot, _) | e.ResultLeft(slot, _, _) | e.ToSlot(slot, _):
                log.warning(
                    "worker %d is killed, for an error at %s: %s", slot, kind, error, exc_info=_unexpected(error)
                )
                if slot in self._slots:
                    self._slots[slot].kill()
            case e.ToScheduler((m.Done() | m.Failed()) as message):
                log.warning("the scheduler cannot be sent %s: %s", type(message).__name__, error)
                text = f"its {type(message).__name__} cannot be sent: {error}"
                self._send(m.Stopped(message.task, message.attempt, m.Reason.SERIALIZATION, text))
            case e.Fetch(blob):
                self.post(e.NoRoom(blob, f"its data cannot be fetched: {error}"))
            case e.Interrupt() | e.Kill() | e.Retire() | e.RemoveResult() | e.Forget() | e.ToScheduler():
                log.exception("an error at %s; please report it", kind)
            case _:
                log.exception("an error in dealing with %s; please report it", kind)
                self.reason = f"an error inside the worker, {type(error).__name__}: {error}; its log has more"
                self.gave_up.set()

    def from_scheduler(self, messages: list[m.Message]) -> None:
        """Take messages that have come from the scheduler, in order."""
        events: list[e.Event] = []
        for message in messages:
            if type(message) is m.Heartbeat:
                self._reports.have_come(message.received)
                continue
            if type(message) is Subscribe:
                self._be_looked_at(message.on)
                continue
            if type(message) is ReadLog:
                self._send(m.Answer(message.request, {"lines": logs.kept.last(message.lines)}))
                continue
            if type(message) is m.Restart:
                self._preload(message.preload)
            try:
                kept = intake.stored(message, self._store) if type(message) is m.PutBlob else message
            except Exception as error:  # noqa: BLE001 - ends what it came from
                self._went_wrong(e.FromScheduler(message), error)
                continue
            if kept is not None:
                events.append(e.FromScheduler(kept))
        self.post(*events)

    def _preload(self, modules: list[str]) -> None:
        """Have slots that start from now on import these modules too."""
        known = self._slot_config.preload.split()
        names = [*known, *(name for name in modules if name not in known and is_module_name(name))]
        if len(names) > MOST_PRELOADED:
            log.warning("only %d modules are imported ahead of time, and %d more were asked for", MOST_PRELOADED,
                        len(names) - MOST_PRELOADED)  # fmt: skip
        self._slot_config = self._slot_config._replace(preload=" ".join(names[:MOST_PRELOADED]))

    def _send_to(self, peer: Peer, message: m.Message) -> None:
        """Send to another worker, or to the scheduler."""
        if peer != SCHEDULER and self._peers is not None:
            self._peers.send(peer, message)
        else:
            self._send(message)

    def _carry_out(self, effect: e.Effect) -> None:
        match effect:
            case e.ToScheduler(message):
                self._send(message)
            case e.ToSlot(slot, message):
                self._slots[slot].send(message)
                self._touched.add(self._slots[slot])
            case e.ToTransfers(message):
                self._transfers.received(SCHEDULER, message)
            case e.Warn(text):
                log.warning("%s", text)
            case e.Spawn(slot):
                self._start_slot(slot)
            case e.Interrupt(slot, task, attempt):
                self._slots[slot].interrupt(task, attempt)
            case e.Kill(slot):
                self._slots[slot].kill()
            case e.Retire(slot):
                self._slots[slot].retire()
            case e.Fetch(blob, size, source, places):
                self._transfers.want(blob, size, source, places)
            case e.RemoveResult(blob):
                self._store.remove_result(blob)
            case e.AwaitTaker(task, attempt, blobs):
                self._untaken.add(task, attempt, blobs)
            case e.Forget(blobs):
                self._transfers.forget(blobs)
            case e.GiveUp(reason):
                log.error("giving up: %s", reason)
                self.reason = reason
                self.gave_up.set()

    def _start_slot(self, number: int) -> None:
        if self._closing:
            return
        try:
            self._slots[number] = self._make_slot(number, self._pool_events, self._environment, self._slot_config)
            self._slots[number].recorder.looked_at = self._looked_at
        except (OSError, MemoryError) as error:
            self.post(e.NotStarted(number, str(error) or "there is no memory left"))

    def _send(self, message: m.Message) -> None:
        if self._link is not None:
            self._pass_on(self._link, message)
        elif isinstance(message, m.Report):
            self._reports.unsent(message)
            self._lags = self._reports.unsent_bytes > LAG_BYTES
        elif isinstance(message, m.Resized):
            self._unsent_size = [message]

    def _pass_on(self, link: Link, message: m.Message) -> None:
        link.send(message)
        if self._may_lose_reports:
            self._reports.sent(message)
        self._touched.add(link)
        if not self._busy:
            self._flush()

    def _flush(self) -> None:
        touched, self._touched = self._touched, set()
        for link in touched:
            link.flush()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._core.next_deadline()
        if deadline is not None and not self._closing and not self._reading_first:
            delay = max(0.0, deadline - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._time_is_up)

    def _time_is_up(self) -> None:
        """Read what slots have sent before the time counts: if this process stood still, that may have come in time.

        An event loop may look at timers before it reads.
        """
        self._timer = None
        self._reading_first = True
        asyncio.get_running_loop().call_later(READ_SECONDS, self._tick)

    def _tick(self) -> None:
        self._reading_first = False
        self.post(e.WorkerTick())

    # --- slots ---

    def _slot_said(self, slot: int, message: m.Message) -> None:
        if slot not in self._slots:
            return
        event: e.Event = e.FromSlot(slot, message)
        if isinstance(message, (m.Done, m.Failed, m.CallDone, m.CallFailed)):
            self._forward_partial_lines(slot)
        if isinstance(message, (m.Done, m.CallDone)):
            try:
                large = intake.accepted(message, self._store)
            except Exception as error:  # noqa: BLE001 - ends what it came from
                self._went_wrong(event, error)
                return
            event = e.ResultLeft(slot, message, large) if large else event
        self.post(event)
        if self._lags and slot in self._slots:
            self._slots[slot].read(on=False)

    def _slot_printed(self, slot: int, stream: str, data: bytes) -> None:
        for text in self._output.feed(slot, stream, data, time.monotonic()):
            self._forward(slot, stream, text)

    def _forward_partial_lines(self, slot: int) -> None:
        for stream, text in self._output.flush(slot, time.monotonic()):
            self._forward(slot, stream, text)

    def _forward(self, slot: int, stream: str, text: str) -> None:
        """Pass output of a slot on to the client that it works for; between calls, write it into the daemon's log."""
        run = self._core.running(slot)
        if run is not None and not self._lags:
            self._send(m.Output(run.client, slot, stream, text))
        elif run is None:
            log.warning("worker %d, between calls, wrote: %s", slot, text.rstrip())

    def _slot_exited(self, slot: int, how: str, hint: str) -> None:
        self._forward_partial_lines(slot)
        if self._looked_at:
            self._activity.slot_ended(slot, self._slots[slot].recorder)
        del self._slots[slot]
        self._output.forget(slot)
        if not self._closing:
            self.post(e.SlotExited(slot, how, hint))

    # --- chores ---

    async def _repeat(self, chore: Callable[[], float]) -> None:
        """Do a chore again and again; it returns how soon. If the system has no descriptor to spare, it is tried again.

        Any other error is our own, and ends this worker: nobody would notice that the chore is not done any more.
        """
        pause, failed = RETRY_SECONDS, False
        while True:
            await asyncio.sleep(pause)
            try:
                pause, failed = chore(), False
            except OSError as error:
                if not failed:
                    log.warning("%s cannot be done, and is tried again: %s", chore.__name__, error)
                pause, failed = RETRY_SECONDS, True
            except Exception as error:  # noqa: BLE001 - ends this worker
                self._went_wrong(e.WorkerTick(), error)
                return

    def _send_heartbeat(self) -> float:
        self._send(m.Heartbeat(self._memory))
        self._untaken.look()
        return self._heartbeat_seconds if self._link is not None else RETRY_SECONDS  # soon after it has joined

    def _be_looked_at(self, on: bool) -> None:
        """Somebody looks at the cluster from now on, or nobody does any more."""
        self._looked_at = on
        for slot in self._slots.values():
            slot.recorder.looked_at = on
        if on:
            self._activity.begin()

    def _tell_activity(self) -> float:
        if self._looked_at:
            recorders = {number: slot.recorder for number, slot in self._slots.items()}
            self._send(self._activity.message(recorders, self._usage))
        return activity.SECONDS

    def _watch_memory(self) -> float:
        groups = functools.cache(self._groups.look)
        busy = [number for number in self._slots if self._core.running(number) is not None]
        found = {number: self._slots[number].memory(groups, self._limits.slot, self._store.used) for number in busy}
        usage = {number: used for number, used in found.items() if used is not None}
        self._memory, self._usage = sum(usage.values()), usage
        left = memory_left() if usage else None
        victim = over_limit(usage, self._limits, left)
        if victim is not None:
            self.post(e.OverMemory(*victim))
        return self._limits.seconds_until_next_look(left)


def _unexpected(error: Exception) -> Exception | None:
    """The error, if its traceback is worth logging; None for a `ProtocolError`, which only names a check of ours."""
    return None if isinstance(error, ProtocolError) else error


async def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        await asyncio.sleep(0.002)
