"""TLS without sockets: who is let in, what both ends then know, and that each byte goes through once."""

from __future__ import annotations

import hashlib
import os
import ssl
import threading
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidask.client.outbox import Outbox
from minidask.errors import AuthenticationError, ProtocolError
from minidask.net.access import Access, load_access, load_or_create_access, save_access
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials
from minidask.net.tls import READ_BYTES, NotEncrypted, TLSStream, certificate_of
from minidask.net.tls_options import TLSFiles, checked_tls, from_text, tls_files, to_text
from minidask.wire.frames import Buffer
from tests.helpers import send_under_alarms
from tests.tls_ends import SECRET, TCP, Authority, opened, shake_hands, stream


def joined() -> tuple[TLSStream, TLSStream]:
    """Both ends of a connection whose hands are shaken."""
    ends = stream(accepts=False), stream(accepts=True)
    shake_hands(*ends)
    assert ends[0].ready and ends[1].ready
    return ends


# --- who is let in ---


def test_the_certificate_is_the_same_on_every_machine() -> None:
    """The very bytes: another version of a library that made others would keep machines apart."""
    certificate, key = certificate_of(SECRET)
    assert certificate_of(SECRET) == (certificate, key)
    assert hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.decode())).hexdigest() == KNOWN
    assert certificate_of(b"t" * 32)[0] != certificate


KNOWN = "a0b420ef54b115fb689d6f22eb7be37e97d718d47acd54a69c799c72a34c903f"


def test_both_ends_know_what_binds_proofs_to_the_connection() -> None:
    initiator, acceptor = joined()
    assert initiator.binding == acceptor.binding
    own = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate_of(SECRET)[0].decode())).digest()
    assert initiator.binding == own + own


def test_who_has_another_secret_is_told_which_file_it_read() -> None:
    initiator, acceptor = stream(b"x" * 32, accepts=False), stream(accepts=True)
    with pytest.raises(AuthenticationError, match=r"has read /my/access: copy the access file"):
        shake_hands(initiator, acceptor)
    with pytest.raises(AuthenticationError, match="refuses this side's certificate"):
        opened(acceptor, initiator.take())
    assert not acceptor.ready and not initiator.ready


@pytest.mark.parametrize("shown", ["nothing", "its own"])
def test_a_stranger_that_takes_any_certificate_fails(shown: str) -> None:
    """It does not look at ours, and shows none or one that it has made."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if shown == "its own":
        other = Credentials(Access(b"x" * 32)).stream(TCP, accepts=False)
        assert other is not None
        context = other._context._context
        context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    stranger = context.wrap_bio(incoming, outgoing)
    acceptor = stream(accepts=True)
    with pytest.raises(ssl.SSLWantReadError):
        stranger.do_handshake()
    opened(acceptor, outgoing.read())
    incoming.write(acceptor.take())
    stranger.do_handshake()  # with TLS 1.3 the side that connects is done first
    with pytest.raises(AuthenticationError, match="no certificate" if shown == "nothing" else "is refused"):
        opened(acceptor, outgoing.read())
    assert not acceptor.ready


def test_older_versions_of_tls_are_refused() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    with pytest.raises(ProtocolError, match=r"TLS 1\.3"):
        opened(stream(accepts=True), outgoing.read())


@pytest.mark.parametrize(
    ("first", "text"), [(b"mD\0\0", "does not: it is an older minidask, or one with --no-enc"), (b"SSH", "no minidask")]
)
@pytest.mark.parametrize("accepts", [True, False])
def test_who_does_not_encrypt_is_told_from_who_speaks_something_else(first: bytes, text: str, accepts: bool) -> None:
    with pytest.raises(NotEncrypted, match=text):
        opened(stream(accepts=accepts), first)


# --- bytes ---


@given(position=st.integers(0, 5000), bit=st.integers(0, 7), accepts=st.booleans())
def test_a_relay_that_changes_a_bit_ends_the_connection(position: int, bit: int, accepts: bool) -> None:
    def change(data: bytes) -> bytes:
        nonlocal position
        changed = bytearray(data)
        if 0 <= position < len(changed):
            changed[position] ^= 1 << bit
        position -= len(changed)
        return bytes(changed)

    ends = stream(accepts=False), stream(accepts=True)
    clear = b""
    try:
        shake_hands(*ends, change)
        if ends[0].ready and ends[1].ready:
            giver, taker = ends if accepts else ends[::-1]
            giver.put([b"messages " * 1000])
            clear = opened(taker, change(giver.seal()))
    except (AuthenticationError, ProtocolError, ConnectionError):
        return
    assert clear in (b"", b"messages " * 1000)


@given(pieces=st.lists(st.one_of(st.binary(max_size=300), st.integers(1, 700_000).map(bytes)), max_size=8))
def test_what_one_end_puts_comes_out_at_the_other(pieces: list[bytes]) -> None:
    initiator, acceptor = joined()
    initiator.put(pieces)
    assert initiator.waits == sum(map(len, pieces))
    found = b""
    while initiator.has_clear:
        sealed = initiator.seal()
        assert b"\0" * 100 not in sealed
        found += opened(acceptor, sealed)
    assert found == b"".join(pieces) and initiator.waits == 0


def test_ctrl_c_at_any_moment_of_a_sender_encrypts_each_byte_once() -> None:
    """A timer's signal comes thousands of times, wherever the interpreter then happens to be."""
    initiator, acceptor = joined()
    arrived = bytearray()

    def write(sealed: Buffer) -> int:
        return take(bytes(sealed))

    def strike(number: int, frame: FrameType | None) -> None:
        inside = False
        while frame is not None:
            if frame.f_code is write.__code__:
                return  # the socket's own `send` is one step, which no signal can cut
            inside = inside or frame.f_code is Outbox._drain.__code__
            frame = frame.f_back
        if inside:
            raise KeyboardInterrupt

    def take(sealed: bytes) -> int:
        some = sealed[:30_000]
        arrived.extend(opened(acceptor, some))
        return len(some)

    outbox = Outbox(write, initiator)
    sent = send_under_alarms(outbox.send, strike, 200_000)
    outbox.send([])
    assert bytes(arrived) == sent


def test_one_thread_reads_while_another_one_writes() -> None:
    """Over sockets, both ways at once, in both ends: nothing is lost, mixed up or waits for ever."""
    import socket

    ends, socks = joined(), socket.socketpair()
    blocks = [os.urandom(size) for size in (1, 100, 70_000, 900_000)] * 20
    whole = b"".join(blocks)
    found: dict[int, bytearray] = {0: bytearray(), 1: bytearray()}

    def read(index: int) -> None:
        end, memory = ends[index], memoryview(bytearray(READ_BYTES))
        while len(found[index]) < len(whole):
            count = socks[index].recv_into(end.memory)
            for got in end.open_into(count, lambda: memory):
                found[index] += memory[:got]

    def write(index: int) -> None:
        outbox = Outbox(socks[index].send, ends[index])
        for block in blocks:
            outbox.send([block])

    threads = [threading.Thread(target=do, args=(index,)) for do in (read, write) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for sock in socks:
        sock.close()
    assert found == {0: whole, 1: whole}


def test_a_finalizer_that_sends_while_its_thread_decrypts_waits_for_nobody() -> None:
    """The one that writes may wait for the lock that this thread holds."""
    initiator, acceptor = joined()
    sent = bytearray()
    outbox = Outbox(lambda piece: sent.extend(piece) or len(piece), initiator)
    acceptor.put([b"hello"])
    sealed = acceptor.seal()
    memory = memoryview(bytearray(100))

    inner = initiator._ssl
    assert inner is not None

    class Garbage:
        """In the place of OpenSSL: garbage collection strikes."""

        def read(self, *arguments: object) -> object:
            outbox.send([b"from a finalizer"])
            return inner.read(*arguments)  # type: ignore[arg-type]

        def write(self, data: Buffer) -> int:
            return inner.write(data)

    initiator._ssl = Garbage()  # type: ignore[assignment]
    initiator.memory[: len(sealed)] = sealed
    with outbox._sending:  # as another thread would that writes
        reader = threading.Thread(target=lambda: list(initiator.open_into(len(sealed), lambda: memory)))
        reader.start()
        reader.join(10)
        assert not reader.is_alive() and not sent
    assert bytes(memory[:5]) == b"hello"
    outbox.flush_what_was_left()
    assert opened(acceptor, bytes(sent)) == b"from a finalizer"


# --- certificates of one's own ---


def test_certificates_of_an_authority_of_ones_own(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours", "ours")
    ours, theirs = authority.files("client"), authority.files("scheduler")
    initiator, acceptor = stream(accepts=False, files=ours), stream(accepts=True, files=theirs)
    shake_hands(initiator, acceptor)
    assert initiator.ready and acceptor.ready
    own = [hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(files.cert).read_text())).digest() for files in (theirs, ours)]
    assert initiator.binding == acceptor.binding == b"".join(own)


def test_a_certificate_of_another_authority_is_refused_by_either_side(tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ours", "same name").files("node")
    other = Authority(tmp_path / "other", "same name").files("node")
    mixed = TLSFiles(ours.ca_file, other.cert, other.key)
    initiator, acceptor = stream(accepts=False, files=ours), stream(accepts=True, files=mixed)
    with pytest.raises(AuthenticationError, match=r"certificate is refused .*trusts what .*ours/ca.pem has signed"):
        shake_hands(initiator, acceptor)
    initiator, acceptor = stream(accepts=False, files=mixed), stream(accepts=True, files=ours)
    with pytest.raises(AuthenticationError, match="certificate is refused"):
        shake_hands(initiator, acceptor)
    with pytest.raises(AuthenticationError, match=r"refuses this side's certificate.*other/node.pem"):
        opened(initiator, acceptor.take())


def test_what_is_wrong_with_a_file_is_told_by_its_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours", "ours")
    good, other = authority.files("one"), authority.files("two")
    (tmp_path / "empty").touch()
    for name, bad in (
        ("missing", good._replace(ca_file=str(tmp_path / "missing"))),
        ("empty", good._replace(cert=str(tmp_path / "empty"))),
        ("two.key", good._replace(key=other.key)),
        ("empty", good._replace(key=str(tmp_path / "empty"))),
    ):
        with pytest.raises(AuthenticationError, match=rf"{name} cannot be used for TLS: "):
            stream(accepts=True, files=bad)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    good = Authority(tmp_path / "ours", "ours").files("one")
    key = serialization.load_pem_private_key(Path(good.key).read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"password")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    Path(good.key).write_bytes(pem)
    with pytest.raises(AuthenticationError, match=r"one.key cannot be used for TLS: it is protected by a password"):
        stream(accepts=True, files=good)


# --- options ---


def test_what_is_chosen_reaches_a_slot_as_text(tmp_path: Path) -> None:
    for choice in (None, True, False, TLSFiles("/a b", "/ü", "/c\n")):
        assert from_text(to_text(choice)) == choice
    assert from_text("") is None
    assert tls_files("a", "b", "c") == TLSFiles(*(str(Path(name).absolute()) for name in "abc"))
    assert tls_files(None, None, None) is None
    with pytest.raises(ValueError, match="three files"):
        tls_files("a", None, "c")
    for bad in ("a", 1, {"ca_file": "a"}, TLSFiles("a", "b", 3)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"TLSFiles\(ca_file, cert, key\), True, False or None"):
            checked_tls(bad)


def test_the_access_file_says_whether_connections_are_encrypted(tmp_path: Path) -> None:
    path = tmp_path / "access"
    first = load_or_create_access(path)
    assert first.encrypted
    plain = first._replace(encrypted=False)
    save_access(plain)
    assert plain == load_access(path)
    assert path.read_text() == f"{first.secret.hex()} no-encryption\n" and path.stat().st_mode & 0o777 == 0o600
    assert load_or_create_access(path) == plain
    save_access(first)
    assert load_or_create_access(path) == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["access"]
    unix = Address("unix", path="/x")
    for access, tls, encrypted in (
        (first, None, True),
        (first, False, False),
        (plain, None, False),
        (plain, True, True),
    ):
        credentials = Credentials(access, tls)
        assert (credentials.stream(TCP, accepts=False) is not None) is encrypted
        assert credentials.are_plain(TCP) is not encrypted
        assert credentials.stream(unix, accepts=False) is None and not credentials.are_plain(unix)
