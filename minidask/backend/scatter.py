"""`parallel_config("minidask", scatter=[…])`: each of these objects is sent once, and all tasks share it."""

from __future__ import annotations

from typing import Any

from minidask.client.client import Client
from minidask.pickling.scattered import Scattered


class SharedData:
    """The objects of `scatter=`. The first call sends them; their handles live as long as the backend."""

    def __init__(self, objects: list[Any]) -> None:
        self._objects = objects
        self._handles: list[tuple[Any, Scattered]] = []
        self._client: Client | None = None

    def handles(self, client: Client) -> list[tuple[Any, Scattered]]:
        """Return each object with its handle. The objects are sent first, unless this client has sent them."""
        if self._objects and self._client is not client:
            self._handles = [(obj, client.scatter_one(obj)) for obj in self._objects]
            self._client = client
        return self._handles
