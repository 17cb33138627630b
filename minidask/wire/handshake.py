"""How two ends prove to each other, before anything else, that they hold the same secret.

    initiator (client, worker)                         acceptor (scheduler)
    hello      protocol, version, role, nonce    ──►
                                                 ◄──   challenge  protocol, version, nonce, proof
    proof      proof, info                       ──►
                                                 ◄──   welcome    info

A proof is an HMAC-SHA256 with the shared secret as its key, over all messages so far. The secret itself never crosses
the wire. Both sides choose a fresh nonce, so nobody can use recorded messages again. Each proof has a label for its
side, so nobody can send a side's own proof back to it. The acceptor proves itself first: the other side tells nothing
of itself to a stranger. In place of any answer, either side may send `refuse` with the reason.

A proof is for one connection: over TCP it covers the two certificates that both ends see (channel binding). So nobody
can pass proofs on between two connections that end at him, whatever authority has let him in.

Both classes are pure: frames in, frames out. The nonce is an argument.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Any

import msgpack

from minidask.errors import AuthenticationError, MinidaskError, ProtocolError, VersionMismatch
from minidask.wire.frames import Buffer, Frame, encode_frame
from minidask.wire.packing import pack, unpack

PROTOCOL = 4
ROLES = ("client", "worker")  # of peers that connect to a scheduler
PEER = "peer"  # of a worker that connects to another worker
NONCE_BYTES = 32

_REFUSALS: dict[str, type[MinidaskError]] = {
    "version": VersionMismatch,
    "authentication": AuthenticationError,
    "protocol": ProtocolError,
}


def _pack(*fields: Any) -> bytes:
    return pack(fields)


def _unpack(frame: Frame, kind: str, *types: type, version: str = "?") -> list[Any]:
    """Check that a frame is the expected message of the handshake, and return its fields.

    Args:
        kind: the first element of that message.
        types: of its fields.
        version: of minidask on this side.

    Raises:
        VersionMismatch, AuthenticationError, ProtocolError: the peer has refused, or sent another message.
    """
    try:
        fields = unpack(frame.header)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError("the peer answered the handshake with something that is no msgpack") from error
    if not isinstance(fields, list) or not fields:
        raise ProtocolError("the peer answered the handshake with an empty message")
    if fields[0] == "refuse" and len(fields) == 3:
        raise _REFUSALS.get(str(fields[1]), ProtocolError)(str(fields[2]))
    if fields[0] == kind and len(fields) > 1 and isinstance(fields[1], int) and fields[1] != PROTOCOL:
        theirs = (fields[2] if len(fields) > 2 else "?", fields[1])
        sides = [theirs, (version, PROTOCOL)] if kind == "hello" else [(version, PROTOCOL), theirs]
        # Both sides may show this text: so no "this side" in it.
        raise VersionMismatch(
            "the side that connects (minidask {}) speaks protocol {} and the side that listens (minidask {}) speaks"
            " protocol {}: install the same minidask version on all machines".format(*sides[0], *sides[1])
        )
    if fields[0] != kind or tuple(map(type, fields[1:])) != types:
        raise ProtocolError(f"the peer sent {fields[0]!r} where the handshake expects {kind!r}")
    return fields[1:]


def _proof(secret: bytes, label: str, *transcript: bytes) -> bytes:
    mac = hmac.new(secret, label.encode(), "sha256")
    for message in transcript:
        mac.update(len(message).to_bytes(4, "little"))
        mac.update(message)
    return mac.digest()


def refusal(error: MinidaskError) -> list[Buffer]:
    """The buffers to write to a peer that is refused: one frame that tells the reason."""
    code = next((code for code, kind in _REFUSALS.items() if type(error) is kind), "protocol")
    return encode_frame(_pack("refuse", code, str(error)[:1000]))


class Initiator:
    """The side that connects.

    Args:
        secret: the shared secret.
        role: one of `ROLES`, or `PEER`.
        version: this minidask's version.
        nonce: `NONCE_BYTES` fresh random bytes.
        info: what the peer is told of this side, as plain values.
    """

    def __init__(self, secret: bytes, *, role: str, version: str, nonce: bytes, info: dict[str, Any]) -> None:
        self._secret = secret
        self._version = version
        self._hello = _pack("hello", PROTOCOL, version, role, nonce)
        self._info = _pack("info", info)
        self._challenged = False
        self.binding = b""
        """What both ends know of the connection below, and of no other: to be set before `start`. Empty: nothing."""
        self.peer_info: dict[str, Any] | None = None
        """The acceptor's description of itself; None until the handshake is complete."""

    @property
    def done(self) -> bool:
        """Whether the handshake is complete: both sides have proven to hold the secret."""
        return self.peer_info is not None

    def start(self) -> list[Buffer]:
        """The buffers to write first."""
        return encode_frame(self._hello)

    def receive(self, frame: Frame) -> list[Buffer]:
        """Take the acceptor's next frame; return the buffers to answer with.

        Raises:
            VersionMismatch, AuthenticationError, ProtocolError: the handshake has failed. The text says why.
        """
        if self._challenged:
            (self.peer_info,) = _unpack(frame, "welcome", dict)
            return []
        _, _, nonce, proof = _unpack(frame, "challenge", int, str, bytes, bytes, version=self._version)
        expected = _proof(self._secret, "minidask acceptor", self.binding, self._hello, nonce)
        if not hmac.compare_digest(proof, expected):
            raise AuthenticationError(
                "the other side does not hold the same secret as this one: copy the access file from the"
                " scheduler's machine, or name the right one (--access-file, access_file=, MINIDASK_ACCESS_FILE)"
            )
        self._challenged = True
        answer = _proof(self._secret, "minidask initiator", self.binding, self._hello, nonce, proof, self._info)
        return encode_frame(_pack("proof", answer, self._info))


class Acceptor:
    """The side that listens.

    Args:
        secret: the shared secret.
        version: this minidask's version.
        nonce: `NONCE_BYTES` fresh random bytes.
        info: what the peer is told of this side, as plain values.
        roles: the roles of peers that are accepted.
    """

    def __init__(
        self, secret: bytes, *, version: str, nonce: bytes, info: dict[str, Any], roles: Sequence[str] = ROLES
    ) -> None:
        self._roles = roles
        self._secret = secret
        self._version = version
        self._nonce = nonce
        self._info = info
        self._hello: bytes | None = None
        self._challenge_proof = b""
        self.role = ""
        self.binding = b""
        """What both ends know of the connection below, and of no other: to be set before `receive`. Empty: nothing."""
        self.peer_info: dict[str, Any] | None = None
        """The initiator's description of itself; None until the handshake is complete."""

    @property
    def done(self) -> bool:
        """Whether the handshake is complete: both sides have proven to hold the secret."""
        return self.peer_info is not None

    def receive(self, frame: Frame) -> list[Buffer]:
        """Take the initiator's next frame; return the buffers to answer with.

        Raises:
            VersionMismatch, AuthenticationError, ProtocolError: the handshake has failed. The text says why.
        """
        if self._hello is None:
            _, _, role, nonce = _unpack(frame, "hello", int, str, str, bytes, version=self._version)
            if role not in self._roles or len(nonce) != NONCE_BYTES:
                raise ProtocolError(f"the peer's hello has role {role!r} and a nonce of {len(nonce)} bytes")
            self.role = role
            self._hello = frame.header
            self._challenge_proof = _proof(self._secret, "minidask acceptor", self.binding, self._hello, self._nonce)
            return encode_frame(_pack("challenge", PROTOCOL, self._version, self._nonce, self._challenge_proof))
        proof, info = _unpack(frame, "proof", bytes, bytes)
        transcript = self.binding, self._hello, self._nonce, self._challenge_proof, info
        expected = _proof(self._secret, "minidask initiator", *transcript)
        if not hmac.compare_digest(proof, expected):
            raise AuthenticationError("the connecting side does not hold the scheduler's secret")
        (self.peer_info,) = _unpack(Frame(info, []), "info", dict)
        return encode_frame(_pack("welcome", self._info))
