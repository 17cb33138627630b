"""A link of the tests: it keeps the messages that a scheduler or a worker sends."""

from __future__ import annotations

from typing import Any

from minidask.wire import messages as m
from minidask.wire.codec import encode


class Peer:
    """A link that keeps the messages that are sent over it."""

    def __init__(self) -> None:
        self.came: list[m.Message] = []
        self.closed = False

    def send(self, message: m.Message) -> None:
        encode(message)
        self.came.append(message)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.came if type(message) is kind]
