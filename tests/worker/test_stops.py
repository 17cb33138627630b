"""Stops of calls in a slot: they interrupt a call, or wait until it can be interrupted."""

from __future__ import annotations

import signal

import pytest

from minidask.worker.slot.stops import RunningCalls


def test_stops_are_put_off_and_heeded() -> None:
    calls = RunningCalls(None)
    call = calls.begin(1, 1)
    assert calls.put_off_stops() is None  # it may not be interrupted anyway
    call.interruptible = True
    assert calls.put_off_stops() is call
    calls.interrupt(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        calls.heed_stops(call)
    assert call.interruptible
    assert calls.put_off_stops() is call
    calls.heed_stops(call)  # it has taken its effect
    with pytest.raises(KeyboardInterrupt):
        calls.interrupt(signal.SIGINT, None)
