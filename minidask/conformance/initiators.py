"""What is checked of a client as of a worker: both connect to a scheduler, which the kit is."""

from __future__ import annotations

import contextlib
import os

from minidask._version import __version__
from minidask.errors import MinidaskError
from minidask.wire.handshake import NONCE_BYTES, PROTOCOL

from .checks import Checks, Differs, Stage, expect, expect_refusal
from .peer import Peer, acceptor, handshake_frame

SECONDS = 20.0


class InitiatorStage(Stage):
    """A scheduler for one program, which connects to it."""

    def accept(self, heartbeat_timeout: float = 60.0) -> Peer:
        """Wait until the program connects, and make the handshake."""
        welcome = {"version": __version__, "heartbeat_timeout": heartbeat_timeout, "shutdown": False}
        peer = Peer.accept(self.listener, self.credentials, SECONDS)
        try:
            peer.shake(acceptor(self.credentials, {**welcome, "a key of a later version": [1, {"x": None}]}), SECONDS)
        except BaseException:
            peer.close()
            raise
        return peer

    def end(self) -> None:
        """End the program, and all connections that it has begun again."""
        super().end()
        self.listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # there are no more
            while True:
                self.listener.accept()[0].close()


def add_those_of_initiators(checks: Checks) -> None:
    """Add these checks to those of a client or a worker."""
    checks("Handshake")(secret)
    checks("Encryption")(certificate)
    checks("Handshake", "full")(another_protocol)


def secret(stage: InitiatorStage) -> None:
    """it sends no proof to an acceptor whose own proof is wrong."""
    stage.start()
    peer = Peer.accept(stage.listener, stage.credentials, SECONDS)
    try:
        peer.shake(acceptor(stage.strangers, {}), SECONDS)
    except MinidaskError as error:
        expect("does not hold the scheduler's secret" not in str(error), "it sent its proof")
    except OSError:
        pass
    finally:
        peer.close()
        stage.end()


def certificate(stage: InitiatorStage) -> None:
    """it accepts no other certificate than that of its secret."""
    stage.start()
    try:
        peer = Peer.accept(stage.listener, stage.strangers, SECONDS)
    except (OSError, MinidaskError):
        return
    finally:
        stage.end()
    peer.close()
    raise Differs("it accepted the certificate of another secret")


def another_protocol(stage: InitiatorStage) -> None:
    """a challenge of another protocol version is answered by refuse, "version"."""
    stage.start()
    peer = Peer.accept(stage.listener, stage.credentials, SECONDS)
    try:
        peer.next_frame(SECONDS)
        peer.say_bytes(handshake_frame("challenge", PROTOCOL + 1, __version__, os.urandom(NONCE_BYTES), bytes(32)))
        expect_refusal(peer, "version")
    finally:
        peer.close()
        stage.end()
