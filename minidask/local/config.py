"""The configuration of a node. It travels as one line of JSON, the first line in the node's control channel."""

from __future__ import annotations

import json
from typing import NamedTuple

from minidask.task.context import SlotConfig


class NodeConfig(NamedTuple):
    """The configuration of a node.

    Attributes:
        slots: how many calls run at once.
        memory_limit: bytes that each slot may use; None without a limit.
        machine_memory: bytes that all slots may use together.
        slot: the store, the address to listen at, and the file for the secret.
    """

    slots: int
    memory_limit: int | None
    machine_memory: int
    slot: SlotConfig

    def to_line(self) -> bytes:
        """The configuration as a line of JSON."""
        return json.dumps(self).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> NodeConfig:
        """Read a configuration from a line that `to_line` has made."""
        slots, memory_limit, machine_memory, slot = json.loads(line)
        return cls(slots, memory_limit, machine_memory, SlotConfig(*slot))
