"""The configuration of a node. It travels as JSON."""

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
        folders: where all that is; the node removes them in the end, as the user's process may be gone.
        resources: what it has beside its slots, by name.
    """

    slots: int
    memory_limit: int | None
    machine_memory: int
    slot: SlotConfig
    folders: list[str]
    resources: dict[str, float]

    def to_json(self) -> str:
        """The configuration as a text."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> NodeConfig:
        """Read a configuration from a text that `to_json` has made."""
        slots, memory_limit, machine_memory, slot, folders, resources = json.loads(text)
        return cls(slots, memory_limit, machine_memory, SlotConfig(*slot), folders, resources)
