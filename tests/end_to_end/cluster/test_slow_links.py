"""Connections that carry little: nobody is silent who is heard, and nobody piles up what the other cannot take."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

import minidask
from tests.end_to_end.cluster.test_encryption import Relay
from tests.helpers import Programs

LIMIT = 2
"""Seconds of silence: `--heartbeat-timeout`."""


@pytest.fixture
def relays() -> Iterator[list[Relay]]:
    made: list[Relay] = []
    yield made
    for relay in made:
        relay.close()


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
