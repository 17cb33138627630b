"""Arbitrary bytes for the frame decoder, the messages and both sides of the handshake: `python -m tests.fuzz.targets`.

With atheris installed (`pip install atheris`), it looks for bytes that reach new code:

    python -m tests.fuzz.targets messages -max_total_time=600 [CORPUS]

The targets are plain functions; `tests/wire/test_targets.py` calls them with bytes of hypothesis.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

from minidask.errors import MinidaskError, ProtocolError

Target = Callable[[bytes], None]


def frames(data: bytes) -> None:
    """Bytes after authentication, in pieces whose length the first byte tells: frames, or a `ProtocolError`."""
    from minidask.wire.frames import AUTHENTICATED, BEFORE_AUTHENTICATION, FrameDecoder

    size = 1 + (data[0] if data else 0)
    for limits in (AUTHENTICATED, BEFORE_AUTHENTICATION):
        decoder, rest = FrameDecoder(limits), data[1:]
        with contextlib.suppress(ProtocolError):
            while rest:
                buffer = decoder.get_buffer()
                count = min(size, len(buffer), len(rest))
                buffer[:count], rest = rest[:count], rest[count:]
                for frame in decoder.received(count):
                    assert len(frame.header) <= limits.header and len(frame.buffers) <= limits.buffers


def messages(data: bytes) -> None:
    """A header, and a buffer behind it: a message that can be sent again and comes back the same, or a refusal."""
    from minidask.wire.codec import decode, encode
    from minidask.wire.frames import AUTHENTICATED, Frame, FrameDecoder

    header, _, buffer = data.partition(b"\xff\xff")
    with contextlib.suppress(ProtocolError):
        message = decode(Frame(header, [buffer] if buffer else []))
        again = b"".join(map(bytes, encode(message)))
        decoder = FrameDecoder(AUTHENTICATED)
        decoder.get_buffer()[: len(again)] = again
        (frame,) = decoder.received(len(again))
        assert repr(decode(Frame(frame.header, [bytes(each) for each in frame.buffers]))) == repr(message)


def handshake(data: bytes) -> None:
    """Two frames from a stranger, for the side that listens and for the one that connects: it is never let in."""
    from minidask.wire.frames import Frame
    from minidask.wire.handshake import Acceptor, Initiator

    first, _, second = data.partition(b"\xff\xff")
    sides: tuple[Any, ...] = (
        Acceptor(b"s" * 32, version="1", nonce=b"n" * 32, info={}),
        Initiator(b"s" * 32, role="client", version="1", nonce=b"n" * 32, info={}),
    )
    for side in sides:
        with contextlib.suppress(MinidaskError):
            side.receive(Frame(first, []))
            side.receive(Frame(second, []))
        assert not side.done, "a stranger was let in"


def infos(data: bytes) -> None:
    """What a peer says of itself: checked, and in a form that can be passed on; or refused."""
    from minidask.wire.infos import ClientInfo, WorkerInfo, checked
    from minidask.wire.packing import pack, unpack

    try:
        info = unpack(data)
    except Exception:
        return
    for kind in (ClientInfo, WorkerInfo):
        if isinstance(info, dict):
            with contextlib.suppress(ProtocolError):
                declared, more = checked(kind, info)
                assert len(pack([declared, more])) < 4 * len(data) + 4096


TARGETS: dict[str, Target] = {target.__name__: target for target in (frames, messages, handshake, infos)}


def main() -> None:
    """Fuzz the target that the first argument names; the others are libFuzzer's."""
    import atheris

    with atheris.instrument_imports(include=["minidask.wire", "msgpack"]):
        import minidask.wire.codec
        import minidask.wire.handshake
        import minidask.wire.infos  # noqa: F401
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
