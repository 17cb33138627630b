"""Connections between workers: how soon a source is given up."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from minidask.net import transport
from minidask.net.access import Access
from minidask.net.credentials import Credentials
from minidask.net.sockets import DEAD_SECONDS, keep_alive
from minidask.wire.messages import FetchChunk
from minidask.worker import peers
from minidask.worker.peers import Peers


class Told:
    """In the place of transfers: whether they are told that a source is lost."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    def source_lost(self, source: str, why: str) -> None:
        self.lost.set()


def test_a_worker_notices_sooner_that_its_source_is_gone_than_that_who_fetches_here_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another source has the data too. Whoever fetches may be held up for long, and comes back."""
    patience = {}

    async def scene() -> None:
        both = asyncio.Event()

        def keep(sock: socket.socket, seconds: int) -> None:
            keep_alive(sock, seconds)
            patience[sock.getpeername()[1] == port] = seconds
            if len(patience) == 2:
                both.set()

        monkeypatch.setattr(transport, "keep_alive", keep)
        told: Any = Told()
        credentials = Credentials(Access(b"s" * 32))
        host, guest = Peers(credentials, told), Peers(credentials, told)
        server = await asyncio.get_running_loop().create_server(host._accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        guest.send(f"tcp://127.0.0.1:{port}", FetchChunk(b"n" * 16, 0, 1, 0))
        await asyncio.wait_for(both.wait(), 10)
        guest.close()
        host.close()
        server.close()
        await asyncio.wait_for(told.lost.wait(), 10)
        await asyncio.sleep(0)

    asyncio.run(scene())
    assert patience == {True: peers.DEAD_SECONDS, False: DEAD_SECONDS}


def test_who_asks_and_does_not_read_is_cut_off_at_last() -> None:
    reader: Any = SimpleNamespace(abort=Mock())
    door = Peers(Credentials(Access(b"s" * 32)), Mock())
    door._links[1], door._asked[1] = reader, []
    for _ in range(3):
        door._received(1, [FetchChunk(b"n" * 16, 0, 1, 0)] * peers.MOST_ASKED)
    assert reader.abort.called and len(door._asked[1]) <= peers.MOST_ASKED + 3
