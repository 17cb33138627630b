"""Where a scheduler listens: `host:port`, `tcp://host:port`, `unix:///path`, with IPv6 in brackets. Pure.

Users write addresses in many ways, and a wrong one would fail much later, with an error of the socket library. So an
address is checked here, and each mistake gets an error that shows the right forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DEFAULT_PORT = 8786
MAX_UNIX_PATH = 107  # bytes; the kernel's limit

_FORMS = "use host, host:port, tcp://host:port, tcp://[ipv6]:port or unix:///path"


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a scheduler or worker: `host` and `port` for TCP, or the `path` of a Unix socket.

    `str()` of it is the one form that logs, messages and other addresses use: `tcp://host:port` or `unix:///path`.
    """

    scheme: Literal["tcp", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str, *, port_zero: bool = False) -> Address:
        """Read an address.

        Args:
            text: as users write it. The port is `DEFAULT_PORT` if it is left out.
            port_zero: whether port 0 is allowed. A program that listens lets the kernel choose a port by it.

        Raises:
            ValueError: the text is no address. The error says why, and shows the forms.
        """
        scheme, separator, rest = text.strip().partition("://")
        if not separator:
            scheme, rest = "tcp", scheme
        if scheme == "unix":
            return cls("unix", path=_unix_path(text, rest))
        if scheme != "tcp":
            raise ValueError(f"address {text!r} has an unknown scheme {scheme!r}: {_FORMS}")
        host, port = _split_host(text, rest)
        if not _is_host(host):
            raise ValueError(f"address {text!r} has no valid host: {_FORMS}")
        return cls("tcp", host=host, port=_port(text, port, 0 if port_zero else 1))

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"


def _is_host(host: str) -> bool:
    if not host or any(character.isspace() or character in "/@[]" for character in host):
        return False
    try:
        host.encode("idna")  # looking the name up does so too, and fails for a label that is empty or too long
    except UnicodeError:
        return False
    return True


def _unix_path(text: str, path: str) -> str:
    if not path.startswith("/") or path == "/" or "\0" in path:
        raise ValueError(f"address {text!r} needs an absolute path to a socket: {_FORMS}")
    if len(path.encode(errors="surrogateescape")) > MAX_UNIX_PATH:
        raise ValueError(
            f"address {text!r} has a path of over {MAX_UNIX_PATH} bytes, the kernel's limit: use a shorter one"
        )
    return path


def _split_host(text: str, rest: str) -> tuple[str, str | None]:
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        if not bracket or ":" not in host or (tail and not tail.startswith(":")):
            raise ValueError(f"address {text!r} has a bracket in the wrong place: {_FORMS}")
        return host, tail[1:] if tail else None
    if rest.count(":") > 1:
        raise ValueError(f"address {text!r} has an IPv6 host without brackets: {_FORMS}")
    host, colon, port = rest.partition(":")
    return host, port if colon else None


def _port(text: str, port: str | None, lowest: int) -> int:
    if port is None:
        return DEFAULT_PORT
    if not (port.isascii() and port.isdigit() and len(port) <= 5) or not lowest <= int(port) <= 65535:
        raise ValueError(f"address {text!r} has port {port!r}, which is no number from {lowest} to 65535: {_FORMS}")
    return int(port)
