"""What importing and logging in a task need to know of the calling process, sent ahead as a blob."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping

from minidask.blobfiles import blob_id
from minidask.payload import dumps
from minidask.sources import OwnModules
from minidask.wire.messages import Payload


class Session:
    """Keeps the scheduler's copy of this process's description up to date.

    Args:
        put: called with the blob's payload, by its name, when there is a new one.
        release: called with the name of the one before.
    """

    def __init__(self, put: Callable[[Mapping[bytes, Payload]], None], release: Callable[[bytes], None]) -> None:
        self._put = put
        self._release = release
        self._path: list[str] = []
        self._log_level = -1
        self._modules = OwnModules()
        self._blob = b""

    def blob(self) -> bytes:
        """The name of the blob that describes this process as it is now; cheap while nothing has changed."""
        if self._modules.changed() or self._path != sys.path or self._log_level != logging.root.level:
            path, log_level = list(sys.path), logging.root.level
            description = {
                "python": list(sys.version_info[:2]),
                "version": sys.version.split()[0],
                "executable": sys.executable,
                "path": [os.path.abspath(entry) for entry in path],
                "log_level": log_level,
                "modules": self._modules.digests,
            }
            payload = dumps(description, "the session")
            before, after = self._blob, blob_id(payload)
            self._put({after: payload})
            self._path, self._log_level, self._blob = path, log_level, after
            if before and before != after:
                self._release(before)
        return self._blob
