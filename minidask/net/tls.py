"""TLS 1.3 on every TCP connection: each end shows a certificate, and proves that it holds the key. No sockets here.

    the access file's secret ─► a key and its certificate, the same on every machine
                                  │ each end shows it, and accepts no other one
    messages ─► put ─► seal ─► bytes for the peer
    messages ◄─ open_into ◄─── bytes of the peer

Nobody needs an authority or files of certificates: whoever holds the secret can make the one certificate that counts.
A stranger, or a relay in the middle, cannot, and fails before a byte of the handshake of `wire/handshake.py` is read.
Users who have an authority of their own name three files instead (`TLSFiles`).

OpenSSL works on memory only (`ssl.MemoryBIO`), so one class serves the daemons' event loops and the clients' blocking
sockets. It also keeps three things in our hands. Ctrl-C may interrupt a client while it encrypts: what TLS has to write
tells the next call how far that got, so no piece is encrypted twice, and none is lost. The first bytes of a peer can be
looked at before TLS has them. And no end waits for the other's farewell, which the event loops' own TLS does, for 30
seconds: the end of a connection means nothing but a loss, with TLS as without.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import os
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from minidask.errors import AuthenticationError, ProtocolError
from minidask.net.tls_options import TLSFiles
from minidask.wire.frames import MAGIC, Buffer

KEY_LABEL = b"minidask tls key 1"
NAME = "minidask"
READ_BYTES = 256 * 1024
SEAL_BYTES = 256 * 1024  # as much as stays in a processor's cache on its way
RECORDS = (0x15, 0x16)  # an alert, or a step of the handshake: so every peer begins that speaks TLS

_REFUSED = ("ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE_", "ALERT_DECRYPT_ERROR", "ALERT_ACCESS")


class NotEncrypted(ProtocolError):
    """The first bytes of the peer are not those of TLS."""


# --- certificates and contexts ---


def certificate_of(secret: bytes) -> tuple[bytes, bytes]:
    """Make the certificate and the key of all who hold a secret: always the same. Returns both as PEM."""
    seed = HKDF(hashes.SHA256(), length=32, salt=None, info=KEY_LABEL).derive(secret)
    key = Ed25519PrivateKey.from_private_bytes(seed)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    builder = x509.CertificateBuilder(name, name, key.public_key(), serial_number=1)
    certificate = builder.not_valid_before(datetime(1970, 1, 1)).not_valid_after(datetime(9999, 12, 31, 23, 59, 59))
    return (
        certificate.sign(key, None).public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


class Context:
    """One side's rules for TLS, for any number of connections.

    Args:
        secret: the cluster's.
        files: the user's own certificates; None for the one that the secret makes.
        accepts: whether this is the side that listens.
        hint: what to do if the other side's certificate is refused, as part of an error's text.

    Raises:
        AuthenticationError: a file cannot be used.
    """

    def __init__(self, secret: bytes, files: TLSFiles | None, *, accepts: bool, hint: str) -> None:
        self.accepts = accepts
        self.hint = hint
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if accepts else ssl.PROTOCOL_TLS_CLIENT)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.check_hostname = False  # a peer is known by what it holds, wherever it is
        self._context.verify_mode = ssl.CERT_REQUIRED
        if accepts:
            self._context.num_tickets = 0  # nobody resumes a connection
        self._only: bytes | None = None
        """The one certificate that is accepted; None: all that the authority has signed."""
        if files is None:
            certificate, key = certificate_of(secret)
            self.own = self._only = ssl.PEM_cert_to_DER_cert(certificate.decode())
            self._context.load_verify_locations(cadata=self.own)
            with _readable(certificate) as certificate_path, _readable(key) as key_path:
                self._context.load_cert_chain(certificate_path, key_path)
        else:
            self.own = self._load(files)

    def _load(self, files: TLSFiles) -> bytes:
        """Take the user's files. Returns this side's own certificate."""
        path = files.ca_file
        try:
            self._context.load_verify_locations(path)
            path = files.cert
            with open(path, encoding="ascii", errors="replace") as file:
                _, begin, rest = file.read().partition("-----BEGIN CERTIFICATE-----")
            first, end, _ = rest.partition("-----END CERTIFICATE-----")
            own = ssl.PEM_cert_to_DER_cert(begin + first + end)
            path = files.key
            self._context.load_cert_chain(files.cert, files.key, _no_password)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
            raise AuthenticationError(f"the file {path} cannot be used for TLS: {reason}") from error
        return own

    def begin(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """Begin a connection."""
        return self._context.wrap_bio(incoming, outgoing, server_side=self.accepts)

    def accept(self, certificate: bytes | None) -> bytes:
        """Return the certificate of a peer whose signature was right.

        Raises:
            AuthenticationError: it is not the one that is accepted.
        """
        if certificate is None or (self._only is not None and certificate != self._only):
            raise AuthenticationError(self.refusal("the other side's certificate is another one"))
        return certificate

    def refusal(self, why: str) -> str:
        """The text of an error about certificates: why, and what to do."""
        return f"{why}: {self.hint}"


@contextlib.contextmanager
def _readable(data: bytes) -> Iterator[str]:
    """A path that can be read once, as OpenSSL takes keys by a path alone. They never get to a disk."""
    reading, writing = os.pipe()
    try:
        try:
            os.write(writing, data)  # some hundred bytes: there is room in any pipe
        finally:
            os.close(writing)
        yield f"/dev/fd/{reading}"
    finally:
        os.close(reading)


def _no_password() -> str:
    raise ValueError("it is protected by a password: name one that is not, and that only you can read")


# --- connections ---


class TLSStream:
    """One connection's TLS. One thread may read, while another one writes.

    Attributes:
        ready: whether both ends have shown their certificates, and proven that they hold the keys.
        memory: where to put received bytes. All streams of an event loop may share it.
        waits: how many bytes wait to be sealed, where one thread does both.
    """

    def __init__(self, context: Context, memory: memoryview) -> None:
        self.ready = False
        self.memory = memory
        self.waits = 0
        self._context = context
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl: ssl.SSLObject | None = None
        self.speaks_clear = False
        """Whether the peer is one of ours, and does not encrypt."""
        self._read_any = False
        self._clear: collections.deque[Buffer] = collections.deque()
        self._taken: list[Buffer] = []
        """What is being encrypted."""
        self._encrypts = False
        """Whether a call has begun to do so, when TLS had nothing to write."""
        self._sealing = False
        """Whether a call has not handed over all that it has encrypted."""
        self._lock = threading.RLock()
        self._opening = 0

    @property
    def binding(self) -> bytes:
        """What both ends know of this connection, and of no other one: the certificates that they see."""
        assert self._ssl is not None
        own, other = self._context.own, self._context.accept(self._ssl.getpeercert(binary_form=True))
        acceptor, initiator = (own, other) if self._context.accepts else (other, own)
        return hashlib.sha256(acceptor).digest() + hashlib.sha256(initiator).digest()

    def start(self) -> bytes:
        """What the side that connects writes first."""
        self._advance()
        return self.take()

    def take(self) -> bytes:
        """What TLS itself has to say to the peer: to be written after each step of the handshake, even if it fails."""
        with self._lock:
            self._settle()
            return self._outgoing.read()

    def put(self, pieces: Iterable[Buffer]) -> None:
        """Have these wait to be sealed, all or none of them. It takes no lock."""
        more = list(pieces)
        size = sum(map(len, more))
        self.waits += size
        if size > SEAL_BYTES:
            more = [part for piece in more for part in _parts(piece)]
        self._clear.extend(more)

    @property
    def has_clear(self) -> bool:
        """Whether something waits to be sealed, or to be handed over by `seal_into`."""
        return bool(self._clear) or self._sealing

    def seal(self) -> bytes:
        """Encrypt some 256 KiB of what waits; returns the bytes to write. For one thread that nothing interrupts."""
        assert self._ssl is not None
        pieces: list[Buffer] = []
        size = 0
        while self._clear and size < SEAL_BYTES:
            pieces.append(self._clear.popleft())
            size += len(pieces[-1])
        self.waits -= size
        with self._lock:
            if size:
                self._ssl.write(_joined(pieces))
            return self._outgoing.read()

    def seal_into(self, sealed: collections.deque[tuple[Buffer, list[int]]]) -> None:
        """Encrypt some 256 KiB of what waits, and append the bytes to write to `sealed`, with an empty list.

        A signal handler may interrupt it anywhere: the next call finishes what it has begun. For one thread at a time.
        """
        with self._lock:
            self._sealing = True
            self._settle()
            if not self._outgoing.pending:
                self._encrypt()
            if self._outgoing.pending:  # in one call into C: no handler runs between its steps
                sealed.extend(zip(map(self._outgoing.read, (-1,)), ([],), strict=False))
            self._sealing = False

    def _encrypt(self) -> None:
        """Do what `seal` does, as a handler may interrupt it. TLS has nothing to write yet."""
        assert self._ssl is not None
        size = sum(map(len, self._taken))
        while self._clear and size < SEAL_BYTES:
            self._taken.extend(itertools.starmap(self._clear.popleft, ((),)))  # in one call into C
            size += len(self._taken[-1])
        if size:
            self._encrypts = True
            self._ssl.write(_joined(self._taken))
            self._settle()
        else:
            self._taken = []

    def _settle(self) -> None:
        """Drop what was encrypted. An interrupted call may not have got to that: what TLS has to write tells it.

        Whatever makes TLS write calls this first, so what is new there is what was to be encrypted.
        """
        if self._encrypts:
            if self._outgoing.pending:
                self._taken = []
            self._encrypts = False

    @property
    def opens_here(self) -> bool:
        """Whether this very thread is in the midst of decrypting, and garbage collection has led here."""
        return self._opening == threading.get_ident()

    def open_into(self, count: int, target: Callable[[], memoryview]) -> Iterator[int]:
        """Take bytes that were put into `memory`. Yields how many bytes of messages are in `target()`, until all were.

        Raises:
            NotEncrypted: the peer does not speak TLS.
            AuthenticationError: an end does not accept the other one's certificate.
            ProtocolError: the peer's handshake is none of TLS 1.3.
            ConnectionError: somebody has changed bytes on their way.
        """
        if not self._read_any:
            self._read_any = True
            if self.memory[0] not in RECORDS:  # the first byte that came
                self.speaks_clear = MAGIC.startswith(bytes(self.memory[:1]))
                raise NotEncrypted(_stranger(self.speaks_clear))
        with self._lock:
            self._incoming.write(self.memory[:count])
        if not self.ready and not self._advance():
            return
        assert self._ssl is not None
        more = True
        while more:
            memory, filled, failure = target(), 0, None
            size = len(memory)
            with self._lock:
                if self._encrypts:
                    self._settle()
                self._opening = threading.get_ident()
                try:
                    while more and filled < size:
                        rest = memory[filled:] if filled else memory
                        filled += self._ssl.read(size - filled, rest)  # type: ignore[operator]
                        more = filled == size or self._incoming.pending > 0  # an error is the slower answer
                except ssl.SSLWantReadError:
                    more = False
                except ssl.SSLError as error:
                    failure = error
                finally:
                    self._opening = 0
            if filled:
                yield filled
            if failure is not None:
                raise self._explained(failure) from failure

    def _advance(self) -> bool:
        """Go on with the handshake of TLS. Returns whether it is complete."""
        with self._lock:
            if self._ssl is None:
                self._ssl = self._context.begin(self._incoming, self._outgoing)
            try:
                self._ssl.do_handshake()
            except ssl.SSLWantReadError:
                return False
            except ssl.SSLError as error:
                raise self._explained(error) from error
            self._context.accept(self._ssl.getpeercert(binary_form=True))
            self.ready = True
            return True

    def _explained(self, error: ssl.SSLError) -> Exception:
        """Tell people what an error of OpenSSL's means."""
        reason = error.reason or str(error)
        if isinstance(error, ssl.SSLZeroReturnError):
            return ConnectionResetError("the other side has closed the connection")
        if isinstance(error, ssl.SSLCertVerificationError):
            return AuthenticationError(
                self._context.refusal(f"the other side's certificate is refused ({error.verify_message})")
            )
        if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return AuthenticationError("the connecting side has shown no certificate")
        if any(part in reason for part in _REFUSED):
            return AuthenticationError(self._context.refusal("the other side refuses this side's certificate"))
        if not self.ready:
            return ProtocolError(f"the other side does not complete a handshake of TLS 1.3 ({reason})")
        return ConnectionAbortedError(f"the bytes of the connection were changed on their way ({reason})")


def _joined(pieces: list[Buffer]) -> Buffer:
    """All pieces as one: fewer and larger records cost both ends less."""
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _parts(piece: Buffer) -> Iterator[Buffer]:
    """A piece in parts of 256 KiB."""
    whole = memoryview(piece)
    for start in range(0, len(whole), SEAL_BYTES):
        yield whole[start : start + SEAL_BYTES]


def _stranger(speaks_clear: bool) -> str:
    """What to tell of a peer whose first byte is none of TLS."""
    if speaks_clear:
        return (
            "one side encrypts the connection, and the other one does not: it is an older minidask, or one with"
            " --no-encryption. Copy the scheduler's access file again, and install the same minidask on all machines"
        )
    return "the other side does not speak TLS: it is no minidask"
