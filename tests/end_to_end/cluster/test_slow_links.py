"""Connections that carry little: nobody is silent who is heard, and nobody piles up what the other cannot take."""

from __future__ import annotations

import signal
import sys
import time

import psutil
import pytest

import minidask
from minidask.task import channels
from tests.helpers import Programs, wait_until
from tests.relay import Relay

LIMIT = 2
"""Seconds of silence: `--heartbeat-timeout`."""


def large_result(pieces: int) -> list[bytes]:
    return [bytes([i]) * 500_000 for i in range(pieces)]


def test_a_result_that_takes_longer_to_come_than_silence_lasts_is_no_silence(
    programs: Programs, relays: list[Relay]
) -> None:
    """It is one message, and heartbeats wait behind it."""
    scheduler, address = programs.scheduler("--heartbeat-timeout", str(LIMIT))

    def slowly(data: bytes, way: str) -> bytes:
        if way == "up" and len(data) > 10_000:
            time.sleep(len(data) / 1e6)
        return data

    relays.append(Relay(address, slowly))
    worker = programs.worker(relays[0].address, "--nworkers", "1")
    with minidask.Client(address) as client:
        began = time.monotonic()
        assert client.submit(large_result, 12).result(60) == large_result(12)
        assert time.monotonic() - began > 2 * LIMIT
    assert "is lost" not in scheduler.text and worker.text.count("joined the scheduler") == 1


MESSAGES, BYTES = 4000, 100_000


def talk() -> str:
    """Tell the caller 400 MB."""
    print("before")
    for number in range(MESSAGES):
        channels.tell_caller("talk", [b"%9d" % number + bytes(BYTES)])
    print("after")
    return "told"


@pytest.mark.parametrize("stopped", [True, False], ids=["stands still", "is killed"])
def test_what_tasks_say_to_a_scheduler_that_takes_nothing_does_not_pile_up(stopped: bool, programs: Programs) -> None:
    """The call waits, and goes on when the scheduler does; nothing of what it says is lost or comes twice."""
    came: list[int] = []
    channels.handle("talk", lambda payload: came.append(int(bytes(payload[0])[:9])))
    scheduler, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "1")
    memory = psutil.Process(worker.process.pid).memory_info
    with minidask.Client(address) as client:
        future = client.submit(talk)
        wait_until(lambda: came, "it had begun to talk")
        before, highest = memory().rss, 0
        scheduler.send(signal.SIGSTOP if stopped else signal.SIGKILL)
        end = time.monotonic() + 6
        while time.monotonic() < end:
            highest = max(highest, memory().rss - before)
            time.sleep(0.02)
        assert highest < 200 << 20, f"{highest / 2**20:.0f} MiB"
        if stopped:
            scheduler.send(signal.SIGCONT)
        else:
            programs.start(sys.executable, "-m", "minidask.scheduler", "--port", address.rpartition(":")[2])
        assert future.result(50) == "told"
        assert client.shell.channels.flush(20)
    assert came[-1] == MESSAGES - 1
    if stopped:
        assert came == [*range(MESSAGES)]
    assert len(came) == len(set(came)), "some came twice"
