"""A worker's core without processes: what its slots say is said for them, and time passes when a test says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from minidask.wire import messages as m
from minidask.worker import core as w
from minidask.worker import events as e

CLIENT = 7


class Rig:
    """A core with a clock, with slots that are idle, and what came out of it.

    Args:
        slots: how many.
        fresh_slots: the worker's option `--fresh-slots`.
    """

    def __init__(self, slots: int = 1, fresh_slots: bool = False) -> None:
        self.core = w.WorkerCore(fresh_slots=fresh_slots)
        self.now = 0.0
        self.said: list[m.Message] = []
        self.effects: list[e.Effect] = []
        for event in said_by_slots(self.do(e.Resize(slots))):
            self.do(event)
        self.effects.clear()

    def do(self, event: e.Event) -> list[e.Effect]:
        """Give the core an event; returns what it has done for that."""
        effects = self.core.handle(event, self.now)
        self.effects += effects
        self.said += [effect.message for effect in effects if isinstance(effect, e.ToScheduler)]
        return effects

    def run(
        self,
        task: int,
        timeout: float | None = None,
        blobs: tuple[bytes, ...] = (),
        host: int = 0,
        client: int = CLIENT,
    ) -> list[e.Effect]:
        """Have the scheduler send a task."""
        return self.do(e.FromScheduler(run(task, timeout, blobs, host, client)))

    def pass_time(self, seconds: float) -> list[e.Effect]:
        self.now += seconds
        return self.do(e.WorkerTick())


def said_by_slots(effects: Iterable[e.Effect]) -> Iterator[e.Event]:
    """What the processes of slots tell of themselves, once the shell has done this: those that are new and that end."""
    for effect in effects:
        if isinstance(effect, e.Spawn):
            yield e.FromSlot(effect.slot, m.SlotReady())
        elif isinstance(effect, e.Retire):
            yield e.SlotExited(effect.slot, "exit code 0", "")


def run(
    task: int, timeout: float | None = None, blobs: tuple[bytes, ...] = (), host: int = 0, client: int = CLIENT
) -> m.Run:
    return m.Run(task, 1, client, "f", timeout, list(blobs), host, False, [b"call"])


def done(task: int) -> m.Done:
    return m.Done(task, 1, 0.5, [b"result"])
