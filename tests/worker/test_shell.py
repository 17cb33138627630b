"""The worker's shell without processes: a slot that fails is killed, and an error of ours ends the worker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from minidask.data.store import BlobStore
from minidask.task.context import SlotConfig
from minidask.wire import messages as m
from minidask.worker.events import SchedulerGone
from minidask.worker.memory import MemoryLimits
from minidask.worker.shell import WorkerShell
from minidask.worker.slot.recorder import Recorder
from tests.links import Peer


class OddSlots:
    """A factory of slots that cannot be started, or sent anything."""

    pid = 1

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.killed = self.started = 0
        self.recorder = Recorder()

    def __call__(self, *_: Any) -> Any:
        self.started += 1
        if self.error is not None:
            raise self.error
        return self

    def send(self, message: m.Message) -> None:
        raise ValueError("no room")

    def kill(self) -> None:
        self.killed += 1


def shell(slots: Any, store: Any = None) -> WorkerShell:
    slot_config = SlotConfig("", "", "")
    return WorkerShell("w", 1, slots, MemoryLimits(None, 1 << 40), slot_config, store, None)


def test_a_slot_that_cannot_be_sent_its_call_is_killed() -> None:
    async def scene() -> None:
        slots = OddSlots(None)
        worker, link = shell(slots), Peer()
        worker.attach(link)
        worker.resize(1)
        worker._slot_said(0, m.SlotReady())
        worker.from_scheduler([m.Run(1, 1, 1, "f", None, [], 0, False, [b"call"])])
        assert slots.killed == 1 and not worker.gave_up.is_set()
        worker._slot_exited(0, "SIGKILL", "?")
        assert [(died.task, died.how) for died in link.of(m.Died)] == [(1, "SIGKILL")]
        worker._closing = True

    asyncio.run(scene())


class GoodSlot:
    """A slot's handle that takes whatever it is sent."""

    def __init__(self, *_: Any) -> None:
        self.recorder = Recorder()

    def send(self, message: m.Message) -> None:
        pass

    def flush(self) -> None:
        pass

    def read(self, *, on: bool) -> None:
        pass


def test_what_ends_or_waits_while_there_is_no_scheduler_is_told_to_the_next_one(tmp_path: Path) -> None:
    async def scene() -> None:
        worker, before, after = shell(GoodSlot, BlobStore(str(tmp_path))), Peer(), Peer()
        worker.attach(before)
        worker.resize(2)
        runs = [m.Run(m.OUTLIVES + number, 1, 1, "f", None, [], 0, False, [b"call"]) for number in (1, 2)]
        for slot, run in enumerate(runs):
            worker._slot_said(slot, m.SlotReady())
            worker.from_scheduler([run])
        worker.attach(None)
        worker.post(SchedulerGone())
        worker._slot_said(0, done := m.Done(*runs[0][:2], 0.5, [b"result"]))
        worker._slot_said(1, waits := m.Waiting(*runs[1][:2]))
        assert sorted(worker.info["holds"]) == [[*run[:2]] for run in runs]
        worker.attach(after)
        assert after.came == [done, waits]
        assert worker.info["holds"] == [[*runs[1][:2]]]
        worker._closing = True

    asyncio.run(scene())


class Chore:
    """What is done again and again; each time it is, the next of these errors is raised, None for none."""

    __name__ = "a chore"

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)

    def __call__(self) -> float:
        error = self.errors.pop(0)
        if error is not None:
            raise error
        return 0.0


def test_a_chore_goes_on_after_a_moment_without_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("minidask.worker.shell.RETRY_SECONDS", 0.0)
    worker, full = shell(OddSlots(None)), OSError(24, "Too many open files")
    chore = Chore(None, full, full, None, full, ZeroDivisionError("x"))
    asyncio.run(asyncio.wait_for(worker._repeat(chore), 10))
    assert not chore.errors
    told = [record.getMessage() for record in caplog.records if record.name == "minidask.worker"]
    assert told[:2] == ["a chore cannot be done, and is tried again: [Errno 24] Too many open files"] * 2
    assert worker.gave_up.is_set(), "an error of our own would go unnoticed"
    assert "ZeroDivisionError" in worker.reason


def test_an_error_of_ours_ends_this_worker_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        worker = shell(OddSlots(None))
        monkeypatch.setattr(worker._core.table, "resize", lambda slots: 1 / 0)
        worker.resize(1)
        assert worker.gave_up.is_set()
        assert "ZeroDivisionError" in worker.reason

    asyncio.run(scene())
