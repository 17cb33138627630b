"""A modelled slot: what runs in it, one call on top of the other, and the client that its calls submit with."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from minidask.client.core import ClientCore, Effect, Settle
from minidask.client.outcomes import Lost
from minidask.wire import messages as m
from minidask.worker import events as e

from .promises import Task
from .world import Connection, Name

if TYPE_CHECKING:
    from .machine import Machine


@dataclass(eq=False)
class Frame:
    """A call that runs.

    Attributes:
        waits: whether it waits for the tasks that it has submitted.
        pending: those that have no outcome yet.
        cut_off: whether they are lost with their scheduler.
        wrong: what was said of one of them that no task is to be told.
    """

    run: m.Run
    task: Task
    waits: bool = False
    pending: set[int] = field(default_factory=set)
    cut_off: bool = False
    wrong: str = ""


class Slot:
    """A slot's process."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine = machine
        self.number = number
        self.alive = True
        self.frames: list[Frame] = []
        self.inner: Inner | None = None
        self._blobs: set[bytes] = set()
        self._world = machine.world
        self.later(self._world.between(0.01, 0.2), self.say, m.SlotReady())

    def later(self, seconds: float, what: Any, *args: Any) -> None:
        self._world.later(seconds, self._if_alive, functools.partial(what, *args))

    def _if_alive(self, what: Any) -> None:
        if self.machine.alive and self.alive:
            what()

    def say(self, message: Any) -> None:
        self.machine.handle(e.FromSlot(self.number, message))

    # --- what the worker sends ---

    def receive(self, message: Any) -> None:
        match message:
            case m.PutBlob(blob):
                self._blobs.add(blob)
            case m.ReleaseBlobs(blobs):
                self._blobs.difference_update(blobs)
            case m.Run():
                self._begin(message)
            case m.Resumed():
                pass
            case _:
                raise AssertionError(message)

    def interrupt(self, task: int, attempt: int) -> None:
        for frame in self.frames:
            if frame.run[:2] == (task, attempt) and frame is self.frames[-1] and not frame.task.deaf:
                self.later(self._world.between(0.0, 0.2), self._interrupted, frame)

    def _interrupted(self, frame: Frame) -> None:
        if self.frames and self.frames[-1] is frame:
            self._leave(frame, m.Failed(*frame.run[:2], 0.1, "interrupted", []))

    # --- calls ---

    def _begin(self, run: m.Run) -> None:
        host = self.frames[-1] if self.frames else None
        if host is not None:
            assert run.host == host.run.task and host.waits, f"{run[:2]} begins on top of {host.task.key}"
            self._world.met["guest"] += 1
        assert self._blobs.issuperset(run.blobs), f"{run[:2]} begins without its data"
        frame = Frame(run, self.machine.begins(self, run))
        self.frames.append(frame)
        task = frame.task
        if run.timeout is not None:
            self.later(0.001, self.say, m.Began(*run[:2]))
        if task.children:
            self.later(task.seconds / 2, self._call, frame)
        else:
            self.later(task.seconds, self._end, frame)

    def _call(self, frame: Frame) -> None:
        """The call submits tasks of its own, and waits for them."""
        if frame not in self.frames:
            return
        if self.inner is None:
            self.inner = Inner(self)
        self.inner.submit_for(frame)

    def look(self) -> None:
        """Have the innermost call go on, if it waits for nothing any more."""
        frame = self.frames[-1] if self.frames else None
        if frame is not None and frame.waits and (frame.cut_off or not frame.pending):
            frame.waits = False
            self.say(m.Resumed(*frame.run[:2]))
            self.later(frame.task.seconds / 2, self._end, frame)

    def _end(self, frame: Frame) -> None:
        """The call comes to its own end."""
        if not self.frames or self.frames[-1] is not frame:
            return
        task, run = frame.task, frame.run
        self._world.log(self.machine.name, f"slot {self.number} ends {task.key}", run[:2])
        if task.kind == "kills" or (task.kind == "kills once" and not task.deaths):
            self.exit("SIGSEGV")
        elif frame.cut_off:
            self._world.met["cut off"] += 1
            task.excuses.append("it was cut off")
            self._leave(frame, m.Stopped(*run[:2], m.CUT_OFF, "its tasks are lost"))
        elif frame.wrong or task.kind == "raises":
            self._leave(frame, m.Failed(*run[:2], task.seconds, "text", [(frame.wrong or task.key).encode()]))
        else:
            done = m.Done(*run[:2], task.seconds, [task.key.encode()])
            large = self.machine.large_result() if task.kind == "large" else {}
            self._leave(frame, done, large)

    def _leave(self, frame: Frame, message: Any, large: dict[bytes, int] | None = None) -> None:
        self.frames.remove(frame)
        if self.inner is not None:
            self.inner.forget(frame)
        self.machine.handle(e.ResultLeft(self.number, message, large) if large else e.FromSlot(self.number, message))
        if self.alive:
            self.look()

    def exit(self, how: str) -> None:
        if not self.alive:
            return
        self.alive = False
        for frame in self.frames:
            frame.task.excuses.append("its slot died")
        if self.frames:
            self.frames[-1].task.deaths += 1
            self._world.log(self.machine.name, f"slot {self.number} dies under {self.frames[-1].task.key}", how)
        if self.inner is not None:
            self.inner.end()
        self._world.later(0.0, self.machine.exited, self, how)


class Inner:
    """The client of a slot: it keeps nothing, and is of no more use when its connection is lost."""

    def __init__(self, slot: Slot) -> None:
        self.name = f"inner {slot.machine.name}.{slot.number}"
        self.core: ClientCore[tuple[Frame, Task]] = ClientCore("tcp://simulated:1")
        self._slot = slot
        self._world = slot.machine.world
        self._open = False
        self._ended = False
        self._waiting: list[Frame] = []
        self.link: Connection = slot.machine.cluster.connect(
            self, "client", {"name": self.name, "nested": True, "slot_of": slot.machine.name}
        )

    def submit_for(self, frame: Frame) -> None:
        if self.core.closed:  # it was sent away, and its connection ends in a moment
            frame.cut_off = True
            self._slot.later(0.0, self._slot._end, frame)
            return
        if not self._open:
            self._waiting.append(frame)
            return
        parent = [*frame.run[:2]]
        group, messages = self.core.open_group(self._world.rng.randrange(3), parent)
        self._post(messages)
        for child in self._slot.machine.promises.children_of(frame.task):
            number = self.core.next_task()
            frame.pending.add(number)
            payload = [child.key.encode()]
            submit = m.Submit(number, "f", 0, None, group, None, [], parent, False, {}, payload)
            self._post(self.core.submit(submit, [], (frame, child)))
        self._post(self.core.close_group(group))
        frame.waits = True
        self._slot.say(m.Waiting(*frame.run[:2]))

    def forget(self, frame: Frame) -> None:
        """The call has ended; the scheduler knows that its tasks end with it."""
        self._waiting = [other for other in self._waiting if other is not frame]
        self._post(self.core.cancel(sorted(frame.pending), True) if frame.pending else [])

    def _post(self, messages: Sequence[Any]) -> None:
        for message in messages:
            self.link.to_scheduler(message)

    def opened(self, connection: Connection) -> None:
        if self._ended:
            return
        self._open = True
        waiting, self._waiting = self._waiting, []
        for frame in waiting:
            self.submit_for(frame)

    def received(self, connection: Connection, message: Any) -> None:
        if self._ended or isinstance(message, m.Workers | m.WorkerChanged):
            return
        self._world.log(self.name, "hears", message)
        if type(message) is m.ResultOffered:
            taken = m.ResultTaken(message.blob, message.peer)
            self._world.later(self._world.between(0.0, 0.2), self.link.to_scheduler, taken)
            return
        self._carry_out(self.core.receive(message), message)
        self._slot.look()

    def _carry_out(self, effects: Sequence[Effect[tuple[Frame, Task]]], message: Any) -> None:
        for effect in effects:
            if not isinstance(effect, Settle):
                self._post([effect])
            elif effect.handle is not None:
                frame, child = effect.handle
                frame.pending.discard(message.task)
                outcome = effect.outcome
                if effect.cut_off:
                    frame.cut_off = True
                elif isinstance(outcome, Lost) and message.reason != m.Reason.KILLED:
                    frame.wrong = f"{message.reason}: {message.text}"
                elif not isinstance(outcome, Lost):
                    assert bytes(outcome.payload[0]).decode() == child.key, "it is the outcome of another task"

    def closed(self, connection: Connection) -> None:
        """The connection is lost, or was never made: calls that wait get an error."""
        if self._ended:
            return
        self._ended = True
        self._slot.inner = None
        for frame in self._waiting:
            frame.cut_off = True
            self._slot.later(0.0, self._slot._end, frame)
        for effect in self.core.end("it is gone"):
            if isinstance(effect, Settle) and effect.cut_off and effect.handle is not None:
                effect.handle[0].cut_off = True
        self._slot.later(0.0, self._slot.look)

    def end(self) -> None:
        """The process ends."""
        self._ended = True
        self.link.shut(1)


def name_of_result(machine: str, number: int) -> Name:
    return Name(f"{machine}/{number}".encode().ljust(16)[-16:])
