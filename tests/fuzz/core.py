"""Liars talk to a scheduler's core, whose honest client and worker are played here: fast, and each run the same.

What they say goes through frames and codec, as from a socket. Nothing but a `ProtocolError` may come of it, which ends
the liar's connection; the core's invariants hold; and every task of the honest client comes back right.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from minidask.errors import ProtocolError
from minidask.scheduler import invariants
from minidask.scheduler.core import Outbox, SchedulerCore
from minidask.scheduler.events import Event, Joined, Lagging, Left, Received, Tick
from minidask.wire import messages as m
from minidask.wire.codec import decode
from minidask.wire.frames import AUTHENTICATED, FrameDecoder
from tests.fuzz.words import Liar

CLIENT, WORKER = 1, 2
LIARS = 6
CHECK_EVERY = 500
MOST_TASKS = 2000


class Wrong(AssertionError):
    """Something that the fuzzer has found."""


class Talk:
    """One core, and all that is said to it.

    Args:
        seed: the same seed gives the same talk.
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._core = SchedulerCore()
        self._now = 0.0
        self._peers = WORKER
        self._liars: dict[int, tuple[Liar, FrameDecoder]] = {}
        self._waiting: set[int] = set()
        self._runs: list[m.Run] = []
        self._submitted = 0
        self._hosts: set[tuple[int, ...]] = set()
        self._lively = True
        self.words = 0
        self.refused = 0
        self._do(Joined(CLIENT, "client", "tcp://honest:1", {"python": "3.11.7", "keys": [7]}))
        self._do(
            Joined(WORKER, "worker", "tcp://honest:2", {"python": "3.11.7", "slots": 2, "prefetch": 2, "uid": "u"})
        )

    def go_on(self, words: int) -> None:
        """Have so many things be said.

        Raises:
            Wrong: something came of it that must not.
        """
        for _ in range(words):
            self._say()
            if self.words % 7 == 0:
                self._honest()
            if self.words % CHECK_EVERY == 0:
                invariants.check(self._core)
        self._wait_for_all()

    def _say(self) -> None:
        self.words += 1
        chance = self._chance
        if len(self._liars) < LIARS:
            self._liar_joins()
        peer = chance.choice([*self._liars])
        if chance.random() < 0.002:
            self._leave(peer)
            return
        if chance.random() < 0.005:
            self._do(Lagging(peer, chance.random() < 0.5))
            return
        liar, decoder = self._liars[peer]
        word = liar.word()
        try:
            for message in _decoded(decoder, word):
                self._do(Received(peer, message))
        except ProtocolError:
            self.refused += 1
            if peer in self._liars:
                self._leave(peer)

    def _liar_joins(self) -> None:
        self._peers += 1
        role = self._chance.choice(("client", "worker"))
        liar = self._liars[self._peers] = Liar(role, self._chance), FrameDecoder(AUTHENTICATED)
        chance = self._chance
        info = {"python": chance.choice(("9.9.9", "9.8.1"))}
        if role == "worker":
            info |= {"slots": chance.randrange(3), "serves": chance.choice(("", f"tcp://liar:{self._peers}"))}
        else:
            info |= {"nested": chance.random() < 0.3, "slot_of": chance.choice(("", "guess", "u", "u"))}
            if info["slot_of"] == "u":  # a task of the honest worker's: what it submits must not go to liars
                info["python"] = "3.11.7"
            elif chance.random() < 0.7:
                info["python"] = ""
        self._do(Joined(self._peers, role, f"tcp://liar:{self._peers}", info))
        for number in (CLIENT, WORKER, self._peers):
            liar[0].hear(number)

    def _leave(self, peer: int) -> None:
        del self._liars[peer]
        self._do(Left(peer, "it lied"))

    def _honest(self) -> None:
        if len(self._waiting) < 20:
            self._submitted += 1
            self._waiting.add(self._submitted)
            submit = m.Submit(self._submitted, "f", 0, None, 0, None, [], [], False, {}, [b"%d" % self._submitted])
            self._do(Received(CLIENT, submit))
        self._work()
        if self._chance.random() < 0.05:
            self._now += 1.0
            self._do(Received(WORKER, m.Heartbeat(0)))
            self._do(Tick())

    def _work(self) -> None:
        """End what the honest worker runs: some of it is given back, or waits for tasks within that liars submit."""
        runs, self._runs = self._runs, []
        for run in runs:
            way = self._chance.random() if self._lively else 1.0
            if way < 0.1 and run[:2] not in self._hosts:
                self._do(Received(WORKER, m.GaveBack(run.task, run.attempt)))
            elif way < 0.5:
                self._runs.append(run)
                if way < 0.3 and not run.lease:
                    self._hosts.add(run[:2])
                    self._do(Received(WORKER, m.Waiting(run.task, run.attempt)))
            elif run.lease:
                self._do(Received(WORKER, m.Failed(run.task, run.attempt, 0.1, "no queue", [])))
            else:
                self._do(Received(WORKER, m.Done(run.task, run.attempt, 0.1, [bytes(run.payload[0])])))

    def _wait_for_all(self) -> None:
        self._lively = False
        for _ in range(MOST_TASKS):
            if not self._waiting:
                return
            self._work()
            self._now += 0.5
            self._do(Received(WORKER, m.Heartbeat(0)))
            self._do(Tick())
        raise Wrong(f"the honest client waits in vain for {len(self._waiting)} tasks")

    def _do(self, event: Event) -> None:
        self._deliver(self._core.handle(event, self._now))
        self._deliver(self._core.assign(self._now))

    def _deliver(self, outbox: Outbox) -> None:
        for peer, message in outbox:
            if peer == CLIENT:
                self._hear(message)
            elif peer == WORKER and isinstance(message, m.Run):
                self._runs.append(message)
                for liar, _ in self._liars.values():
                    liar.hear(message)
            elif peer == WORKER and isinstance(message, m.Stop):
                self._runs = [run for run in self._runs if run[:2] != message[:2]]
                self._do(Received(WORKER, m.Stopped(message.task, message.attempt, m.Reason.CANCELLED, "")))
            elif peer == WORKER and isinstance(message, m.NeedBlob):
                self._do(Received(WORKER, m.FetchFailed(message.blob, message.source, "it is not there")))
            elif peer == WORKER and isinstance(message, m.BlobLost):
                lost = [run for run in self._runs if message.blob in run.blobs]
                self._runs = [run for run in self._runs if run not in lost]
                for run in lost:
                    self._do(Received(WORKER, m.Stopped(run.task, run.attempt, m.NO_DATA, "")))
            elif peer == WORKER and isinstance(message, m.Goodbye | m.Shutdown):
                raise Wrong(f"the honest worker was told {message}")
            elif peer in self._liars:
                self._liars[peer][0].hear(message)
                if isinstance(message, m.Goodbye):
                    self._leave(peer)

    def _hear(self, message: m.Message) -> None:
        if isinstance(message, m.TaskDone) and message.task in self._waiting:
            if bytes(message.payload[0]) != b"%d" % message.task:
                raise Wrong(f"the honest client was told {message}")
            self._waiting.remove(message.task)
        elif isinstance(message, m.TaskDone | m.TaskRaised | m.TaskLost | m.Goodbye | m.TaskOutput | m.ResultOffered):
            raise Wrong(f"the honest client was told {message}")


def _decoded(decoder: FrameDecoder, word: bytes) -> list[m.Message]:
    """What has come: nothing yet, if the bytes announce more than there is."""
    came = []
    while word:
        buffer = decoder.get_buffer()
        count = min(len(buffer), len(word))
        buffer[:count], word = word[:count], word[count:]
        came += [decode(frame) for frame in decoder.received(count)]
    return came


def talk(seed: int, words: int, tell: Callable[[str], None] = lambda text: None) -> tuple[int, int]:
    """Have liars talk; returns how much was said, and how often a connection ended for it."""
    one = Talk(seed)
    try:
        one.go_on(words)
    except Exception:
        tell(f"seed {seed}, word {one.words}")
        raise
    return one.words, one.refused
