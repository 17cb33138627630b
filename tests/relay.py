"""A machine in the middle of a connection, for tests of what it may see, change or hold up."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from tests.end_to_end.cluster.test_daemons import host_and_port


class Relay:
    """A machine in the middle: it passes bytes on, keeps them, and may change them.

    Args:
        address: of the scheduler.
        change: gets the bytes of one read and which way they go, and returns what to pass on.
    """

    def __init__(self, address: str, change: Callable[[bytes, str], bytes] = lambda data, way: data) -> None:
        self._address = host_and_port(address)
        self._change = change
        self.seen = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._socks: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._address, 10)
            self._socks += [near, far]
            for source, target, way in ((near, far, "up"), (far, near, "down")):
                threading.Thread(target=self._pass_on, args=(source, target, way), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.seen += data
                target.sendall(self._change(data, way))
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        for sock in self._socks:
            sock.close()
