"""What a program needs to let others in and to be let in: the secret, and how its TCP connections are encrypted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from minidask._version import __version__
from minidask.errors import AuthenticationError
from minidask.net.access import Access, access_for, load_access
from minidask.net.addresses import Address
from minidask.net.tls_options import TLSChoice, TLSFiles
from minidask.wire.handshake import NONCE_BYTES, Initiator

if TYPE_CHECKING:
    from minidask.net.tls import Context, TLSStream


class Credentials:
    """The secret, and the rules for TLS that follow from it.

    Args:
        access: what the access file says.
        tls: how TCP connections are encrypted.
    """

    def __init__(self, access: Access, tls: TLSChoice = None) -> None:
        self.secret = access.secret
        self._access = access
        self._files = tls if isinstance(tls, TLSFiles) else None
        self.encrypted = access.encrypted if tls is None else bool(tls)
        self._contexts: dict[bool, Context] = {}
        self._memory: memoryview | None = None

    @classmethod
    def of(cls, address: Address, access_file: str | Path | None, tls: TLSChoice = None) -> Credentials:
        """Return those for the scheduler at an address.

        Raises:
            AuthenticationError: the access file is missing, or not safe to use.
        """
        return cls(access_for(address, access_file), tls)

    def renew(self) -> bool:
        """Take another secret, if the access file has one by now. Returns whether it has."""
        try:
            access = load_access(Path(self._access.source))
        except AuthenticationError:
            return False  # it is gone: what was read holds
        renewed = access.secret != self.secret
        if renewed:
            self.secret, self._access = access.secret, access
            self._contexts.clear()
        return renewed

    def are_plain(self, address: Address) -> bool:
        """Whether connections there cross a network unencrypted."""
        return address.scheme == "tcp" and not self.encrypted

    def stream(self, address: Address, *, accepts: bool) -> TLSStream | None:
        """Begin the TLS of a connection; None where there is none.

        All streams of one `Credentials` share the memory for received bytes: they belong to one thread.

        Args:
            address: where this side connects to, or listens.
            accepts: whether this is the side that listens.

        Raises:
            AuthenticationError: a file of the user's cannot be used.
        """
        if address.scheme != "tcp" or not self.encrypted:
            return None
        from minidask.net import tls  # noqa: PLC0415 - it takes 30 ms to load, and most programs need none

        if accepts not in self._contexts:
            self._contexts[accepts] = tls.Context(self.secret, self._files, accepts=accepts, hint=self._hint(accepts))
        if self._memory is None:
            self._memory = memoryview(bytearray(tls.READ_BYTES))
        return tls.TLSStream(self._contexts[accepts], self._memory)

    def hello(self, address: Address, role: str) -> bytes:
        """The first bytes of a handshake that is not completed: whoever answers them does not hang."""
        tls = self.stream(address, accepts=False)
        if tls is not None:
            return tls.start()
        return b"".join(Initiator(b"", role=role, version=__version__, nonce=bytes(NONCE_BYTES), info={}).start())

    def _hint(self, accepts: bool) -> str:
        if self._files is not None:
            return f"this side has the certificate {self._files.cert}, and trusts what {self._files.ca_file} has signed"
        if accepts:
            return "it does not hold this side's secret"
        return (
            f"it does not hold the same secret as this side, which has read {self._access.source}: copy the access file"
            " from the scheduler's machine, or name the right one (--access-file, access_file=, MINIDASK_ACCESS_FILE)"
        )
