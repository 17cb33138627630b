"""Leader/followers under a scripted scheduler of threads: which thread goes on at each step is drawn by Hypothesis."""

from __future__ import annotations

import functools
import itertools
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidask.client import reading
from minidask.client.connection import Loss
from minidask.client.reading import Leadership, Reader

MAX_STEPS = 20_000
END = -1


class _Aborted(BaseException):
    """The stage is empty: whoever still stands on it leaves."""


class _Actor:
    """A thread on the stage; it goes on when `ready` is true, or when nobody can and it has an `alarm`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: Callable[[], object] = lambda: True
        self.alarm = self.over = False
        self.go = threading.Semaphore(0)


class Stage:
    """Runs threads, one at a time. Each gives way at every step; the script says who is next.

    Time stands still while anybody can go on. So a wait with a limit ends early only where nothing else would happen:
    `passed` counts those.
    """

    def __init__(self, script: list[int]) -> None:
        self.passed: list[str] = []
        self.errors: list[BaseException] = []
        self._script: Iterator[int] = itertools.chain(script, itertools.cycle(range(7)))  # fair to all
        self._actors: list[_Actor] = []
        self._threads: list[threading.Thread] = []
        self._back = threading.Semaphore(0)
        self._this = threading.local()
        self._aborted = False

    def spawn(self, name: str, code: Callable[[], None]) -> None:
        actor = _Actor(name)

        def play() -> None:
            self._this.actor = actor
            actor.go.acquire()
            try:
                if not self._aborted:
                    code()
            except _Aborted:
                pass
            except BaseException as error:
                self.errors.append(error)
            actor.over = True
            self._back.release()

        self._actors.append(actor)
        self._threads.append(threading.Thread(target=play, name=name, daemon=True))
        self._threads[-1].start()

    def step(self, ready: Callable[[], object] = lambda: True, *, alarm: bool = False) -> None:
        """Let others go on; this thread does so when that is true."""
        actor: _Actor = self._this.actor
        actor.ready, actor.alarm = ready, alarm
        if not self._aborted:
            self._back.release()
            actor.go.acquire()
        if self._aborted:
            raise _Aborted

    def run(self) -> None:
        """Run all to their ends."""
        try:
            for _ in range(MAX_STEPS):
                waiting = [actor for actor in self._actors if not actor.over]
                if not waiting or self.errors:
                    break
                able = [actor for actor in waiting if actor.ready()]
                time_passes = not able
                able = able or [actor for actor in waiting if actor.alarm]
                assert able, f"a deadlock of {[actor.name for actor in waiting]}"
                actor = able[next(self._script) % len(able)]
                self.passed += [actor.name] if time_passes else []
                actor.go.release()
                self._back.acquire()
            else:
                raise AssertionError("they go on for ever")
        finally:
            self._aborted = True
            for actor in self._actors:
                actor.go.release()
            for thread in self._threads:
                thread.join()
        if self.errors:
            raise self.errors[0]


class StagedLock:
    """A lock whose every use is a step."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._held = False

    def acquire(self, blocking: bool = True) -> bool:
        self._stage.step()
        if self._held and not blocking:
            return False
        if self._held:
            self._stage.step(lambda: not self._held)
        self._held = True
        return True

    def release(self) -> None:
        assert self._held
        self._held = False
        self._stage.step()

    def locked(self) -> bool:
        self._stage.step()
        return self._held

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Wire:
    """A connection: messages come one at a time, and are read in any number."""

    def __init__(self, stage: Stage) -> None:
        self.early: list[Any] = []
        self.incoming: deque[int] = deque()
        self._stage = stage
        self._reads = False

    def fileno(self) -> int:
        return -1

    def receive(self, on_message: Callable[[Any], None]) -> Loss | None:
        assert not self._reads, "two threads read at once"
        self._reads = True
        while self.incoming:
            message = self.incoming.popleft()
            self._stage.step()
            if message == END:
                return Loss("it is over")
            on_message(message)
        self._reads = False
        return None


class Scene:
    """A reader on a stage, with a scheduler that sends messages and threads that wait for them."""

    def __init__(self, script: list[int], messages: int, monkeypatch: pytest.MonkeyPatch, slot: Any = None) -> None:
        self.stage = stage = Stage(script)
        self.wire = wire = Wire(stage)
        self.done: list[int] = []
        self.reasons: list[str] = []
        self.waiters = 0

        def wait_for(descriptors: list[int]) -> Callable[[float | None], list[int]]:
            wake_fd = next(descriptor for descriptor in descriptors if descriptor >= 0)

            def ready() -> list[int]:
                woken = select.select([wake_fd], [], [], 0)[0]
                return [*([wire.fileno()] if wire.incoming else []), *woken]

            def wait(seconds: float | None) -> list[int]:
                stage.step(ready, alarm=seconds is not None)
                return ready()

            return wait

        event = SimpleNamespace(wait=lambda seconds: stage.step(lambda: False, alarm=True))
        fake = SimpleNamespace(
            Lock=lambda: StagedLock(stage),
            Event=lambda: event,
            get_ident=threading.get_ident,
            current_thread=threading.current_thread,
        )
        monkeypatch.setattr(reading, "threading", fake)
        monkeypatch.setattr(reading, "_wait_for", wait_for)
        monkeypatch.setattr(reading, "start", lambda thread: stage.spawn("reading thread", thread.run))
        self.reader = Reader(wire, self.done.append, lambda reason: False, self.reasons.append, slot)  # type: ignore[arg-type]
        monkeypatch.setattr(self.reader, "wake", functools.partial(self._wake, self.reader.wake))
        stage.spawn("scheduler", lambda: self._send(messages))

    def _wake(self, wake: Callable[[], None]) -> None:
        wake()
        self.stage.step()

    def _send(self, messages: int) -> None:
        for message in range(messages):
            self.stage.step()
            self.wire.incoming.append(message)
        self.stage.step(lambda: self.waiters == 0)
        self.wire.incoming.append(END)

    def wait_for(self, wanted: set[int], callback: Callable[[int], None] = lambda message: None) -> None:
        """Have a thread wait for messages, by reading if it may, and run a callback for each."""
        self.waiters += 1
        name = f"waits for {sorted(wanted)}"
        self.stage.spawn(name, lambda: self.lead_until_done(wanted, callback, first=True))

    def lead_until_done(self, wanted: set[int], callback: Callable[[int], None], first: bool = False) -> None:
        called: set[int] = set()

        def run_callbacks() -> None:
            while new := (wanted & {*self.done}) - called:
                message = min(new)
                called.add(message)
                callback(message)

        while called != wanted:
            with self.reader.lead() as leadership:
                if leadership is None:
                    self._follow(lambda: (wanted & {*self.done}) - called)
                    run_callbacks()
                    continue
                self._lead(leadership, wanted, called, run_callbacks)
        self.waiters -= first

    def _follow(self, is_done: Callable[[], object]) -> None:
        woken: list[None] = []
        with self.reader.following(functools.partial(woken.append, None)):
            self.stage.step(lambda: woken or is_done(), alarm=True)

    def _lead(self, leadership: Leadership, wanted: set[int], called: set[int], callbacks: Callable[[], None]) -> None:
        while called != wanted and not self.reader.wanted_back:
            if (wanted & {*self.done}) - called:
                leadership.run(callbacks)
            else:
                leadership.read(None)

    def play(self, messages: int) -> None:
        self.stage.run()
        assert self.done == list(range(messages)), "each message once, and in order"
        assert self.reasons == ["it is over"]


SCRIPTS = st.lists(st.integers(0, 5), max_size=200)


class Slot:
    """A slot that is never given a call."""

    def __init__(self) -> None:
        self.call = [1, 1]
        self.waits = 0

    def fileno(self) -> int:
        return -2

    def begin_wait(self, call: list[int]) -> None:
        self.waits += 1

    def end_wait(self, call: list[int]) -> None:
        self.waits -= 1

    def has_call(self) -> bool:
        return False


@pytest.mark.parametrize("slot", [None, Slot()], ids=["outside", "in a task"])
@given(SCRIPTS)
def test_every_message_is_handled_once_by_one_thread_at_a_time(slot: Any, script: list[int]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        scene = Scene(script, 6, monkeypatch, slot)
        scene.wait_for({0, 3, 5})
        scene.wait_for({1, 2})
        scene.wait_for({4})
        scene.play(6)
    assert slot is None or slot.waits == 0


@given(SCRIPTS)
def test_a_leader_never_sits_out_a_limit_while_its_message_is_there(script: list[int]) -> None:
    """No wake-up is lost: time passes only when the next message has still to be sent, and it never has to."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        scene = Scene(script, 4, monkeypatch)
        scene.wait_for({0, 1, 2, 3})
        scene.play(4)
    assert [name for name in scene.stage.passed if name.startswith("waits")] == []


@given(SCRIPTS)
def test_a_follower_never_sits_out_a_limit_while_nobody_leads(script: list[int]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        scene = Scene(script, 6, monkeypatch)
        scene.wait_for({0, 3})
        scene.wait_for({1, 4})
        scene.wait_for({2, 5})
        scene.play(6)
    assert [name for name in scene.stage.passed if name.startswith("waits")] == []


@pytest.mark.parametrize("slot", [None, Slot()], ids=["outside", "in a task"])
@given(SCRIPTS)
def test_a_callback_may_wait_for_a_message_that_another_thread_reads(slot: Any, script: list[int]) -> None:
    """The reading thread steps in for a leader whose callback goes on for long; in a task another thread leads."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        scene = Scene(script, 4, monkeypatch, slot)
        scene.wait_for({0}, lambda _: scene.stage.step(lambda: 2 in scene.done))
        scene.wait_for({1}, lambda _: scene.stage.step(lambda: 3 in scene.done))
        scene.play(4)


@pytest.mark.parametrize("slot", [None, Slot()], ids=["outside", "in a task"])
@given(SCRIPTS)
def test_a_callback_may_lead_again_in_the_same_thread(slot: Any, script: list[int]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        scene = Scene(script, 4, monkeypatch, slot)
        scene.wait_for({0}, lambda _: scene.lead_until_done({2}, lambda _: None))
        scene.wait_for({1}, lambda _: scene.lead_until_done({3}, lambda _: None))
        scene.play(4)


@given(SCRIPTS)
def test_a_done_callback_may_not_lead(script: list[int]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        scene = Scene(script, 1, monkeypatch)
        refused: list[str] = []

        def lead(message: int) -> None:
            with pytest.raises(RuntimeError, match="done-callback") as error, scene.reader.lead():
                pass
            refused.append(str(error.value))
            scene.done.append(message)

        scene.reader._on_message = lead
        scene.wait_for({0})
        scene.play(1)
    assert len(refused) == 1
