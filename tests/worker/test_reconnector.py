"""The worker's connection to a scheduler on the network: no attempt to connect lasts longer than a moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from minidask.errors import SchedulerLost
from minidask.net import transport
from minidask.net.access import Access
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials
from minidask.worker import reconnector
from minidask.worker.reconnector import Reconnector
from tests.helpers import black_hole


class IdleShell:
    """A worker without slots."""

    def __init__(self) -> None:
        self.gave_up, self.drained = asyncio.Event(), asyncio.Event()
        self.info = {"name": "w", "slots": 0}

    def start(self) -> None:
        pass

    async def close(self) -> None:
        pass


def test_an_address_that_answers_nothing_is_tried_again_and_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel would try for minutes, and more and more seldom: a worker would join long after the network is up."""
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.05)
    monkeypatch.setattr(reconnector, "LAST_RETRY_SECONDS", 0.1)
    attempts = []

    async def connect(address: Address, link: Any) -> None:
        attempts.append(address)
        await transport.connect(address, link)

    monkeypatch.setattr(reconnector, "connect", connect)

    async def scene(address: str) -> None:
        shell: Any = IdleShell()
        await asyncio.wait_for(
            Reconnector(shell, Address.parse(address), Credentials(Access(b"s" * 32)), 0.5).run(), 20
        )

    with black_hole() as address, pytest.raises(SchedulerLost, match=r"0\.5 seconds: .*no answer within 0\.05"):
        asyncio.run(scene(address))
    assert len(attempts) >= 3
