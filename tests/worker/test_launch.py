"""Slots that cannot be started."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from minidask.task.context import SlotConfig
from minidask.worker import launch


def test_a_slot_that_cannot_be_started_leaves_no_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    launch._life_pipe()  # which this process keeps
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(BlockingIOError):
        launch.launch({}, SlotConfig("", "", ""))
    assert os.listdir("/proc/self/fd") == before
