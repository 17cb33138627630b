"""What a program needs to let others in and to be let in: the secret, and how its TCP connections are encrypted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from minidask.net.access import Access, access_for
from minidask.net.addresses import Address

if TYPE_CHECKING:
    import argparse

    from minidask.net.tls import Context, TLSStream


class TLSFiles(NamedTuple):
    """The user's own certificates, as files in PEM.

    Attributes:
        ca_file: certificates of the authority; the other side's has to be signed by it.
        cert: this side's certificate, with those between it and the authority.
        key: its private key, without a password.
    """

    ca_file: str
    cert: str
    key: str


PLAIN_WARNING = (
    "connections to %s are not encrypted (--no-encryption): whoever is on the network between can read and change all"
    " that goes over them, and so run code on the workers"
)

TLSChoice = TLSFiles | bool | None
"""How TCP is encrypted. True: by the secret; these files: by them; False: not; None: as the access file says."""


def tls_files(ca_file: str | None, cert: str | None, key: str | None) -> TLSFiles | None:
    """Return the three files with absolute paths; None if none is named.

    Raises:
        ValueError: only some are named.
    """
    paths = (ca_file, cert, key)
    if not any(paths):
        return None
    if ca_file is None or cert is None or key is None or not all(paths):
        raise ValueError("a certificate of your own needs three files: of the authority, the certificate and its key")
    return TLSFiles(*(os.path.abspath(os.path.expanduser(path)) for path in (ca_file, cert, key)))


def checked_tls(tls: object) -> TLSChoice:
    """Check the argument `tls` of a client, and return it, with absolute paths.

    Raises:
        TypeError: it is neither `TLSFiles` nor True, False or None.
        ValueError: a path is empty.
    """
    if isinstance(tls, TLSFiles) and all(isinstance(path, str | os.PathLike) for path in tls):
        return tls_files(*map(os.fspath, tls))
    if tls is None or isinstance(tls, bool):
        return tls
    raise TypeError(f"tls must be minidask.TLSFiles(ca_file, cert, key), True, False or None, got {type(tls).__name__}")


def tls_of_options(options: argparse.Namespace) -> TLSChoice:
    """Return what the command line of a daemon chooses.

    Raises:
        ValueError: the options contradict one another.
    """
    files = tls_files(options.tls_ca_file, options.tls_cert, options.tls_key)
    if files is not None and options.no_encryption:
        raise ValueError("--no-encryption has no use for --tls-ca-file, --tls-cert and --tls-key")
    return False if options.no_encryption else files


def to_text(tls: TLSChoice) -> str:
    """Write a choice as text, for the command line of a slot."""
    return json.dumps(tls)


def from_text(text: str) -> TLSChoice:
    """Read a choice that `to_text` has written; None from an empty text."""
    value = json.loads(text or "null")
    return TLSFiles(*value) if isinstance(value, list) else value


class Credentials:
    """The secret, and the rules for TLS that follow from it.

    Args:
        access: what the access file says.
        tls: how TCP connections are encrypted.
    """

    def __init__(self, access: Access, tls: TLSChoice = None) -> None:
        self.secret = access.secret
        self._source = access.source
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

    def _hint(self, accepts: bool) -> str:
        if self._files is not None:
            return f"this side has the certificate {self._files.cert}, and trusts what {self._files.ca_file} has signed"
        if accepts:
            return "it does not hold this side's secret"
        return (
            f"it does not hold the same secret as this side, which has read {self._source}: copy the access file from"
            " the scheduler's machine, or name the right one (--access-file, access_file=, MINIDASK_ACCESS_FILE)"
        )
