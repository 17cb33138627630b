"""Simulated machines: workers that speak the real wire over real sockets and answer each call at once.

python -m bench.machines ADDRESS COUNT ACCESS_FILE

Says "joined" once all have; begins at a line on standard input, ends with it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from minidask.host.program import run_loop
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials
from minidask.net.transport import MessageLink, connect
from minidask.pickling.sharing import dumps
from minidask.wire.handshake import NONCE_BYTES, Initiator
from minidask.wire.messages import Done, Message, Resized, Run

SLOTS = 2
RESULT = dumps(None, "the simulated result")


async def _serve(address: Address, count: int, access_file: Path) -> int:
    credentials = Credentials.of(address, access_file)
    links: list[MessageLink] = []
    joined = asyncio.Event()

    def opened(link: MessageLink) -> None:
        links.append(link)
        if len(links) == count:
            joined.set()

    def answer(link: MessageLink, messages: list[Message]) -> None:
        for message in messages:
            if type(message) is Run:
                link.send(Done(message.task, message.attempt, 1e-6, RESULT))
        link.flush()

    for number in range(count):
        info = {"name": f"machine {number}", "slots": 0, "prefetch": SLOTS}
        secret, nonce = credentials.secret, os.urandom(NONCE_BYTES)
        handshake = Initiator(secret, role="worker", version="bench", nonce=nonce, info=info)
        tls = credentials.stream(address, accepts=False)
        await connect(address, MessageLink(handshake, opened, answer, lambda link, error: None, tls=tls))
    await joined.wait()
    print("joined", flush=True)
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    if await stdin.readline():
        for link in links:
            link.send(Resized(SLOTS))
            link.flush()
    await stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(run_loop(_serve(Address.parse(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
