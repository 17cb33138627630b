"""A peer that holds the cluster's secret, and says whatever a test wants it to say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from minidask.conformance.peer import Peer, initiator
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials
from minidask.wire.messages import Message


class Hostile:
    """An authenticated connection of the role "client", "worker" or "peer".

    Args:
        info: what it says of itself.
        access_file: None for the usual places.
    """

    def __init__(self, address: str, role: str, info: dict[str, Any], access_file: str | None = None) -> None:
        at = Address.parse(address)
        credentials = Credentials.of(at, access_file)
        self.peer = Peer.connect(at, credentials)
        try:
            self.peer.shake(initiator(credentials, role, info))
        except BaseException:
            self.close()
            raise
        self.sock, self.peer_info = self.peer.sock, self.peer.peer_info

    def say(self, *messages: Message) -> None:
        self.peer.say(*messages)

    def say_bytes(self, data: bytes) -> None:
        self.peer.say_bytes(data)

    def messages(self) -> Iterator[Message]:
        """What comes, one after the other, until the other side closes the connection."""
        return self.peer.messages()

    def wait_for(self, kind: type) -> Any:
        return self.peer.wait_for(kind)

    def close(self) -> None:
        self.peer.close()

    def __enter__(self) -> Hostile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
