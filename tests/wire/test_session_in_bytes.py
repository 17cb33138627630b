"""The session that `docs/protocol.md` shows in bytes is what the code sends and takes."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

from minidask.wire import messages as m
from minidask.wire.codec import decode, encode
from minidask.wire.frames import AUTHENTICATED, Frame, FrameDecoder
from minidask.wire.handshake import Acceptor, Initiator
from minidask.wire.infos import ClientInfo, checked
from tests.wire.bytes_in import feed, joined

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()


def shown() -> list[bytes]:
    """The frames of the document, in order."""
    chapter = TEXT.split("## A session in bytes")[1].split("\n## ")[0]
    blocks = re.findall(r"```\n(.*?)```", chapter, re.DOTALL)
    return [bytes.fromhex("".join(re.sub(r"  #.*", "", line) for line in block.splitlines())) for block in blocks]


def frame(data: bytes) -> Frame:
    (found,) = feed(FrameDecoder(AUTHENTICATED), data)
    return found


def test_the_session_in_bytes() -> None:
    hello, challenge, proof, welcome, workers, submit, done = shown()
    initiator = Initiator(b"s" * 32, role="client", version="0.1.0", nonce=b"i" * 32, info={"name": "c"})
    acceptor = Acceptor(b"s" * 32, version="0.1.0", nonce=b"a" * 32, info={"version": "0.1.0"})
    assert joined(initiator.start()) == hello
    assert joined(acceptor.receive(frame(hello))) == challenge
    assert joined(initiator.receive(frame(challenge))) == proof
    assert joined(acceptor.receive(frame(proof))) == welcome
    assert initiator.receive(frame(welcome)) == []
    assert initiator.done and acceptor.done
    checked(ClientInfo, acceptor.peer_info or {})

    assert joined(encode(m.Workers([["tcp://10.0.0.2:4711", "node2", 1, {"python": "3.11.7"}]]))) == workers
    call = pickle.dumps((pow, (2, 10), {}), protocol=5)
    assert joined(encode(m.Submit(1, "pow", 0, None, 0, None, [], [], False, {}, [call]))) == submit
    assert pickle.loads(decode(frame(submit)).payload[0]) == (pow, (2, 10), {})  # type: ignore[union-attr]
    assert joined(encode(m.TaskDone(1, 0.5, "node2", [pickle.dumps(1024, protocol=5)]))) == done
