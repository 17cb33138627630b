"""Both ends of TLS without sockets, and certificates of an authority of one's own, for tests of several folders."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from minidask.net.access import Access
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials
from minidask.net.tls import TLSStream
from minidask.net.tls_options import TLSFiles

TCP = Address("tcp", "127.0.0.1", 1)
SECRET = b"s" * 32


def stream(secret: bytes = SECRET, *, accepts: bool, files: TLSFiles | None = None) -> TLSStream:
    """One end of a connection."""
    found = Credentials(Access(secret, source="/my/access"), files).stream(TCP, accepts=accepts)
    assert found is not None
    return found


def opened(end: TLSStream, data: bytes) -> bytes:
    """What an end makes of bytes of the other one, in pieces as a socket may give them."""
    memory, found = memoryview(bytearray(1000)), bytearray()
    for start in range(0, len(data), len(end.memory)):
        piece = data[start : start + len(end.memory)]
        end.memory[: len(piece)] = piece
        for count in end.open_into(len(piece), lambda: memory):
            found += memory[:count]
    return bytes(found)


def shake_hands(initiator: TLSStream, acceptor: TLSStream, change: Callable[[bytes], bytes] = bytes) -> None:
    """Pass bytes between both ends until nothing comes any more. Raises what the first end that fails raises."""
    data = initiator.start()
    ends = [acceptor, initiator]
    while data:
        opened(ends[0], change(data))
        data = ends[0].take()
        ends.reverse()


class Authority:
    """An authority that signs certificates, in a folder of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir()
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._key = Ed25519PrivateKey.generate()
        self._write("ca.pem", self._signed(self._name, self._key, ca=True))

    def files(self, name: str) -> TLSFiles:
        """A certificate of this authority, with its key."""
        key = Ed25519PrivateKey.generate()
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        plain = serialization.NoEncryption()
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        names = (
            self._folder / "ca.pem",
            self._write(f"{name}.pem", self._signed(subject, key, ca=False)),
            self._write(f"{name}.key", pem),
        )
        return TLSFiles(*map(str, names))

    def _signed(self, subject: x509.Name, key: Ed25519PrivateKey, *, ca: bool) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        return builder.sign(self._key, None).public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, data: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(data)
        path.chmod(0o600)
        return path
