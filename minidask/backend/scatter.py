"""The objects of `scatter=`: each is sent once, and tasks share it."""

from __future__ import annotations

from typing import Any

from minidask.client.client import Client
from minidask.pickling.sharing import Scattered


class SharedData:
    """The objects of `scatter=`, sent ahead when the first call starts and held until the backend is forgotten."""

    def __init__(self, objects: list[Any]) -> None:
        self._objects = objects
        self._handles: list[tuple[Any, Scattered]] = []
        self._client: Client | None = None

    def handles(self, client: Client) -> list[tuple[Any, Scattered]]:
        """Each object with its handle at a client; the objects are sent if they were sent to another one."""
        if self._objects and self._client is not client:
            self._handles = [(obj, client.scatter_one(obj)) for obj in self._objects]
            self._client = client
        return self._handles
