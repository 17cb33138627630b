"""The worker daemon's shell: joins the link to the scheduler, the slots and the clock to `WorkerCore`.

    scheduler ─► FromScheduler ┐                      ┌► ToScheduler, ToSlot
    slots     ─► FromSlot,     ├► inbox ─► core.handle┤
    clock     ─► WorkerTick          ┘                      └► Spawn, Interrupt, Kill, Retire

As in the scheduler's shell, events wait in an inbox until the one before is dealt with, and every link
written to is flushed once, when the inbox is empty.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from minidask.data.files import blob_id
from minidask.data.store import BlobStore
from minidask.errors import ProtocolError
from minidask.host.folders import place_of
from minidask.host.output import LineSplitter, RateLimiter
from minidask.host.packages import installed, python_version
from minidask.host.resources import thread_limits
from minidask.net.addresses import Address
from minidask.net.transport import Link
from minidask.pickling.payload import left_in
from minidask.task.context import SlotConfig
from minidask.wire.large import LARGE_BYTES
from minidask.wire.messages import (
    Chunk,
    Done,
    Failed,
    FetchChunk,
    Heartbeat,
    Message,
    NoBlob,
    Notice,
    Output,
    PutBlob,
    Reason,
    Resized,
    Stopped,
)

from .core import GRACE_SECONDS, WorkerCore
from .events import (
    AwaitTaker,
    Effect,
    Event,
    Fetch,
    Forget,
    FromScheduler,
    FromSlot,
    GiveUp,
    Interrupt,
    Kill,
    NoRoom,
    OverMemory,
    RemoveResult,
    Resize,
    ResultLeft,
    Retire,
    SlotExited,
    Spawn,
    ToScheduler,
    ToSlot,
    WorkerTick,
)
from .memory import MemoryLimits, over_limit
from .peers import Peer, Peers
from .slotpool import EXIT_SECONDS, PoolEvents, SlotFactory, SlotHandle
from .transfers import SCHEDULER, Transfers
from .untaken import Recipients, Untaken

HEARTBEAT_SECONDS = 5.0
MEMORY_SECONDS = 0.5
KILL_SECONDS = 2.0
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 6.4
PREFETCH = 16  # short calls for each slot, at most: how many they are the scheduler decides

log = logging.getLogger("minidask.worker")


class WorkerShell:
    """One machine's worker.

    Args:
        name: what people call it.
        slots: how many calls it runs at once.
        make_slot: `ProcessSlot` or `ThreadSlot`.
        limits: how much memory slots may use.
        slot_config: what slots have to know of the cluster.
        store: where this machine's large data is.
        secret: what all of a cluster hold; None where there can be no other workers, as the clients use the same store.
        fresh_slots: whether a slot that has worked for one client is replaced before it works for another.
        recipients: tells who waits for an outcome, where the clients use the same store.
    """

    def __init__(
        self,
        name: str,
        slots: int,
        make_slot: SlotFactory,
        limits: MemoryLimits,
        slot_config: SlotConfig,
        store: BlobStore,
        secret: bytes | None,
        fresh_slots: bool = False,
        recipients: Recipients | None = None,
    ) -> None:
        self.name = name
        self.gave_up = asyncio.Event()
        self.drained = asyncio.Event()
        """Set when all that ran when `drain()` was called is over, and its outcome on its way."""
        self.reason = ""
        self._size = slots
        self._make_slot = make_slot
        self._limits = limits
        self._slot_config = slot_config
        self._store = store
        self._transfers = Transfers(store, secret is None, self.post, self._send_to)
        self._peers = Peers(secret, self._transfers) if secret is not None else None
        self._untaken = Untaken(store, recipients)
        self._core = WorkerCore(fresh_slots, shared=secret is None)
        self._link: Link | None = None
        self._slots: dict[int, SlotHandle] = {}
        self._splitters: dict[tuple[int, str], LineSplitter] = {}
        self._limiter = RateLimiter()
        self._pool_events = PoolEvents(self._slot_said, self._slot_printed, self._slot_exited)
        self._inbox: collections.deque[Event] = collections.deque()
        self._busy = False
        self._touched: set[SlotHandle | Link] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._chores: list[asyncio.Task[None]] = []
        self._environment: Mapping[str, str] = {}
        self._memory = 0
        self._draining = False
        self._closing = False

    @property
    def info(self) -> dict[str, Any]:
        """What the scheduler is told when this worker joins."""
        return {
            "name": self.name,
            "slots": self._size,
            "prefetch": PREFETCH * self._size,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "python": python_version(),
            "packages": installed(),
            "serves": self._peers.address if self._peers is not None else "",
            "place": place_of(self._store.folder),
        }

    # --- life ---

    def start(self) -> None:
        """Start the slots; to be called in the event loop."""
        self._set_environment()
        self.post(Resize(self._size))
        loop = asyncio.get_running_loop()
        self._chores = [loop.create_task(self._send_heartbeats()), loop.create_task(self._watch_memory())]

    async def listen(self, scheduler: Address, port: int) -> None:
        """Let other workers fetch large data here, on the scheduler's network; with port 0 the kernel chooses one."""
        if self._peers is not None:
            await self._peers.listen(scheduler, port)

    def attach(self, link: Link | None) -> None:
        """From now on, talk to the scheduler over this link; None while there is none."""
        self._link = link
        if link is None:
            self._transfers.close()

    def resize(self, slots: int) -> None:
        """Have this many slots from now on."""
        self._size = slots
        self._set_environment()
        self._send(Resized(slots))  # first: what is given back must not come again
        self.post(Resize(slots))

    def drain(self) -> None:
        """Take nothing new, give back what has not begun, and set `drained` when the rest is over."""
        self._draining = True
        self.resize(0)

    def _set_environment(self) -> None:
        """What slots that start from now on find in their environment."""
        self._environment = {**thread_limits(max(self._size, 1), os.environ), "MINIDASK_WORKER": self.name}

    async def close(self) -> None:
        """End every slot and wait until all are gone: idle ones in their own way, the others by force if they must."""
        self._closing = True
        for chore in self._chores:
            chore.cancel()
        if self._timer is not None:
            self._timer.cancel()
        slots = list(self._slots.items())
        for number, slot in slots:
            if self._core.starting(number):
                slot.kill()  # there is nothing in it yet
            elif (run := self._core.running(number)) is not None:
                slot.interrupt(run.task, run.attempt)
            slot.retire()
        await _wait_until(lambda: not self._slots, GRACE_SECONDS)
        for number, slot in self._slots.items():
            if self._core.running(number) is not None:
                slot.kill()
        await _wait_until(lambda: not self._slots, KILL_SECONDS)  # the others end what their libraries have started
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

    def post(self, *events: Event) -> None:
        """Have the core handle these, after those that wait already."""
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

    def _handle(self, event: Event) -> None:
        try:
            effects = self._core.handle(event, time.monotonic())
        except Exception as error:  # noqa: BLE001 - whatever it is, what it came from is ended, and told
            self._went_wrong(event, error)
            return
        for effect in effects:
            try:
                self._carry_out(effect)
            except Exception as error:  # noqa: BLE001 - as above
                self._went_wrong(effect, error)

    def _went_wrong(self, what: Event | Effect, error: Exception) -> None:
        """End what an error came from, and nothing else: a slot, a call, a transfer; this worker, if it is our own."""
        kind = type(what).__name__
        match what:
            case FromSlot(slot, _) | ResultLeft(slot, _, _) | ToSlot(slot, _):
                log.warning(
                    "worker %d is killed, for an error at %s: %s", slot, kind, error, exc_info=_unexpected(error)
                )
                if slot in self._slots:
                    self._slots[slot].kill()
            case ToScheduler((Done() | Failed()) as message):
                log.warning("the scheduler cannot be sent %s: %s", type(message).__name__, error)
                text = f"its {type(message).__name__} cannot be sent: {error}"
                self._send(Stopped(message.task, message.attempt, Reason.SERIALIZATION, text))
            case Fetch(blob):
                self.post(NoRoom(blob, f"its data cannot be fetched: {error}"))
            case Interrupt() | Kill() | Retire() | RemoveResult() | Forget() | ToScheduler():
                log.exception("an error at %s; please report it", kind)
            case _:
                log.exception("an error in dealing with %s; please report it", kind)
                self.reason = f"an error inside the worker, {type(error).__name__}: {error}; its log has more"
                self.gave_up.set()

    def from_scheduler(self, messages: list[Message]) -> None:
        """The scheduler sent these."""
        events: list[Event] = []
        for message in messages:
            try:
                events += self._events_of(message)
            except Exception as error:  # noqa: BLE001 - as above
                self._went_wrong(FromScheduler(message), error)
        self.post(*events)

    def _events_of(self, message: Message) -> list[Event]:
        """What a message of the scheduler's is to the core; nothing, if it is about bytes under way."""
        if type(message) is Notice:
            log.warning("%s", message.text)
        elif isinstance(message, (Chunk, NoBlob, FetchChunk)):
            self._transfers.received(SCHEDULER, message)
        elif type(message) is not PutBlob:
            return [FromScheduler(message)]
        elif _is_sound(message):
            return [FromScheduler(self._stored(message))]
        return []

    def _stored(self, message: PutBlob) -> PutBlob:
        """Put large data that came along into the store; slots then need only its id."""
        payload = message.payload
        if len(payload) == 1 and len(payload[0]) >= LARGE_BYTES and self._store.put(message.blob, payload[0]):
            return PutBlob(message.blob, [])
        return message

    def _send_to(self, peer: Peer, message: Message) -> None:
        """Send to another worker, or to the scheduler."""
        if peer != SCHEDULER and self._peers is not None:
            self._peers.send(peer, message)
        else:
            self._send(message)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case ToScheduler(message):
                self._send(message)
            case ToSlot(slot, message):
                self._slots[slot].send(message)
                self._touched.add(self._slots[slot])
            case Spawn(slot):
                self._start_slot(slot)
            case Interrupt(slot, task, attempt):
                self._slots[slot].interrupt(task, attempt)
            case Kill(slot):
                self._slots[slot].kill()
            case Retire(slot):
                self._slots[slot].retire()
            case Fetch(blob, size, source, places):
                self._transfers.want(blob, size, source, places)
            case RemoveResult(blob):
                self._store.remove_result(blob)
            case AwaitTaker(task, attempt, parts):
                self._untaken.add(task, attempt, parts)
            case Forget(blobs):
                self._transfers.forget(blobs)
            case GiveUp(reason):
                log.error("giving up: %s", reason)
                self.reason = reason
                self.gave_up.set()

    def _start_slot(self, number: int, pause: float = FIRST_RETRY_SECONDS) -> None:
        """Start a slot; again and again, for some time, while there are no processes or descriptors to be had."""
        if self._closing:
            return
        try:
            self._slots[number] = self._make_slot(number, self._pool_events, self._environment, self._slot_config)
        except OSError as error:
            if pause > LAST_RETRY_SECONDS and not self._slots:
                self._carry_out(GiveUp(f"no process can be started to run tasks in: {error}"))
                return
            pause = min(pause, LAST_RETRY_SECONDS)
            log.warning("worker %d cannot be started: %s; trying again in %g seconds", number, error, pause)
            asyncio.get_running_loop().call_later(pause, self._start_slot, number, 2 * pause)

    def _send(self, message: Message) -> None:
        if self._link is not None:
            self._link.send(message)
            self._touched.add(self._link)
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
        if deadline is not None and not self._closing:
            delay = max(0.0, deadline - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self.post, WorkerTick())

    # --- slots ---

    def _slot_said(self, slot: int, message: Message) -> None:
        if slot in self._slots:
            if isinstance(message, (Done, Failed)):
                self._forward_partial_lines(slot)
            try:
                event = self._from_slot(slot, message)
            except Exception as error:  # noqa: BLE001 - as above
                self._went_wrong(FromSlot(slot, message), error)
                return
            self.post(event)

    def _from_slot(self, slot: int, message: Message) -> Event:
        if type(message) is Done and len(message.payload) > 1:
            parts = left_in(message.payload)
            if parts:
                return ResultLeft(slot, message, {name: self._store.accept(name) for name in parts})
        return FromSlot(slot, message)

    def _slot_printed(self, slot: int, stream: str, data: bytes) -> None:
        splitter = self._splitters.setdefault((slot, stream), LineSplitter())
        for text in splitter.feed(data):
            self._forward(slot, stream, text)

    def _forward_partial_lines(self, slot: int) -> None:
        for stream in ("stdout", "stderr"):
            splitter = self._splitters.get((slot, stream))
            for text in splitter.flush() if splitter else ():
                self._forward(slot, stream, text)

    def _forward(self, slot: int, stream: str, text: str) -> None:
        """Pass on what a slot printed to the client that it works for; else it belongs into this daemon's own log."""
        text = self._limiter.admit(text, time.monotonic())
        run = self._core.running(slot)
        if text and run is not None:
            self._send(Output(run.client, slot, stream, text))
        elif text:
            log.warning("worker %d, between calls, wrote: %s", slot, text.rstrip())

    def _slot_exited(self, slot: int, how: str, hint: str) -> None:
        self._forward_partial_lines(slot)
        del self._slots[slot]
        for stream in ("stdout", "stderr"):
            self._splitters.pop((slot, stream), None)
        if not self._closing:
            self.post(SlotExited(slot, how, hint))

    # --- chores ---

    async def _send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self._send(Heartbeat(self._memory))
            self._untaken.look()

    async def _watch_memory(self) -> None:
        while True:
            await asyncio.sleep(MEMORY_SECONDS)
            usage = {}
            for number, slot in self._slots.items():
                if slot.pid != os.getpid() and self._core.running(number) is not None:
                    with contextlib.suppress(psutil.Error, OSError):  # it has ended, or there is no /proc or descriptor
                        memory = psutil.Process(slot.pid).memory_info()
                        usage[number] = memory.rss - getattr(memory, "shared", 0)  # the store is nobody's own
            self._memory = sum(usage.values())
            victim = over_limit(usage, self._limits)
            if victim is not None:
                self.post(OverMemory(*victim))


def _is_sound(message: PutBlob) -> bool:
    """Whether a blob's bytes are what its name says. One that is not is refused, and tasks that need it say so."""
    if blob_id(message.payload) == message.blob:
        return True
    log.error("refused blob %s: its bytes are not what its name says", message.blob.hex())
    return False


def _unexpected(error: Exception) -> Exception | None:
    """An error whose traceback is of interest: not one that a check of ours has raised."""
    return None if isinstance(error, ProtocolError) else error


async def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        await asyncio.sleep(0.002)
