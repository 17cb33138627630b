"""A connection that carries messages, for programs with an event loop. It decides nothing.

    kernel ─► get_buffer: memory of the frame decoder ─► buffer_updated ─► messages ─► on_messages
    kernel ◄─ flush: one write for all of them        ◄─ frames         ◄─ send(message)

Over TCP there is TLS between the kernel and the decoder: see `tls.py`. Nothing is decoded before its handshake is done.

`MessageLink` is an `asyncio.BufferedProtocol`. The kernel writes received bytes into memory that the frame decoder
lends, so a large buffer is received in place, without a copy. Messages to send are gathered until `flush()`, which the
shell calls once for a batch of work. With small tasks that saves most of the system calls.

Before the handshake is done no message is decoded, and frames may be only a few kilobytes long. A peer has 5 seconds
for it. A browser that connects to the port gets an answer in HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from minidask.errors import AuthenticationError, MinidaskError, ProtocolError
from minidask.net.addresses import Address
from minidask.net.sockets import DEAD_SECONDS, check_user, endure, keep_alive, unanswered
from minidask.net.strangers import Strangers
from minidask.wire.codec import decode, encode
from minidask.wire.frames import AUTHENTICATED, Buffer, Frame, FrameDecoder
from minidask.wire.handshake import Acceptor, Initiator, refusal
from minidask.wire.messages import Goodbye, Message

if TYPE_CHECKING:
    from minidask.net.tls import TLSStream

HANDSHAKE_SECONDS = 5.0
CONNECT_SECONDS = 5.0
LAG_BYTES = 64 << 20
AHEAD_BYTES = 1 << 20  # so much is encrypted before the kernel takes it
SEALS = 16  # pieces of a turn of the event loop: 4 MiB
LAST_WORDS_SECONDS = 2.0
TLS_HANDSHAKE = 0x16  # the first byte of a peer that speaks TLS
FLUSH_BYTES = 4 << 20
LOOKS = 3
_ErrorT = TypeVar("_ErrorT", bound=Exception)
HTTP_VERBS = (b"GET ", b"HEAD", b"POST", b"PUT ", b"OPTI", b"DELE")
HTTP_ANSWER = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This is a minidask scheduler's task port. It speaks the minidask protocol, not HTTP.\n"
)


class Link(Protocol):
    """A connection as a shell uses it: over a socket (`MessageLink`), or inside one process (`InProcessLink`)."""

    def send(self, message: Message) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class MessageLink(asyncio.BufferedProtocol):
    """A link over a socket, as the protocol object of one asyncio connection.

    Args:
        handshake: `Initiator` or `Acceptor`. None for a socketpair to a process of our own.
        on_open: called once, with the link, when the handshake is done.
        on_messages: called with the link and the messages that one read has brought.
        on_closed: called once, with the link and the error that ended it; None if the peer has closed it.
        dead_seconds: after how long without an answer of its machine the peer is taken for dead.
        on_lag: called with the link and True when more than 64 MiB wait because the peer does not read; with False when
            it has caught up.
        tls: encrypts the connection; None: nothing does.
        strangers: the connections of a program that listens whose peers have not proven anything yet.
    """

    def __init__(
        self,
        handshake: Initiator | Acceptor | None,
        on_open: Callable[[MessageLink], None],
        on_messages: Callable[[MessageLink, list[Message]], None],
        on_closed: Callable[[MessageLink, MinidaskError | OSError | None], None],
        dead_seconds: int = DEAD_SECONDS,
        on_lag: Callable[[MessageLink, bool], None] | None = None,
        tls: TLSStream | None = None,
        strangers: Strangers[MessageLink] | None = None,
    ) -> None:
        self.handshake = handshake
        self._on_open = on_open
        self._on_messages = on_messages
        self._on_closed = on_closed
        self._dead_seconds = dead_seconds
        self._on_lag = on_lag
        self.received = 0
        """How many messages have come."""
        self.reads = 0
        """How often bytes have come: as long as this grows, the peer is not silent."""
        self._tls = tls
        self._strangers = strangers
        self._decoder = FrameDecoder() if handshake else FrameDecoder(AUTHENTICATED)
        self._open = handshake is None
        self._secured = False
        self._heard = self._open
        self._paused = self._pumps = self._deaf = False
        self._old_answers = 0
        self._out: list[Buffer] = []
        self._queued = 0  # the bytes of `_out`
        self.lags = False
        """Whether the peer reads so slowly that more than 64 MiB wait for it; known if there is an `on_lag`."""
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._error: MinidaskError | OSError | None = None

    @property
    def peer(self) -> str:
        """The peer's network address; "" for a Unix socket."""
        name = self._transport.get_extra_info("peername") if self._transport else None
        return str(Address("tcp", host=name[0], port=name[1])) if isinstance(name, tuple) else ""

    @property
    def waiting(self) -> int:
        """How many bytes wait to be read by the peer, apart from what the kernel has."""
        sealed = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self._queued + sealed + (self._tls.waits if self._tls is not None else 0)

    @property
    def receiving(self) -> int:
        """How many bytes have come of a large message that is not complete."""
        return self._decoder.receiving

    # --- called by the shell ---

    def send(self, message: Message) -> None:
        """Queue a message; `flush()` writes it.

        Raises:
            ProtocolError: the message exceeds the limits of the wire. Nothing is queued then.
        """
        pieces = encode(message)
        self._out += pieces
        self._queued += sum(map(len, pieces))
        if self._queued > FLUSH_BYTES:  # so that it is known soon whether the peer lags
            self.flush()

    def flush(self) -> None:
        """Write all queued messages, in one call of the transport."""
        if self._out and self._transport is not None:
            out, self._out, self._queued = self._out, [], 0
            if not self._transport.is_closing():
                self._write(out)

    def close(self) -> None:
        """Write all queued messages, then close the connection; `on_closed` is called later."""
        self.flush()
        if self._transport is not None:
            if self._tls is not None and not self._transport.is_closing():
                while self._tls.ready and self._tls.waits:
                    self._transport.write(self._tls.seal())
            self._transport.close()

    def abort(self, error: OSError | None = None) -> None:
        """Close the connection at once, for this error. Bytes that were not written are dropped.

        `on_closed` is called later.
        """
        self._error = self._error or error
        if self._transport is not None:
            self._transport.abort()

    def read(self, *, on: bool) -> None:
        """Go on reading, or read nothing more until this is called again: the peer then waits when it writes."""
        transport = self._transport
        if transport is not None and not transport.is_closing() and transport.is_reading() != on:
            (transport.resume_reading if on else transport.pause_reading)()

    def keep_alive(self, seconds: int) -> None:
        """Set after how long without an answer of its machine the kernel takes the peer for dead."""
        if self._transport is not None:
            keep_alive(self._transport.get_extra_info("socket"), seconds)

    def endure(self) -> bool:
        """Keep the connection however long the peer does not read. Returns whether that is possible.

        If so, `is_dead` is to be asked from now on. Else the kernel takes a peer that reads nothing for dead.
        """
        return self._transport is not None and endure(self._transport.get_extra_info("socket"))

    def is_dead(self, limit: float) -> bool:
        """Whether the peer's machine has answered nothing for `limit` seconds; to be asked once a second.

        The kernel asks a peer that reads nothing ever more seldom. So its last answer may be old, and the next one on
        its way: it has the time until the third look.
        """
        assert self._transport is not None
        seconds = 0.0 if self._transport.is_closing() else unanswered(self._transport.get_extra_info("socket"))
        self._old_answers = self._old_answers + 1 if seconds > limit else 0
        return self._old_answers >= LOOKS

    # --- called by asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if self._tls is not None:
            self._transport.set_write_buffer_limits(high=AHEAD_BYTES)
        elif self._on_lag is not None:
            self._transport.set_write_buffer_limits(high=LAG_BYTES, low=LAG_BYTES // 4)
        keep_alive(sock, self._dead_seconds)
        if self._open:
            self._on_open(self)
            self.flush()
            return
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, self._too_slow)
        if self._strangers is not None:
            name = self._transport.get_extra_info("peername")
            gone = self._strangers.enter(self, name[0] if isinstance(name, tuple) else "")
            if gone is not None:
                gone.abort()
        try:
            check_user(sock)
        except AuthenticationError as error:
            self._fail(error)
            return
        if isinstance(self.handshake, Initiator):
            if self._tls is not None:
                self._transport.write(self._tls.start())
            else:
                self._write(self.handshake.start())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._decoder.get_buffer() if self._tls is None else self._tls.memory

    def buffer_updated(self, nbytes: int) -> None:
        self.reads += 1
        if self._deaf:
            return
        messages: list[Message] = []
        failure: MinidaskError | OSError | None = None
        try:
            if not self._heard and self._answered_http(nbytes):
                return
            for count in (nbytes,) if self._tls is None else self._arrivals(self._tls, nbytes):
                for frame in self._decoder.received(count):
                    if self._open:
                        messages.append(decode(frame))
                    else:
                        self._shake_hands(frame)
        except (ProtocolError, AuthenticationError, ConnectionError) as error:
            failure = _without_frames(error)
        if messages:  # also those before a mistake
            self.received += len(messages)
            self._on_messages(self, messages)
        if isinstance(failure, OSError):
            self.abort(failure)
        elif failure is not None:
            self._fail(failure)

    def pause_writing(self) -> None:
        self._paused = True
        if self._tls is None:
            self._tell_lag(True)

    def resume_writing(self) -> None:
        self._paused = False
        if self._tls is not None:
            self._pump()
        else:
            self._tell_lag(False)

    def _tell_lag(self, lags: bool) -> None:
        self.lags = lags
        if self._on_lag is not None:
            self._on_lag(self, lags)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_no_stranger()
        if self._deadline is not None:
            self._deadline.cancel()
        if self._error is None and isinstance(exc, OSError):
            self._error = exc
        self._on_closed(self, self._error)

    # --- inside ---

    def _arrivals(self, tls: TLSStream, nbytes: int) -> Iterable[int]:
        """Yield how many bytes for the decoder are in its memory, until it has had all that have come."""
        found = tls.open_into(nbytes, self._decoder.get_buffer)
        return found if self._secured else self._first_arrivals(tls, found)

    def _first_arrivals(self, tls: TLSStream, found: Iterable[int]) -> Iterable[int]:
        assert self._transport is not None
        try:
            for count in found:
                self._secure(tls)
                yield count
        finally:
            if own := tls.take():  # steps of its handshake, or why it has failed
                self._transport.write(own)
        self._secure(tls)

    def _secure(self, tls: TLSStream) -> None:
        """Begin our own handshake, if that of TLS is done by now."""
        assert self.handshake is not None
        if tls.ready and not self._secured:
            self._secured = True
            self.handshake.binding = tls.binding
            if isinstance(self.handshake, Initiator):
                self._write(self.handshake.start())

    def _write(self, pieces: list[Buffer]) -> None:
        assert self._transport is not None
        if self._tls is None:
            self._transport.writelines(pieces)
        else:
            self._tls.put(pieces)
            self._pump()

    def _pump(self) -> None:
        """Encrypt what waits, as far as the kernel takes it. Other connections have their turn in between."""
        tls, transport = self._tls, self._transport
        assert tls is not None and transport is not None
        for _ in range(SEALS):
            if not tls.waits or self._paused or not tls.ready or transport.is_closing():
                break
            transport.write(tls.seal())
        else:
            if not self._pumps:
                self._pumps = True
                asyncio.get_running_loop().call_soon(self._pump_again)
        if tls.waits or self.lags:
            lags = tls.waits > (LAG_BYTES // 4 if self.lags else LAG_BYTES)
            if lags != self.lags:
                self._tell_lag(lags)

    def _pump_again(self) -> None:
        self._pumps = False
        self._pump()

    def _shake_hands(self, frame: Frame) -> None:
        assert self.handshake is not None
        answer = self.handshake.receive(frame)
        if answer:
            self._write(answer)
        if self.handshake.done:
            if self._deadline is not None:
                self._deadline.cancel()
            self._decoder.limits = AUTHENTICATED
            self._open = True
            self._is_no_stranger()
            self._on_open(self)

    def _is_no_stranger(self) -> None:
        if self._strangers is not None:
            self._strangers.leave(self)

    def _answered_http(self, nbytes: int) -> bool:
        """Look at the first bytes of a peer. Returns whether they were a browser's, and it has its answer."""
        assert self._transport is not None
        self._heard = True
        first = bytes(self.get_buffer(-1)[: min(nbytes, 4)])
        if not isinstance(self.handshake, Acceptor):
            return False
        if self._tls is None and first[0] == TLS_HANDSHAKE:
            raise ProtocolError(
                "the side that connects encrypts, and this one was started with --no-encryption: copy its access file"
            )
        if first not in HTTP_VERBS:
            return False
        self._transport.write(HTTP_ANSWER)
        self._error = ProtocolError("the peer spoke HTTP")
        self._transport.close()
        return True

    def _too_slow(self) -> None:
        self._fail(ProtocolError(f"the peer did not complete the handshake within {HANDSHAKE_SECONDS:.0f} seconds"))

    def _fail(self, error: MinidaskError) -> None:
        """Close the link because the peer broke the rules. A peer that has connected to us is told why."""
        self._error = error
        if self._transport is None:
            return
        if self._open:
            if isinstance(self.handshake, Acceptor):
                self.send(Goodbye(f"protocol error: {error}"))
            self.close()
        elif self._tls is None or self._tls.speaks_clear:
            self._transport.writelines(refusal(error))
            self._transport.close()
        elif self._secured:
            self._write(refusal(error))
            self.close()
        else:
            self._close_when_read()

    def _close_when_read(self) -> None:
        """End what is said here, and let the peer close: if this side closed, what TLS has said might be lost."""
        assert self._transport is not None
        self._deaf = True
        self._transport.write_eof()
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(LAST_WORDS_SECONDS, self.abort)


def _without_frames(error: _ErrorT) -> _ErrorT:
    """Drop the tracebacks of an error. Their frames hold the connection, which holds the error: such a ring stays.

    It goes with a garbage collection, and none comes for what only OpenSSL knows to be large.
    """
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


async def connect(address: Address, link: MessageLink) -> None:
    """Connect a link to an address. The link's `on_open` is called later, when the handshake is done.

    Raises:
        OSError: nobody answers at the address within 5 seconds. The kernel alone would wait for minutes, and try ever
            more seldom.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            if address.scheme == "unix":
                await loop.create_unix_connection(lambda: link, address.path)
            else:
                await loop.create_connection(lambda: link, address.host, address.port)
    except TimeoutError as error:
        raise OSError(f"no answer within {CONNECT_SECONDS:g} seconds") from error


async def answers(address: Address, hello: bytes) -> bool:
    """Whether a scheduler answers at an address to the first bytes of a handshake, which is not completed.

    The kernel connects to a process that hangs, too.
    """
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            if address.scheme == "unix":
                reader, writer = await asyncio.open_unix_connection(address.path)
            else:
                reader, writer = await asyncio.open_connection(address.host, address.port)
            try:
                writer.write(hello)
                return bool(await reader.read(1))
            finally:
                writer.close()
    except (TimeoutError, OSError):
        return False
