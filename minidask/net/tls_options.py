"""What a user may choose of encryption: options of the daemons, a client's argument `tls`, and a text for slots."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import argparse


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
