"""Channels from tasks to their caller, where there is no task."""

from __future__ import annotations

from minidask.task import channels
from minidask.task.context import current_slot


def test_outside_of_tasks_there_is_nobody_to_tell() -> None:
    assert current_slot() is None
    assert not channels.tell_caller("test", [b"x"])
