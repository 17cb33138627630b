"""Opens thousands of hostile connections of ten kinds to a scheduler and a worker, while honest ones work and join.

    python -m tests.crowd [--connections 10000] [--rate 200] [--hosts 50]

No connection may be accepted, and memory and descriptors of the daemons must not grow with their number. Strangers cost
others time in any case, as their own processes and their handshakes take processors. So the same connections are also
made to another program, in turns: one that speaks TLS, has the same certificate, and closes. The ratio of the two times
of an honest no-op is what strangers cost minidask beyond that. With `--hosts 0` the strangers come from the address of
the honest clients.

The exit code is 1 if a connection was accepted, an honest client could not join, or memory grew by 10 MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import ssl
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from operator import neg
from pathlib import Path
from typing import Any, NamedTuple

import psutil

import minidask
from minidask._version import __version__
from minidask.errors import MinidaskError
from minidask.host.descriptors import raise_limit
from minidask.host.program import run_loop
from minidask.net.access import load_access
from minidask.net.tls import certificate_of
from minidask.net.transport import HANDSHAKE_SECONDS
from minidask.wire import messages as m
from minidask.wire.codec import encode
from minidask.wire.frames import MAGIC, PREFIX
from minidask.wire.handshake import NONCE_BYTES, Initiator
from tests.helpers import RUN, Program, Programs
from tests.hostile import Hostile

MIB = 1 << 20
MOST_MIB = 10
PATIENCE = 12.0  # seconds that a stranger stays, if it is let
ROUNDS = 5


def secret() -> bytes:
    """That of the cluster, which honest programs find in the same place."""
    return load_access(Path(os.environ["XDG_STATE_HOME"], "minidask/access")).secret


def load_chain(context: ssl.SSLContext, certificate_and_key: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate_and_key)
        file.flush()
        context.load_cert_chain(file.name)


# --- strangers ---


class Wire(NamedTuple):
    """A stranger's connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def rest(self) -> bytes:
        """All that comes until the other side closes the connection, or the stranger has no more patience."""
        heard = bytearray()
        with contextlib.suppress(TimeoutError, OSError, ssl.SSLError):
            async with asyncio.timeout(PATIENCE):
                while data := await self.reader.read(65536):
                    heard += data
        return bytes(heard)

    async def say(self, *data: bytes) -> bytes:
        self.put(b"".join(data))
        return await self.rest()

    def put(self, data: bytes) -> None:
        if not self.writer.transport.is_closing():
            self.writer.write(data)


class Strangers:
    """Where the connections go, and what those who make them have: all but the secret.

    Args:
        address: host and port.
        hosts: how many addresses they come from; 0: that of everybody else.
    """

    def __init__(self, address: tuple[str, int], hosts: int) -> None:
        self.address = address
        self._hosts = hosts
        self._right = self._context(secret())
        self._wrong = self._context(os.urandom(32))
        self._hello = self._client_hello()
        self.kinds = (self.silent, self.half_a_hello, self.bad_tls, self.wrong_certificate, self.plain_bytes, self.http,
                      self.giant, self.drip, self.open_and_close, self.no_proof)  # fmt: skip

    @staticmethod
    def _context(secret: bytes) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        load_chain(context, b"".join(certificate_of(secret)))
        return context

    def _client_hello(self) -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            self._wrong.wrap_bio(incoming, outgoing).do_handshake()
        return outgoing.read()

    async def open(self, number: int, tls: ssl.SSLContext | None = None) -> Wire:
        local = (f"127.0.{1 + number % self._hosts // 250}.{1 + number % 250}", 0) if self._hosts else None
        return Wire(*await asyncio.open_connection(*self.address, ssl=tls, local_addr=local))

    async def silent(self, number: int) -> bytes:
        return await (await self.open(number)).rest()

    async def half_a_hello(self, number: int) -> bytes:
        return await (await self.open(number)).say(self._hello[: len(self._hello) // 2])

    async def bad_tls(self, number: int) -> bytes:
        return await (await self.open(number)).say(b"\x16\x03\x01\x01\x00", os.urandom(256))

    async def wrong_certificate(self, number: int) -> bytes:
        return await (await self.open(number, self._wrong)).say(*self._frames(number))

    async def plain_bytes(self, number: int) -> bytes:
        return await (await self.open(number)).say(*self._frames(number))

    async def http(self, number: int) -> bytes:
        return await (await self.open(number)).say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    async def giant(self, number: int) -> bytes:
        wire = await self.open(number, self._right if number % 4 < 2 else None)
        return await wire.say(PREFIX.pack(MAGIC, 1 + number % 2, 2**32 - 1), b"\xff" * 8, bytes(5000))

    async def drip(self, number: int) -> bytes:
        wire = await self.open(number)
        for byte in self._hello[: int(PATIENCE)]:
            wire.put(bytes([byte]))
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(1):
                    if not await wire.reader.read(1):
                        break
        return b""

    async def open_and_close(self, number: int) -> bytes:
        (await self.open(number)).writer.close()
        return b""

    async def no_proof(self, number: int) -> bytes:
        """The certificate is right. The proof is missing, wrong, or was heard in another connection."""
        return await (await self.open(number, self._right)).say(*self._frames(number))

    def _frames(self, number: int) -> list[bytes]:
        """A hello with a proof that cannot be right: for `replayed` too, as the other side has another nonce."""
        secret, nonce = os.urandom(32), os.urandom(NONCE_BYTES)
        hello = b"".join(Initiator(secret, role="client", version=__version__, nonce=nonce, info={}).start())
        call = m.Submit(1, "t", 0, None, 0, None, [], [], False, {}, [b"call"])
        return [hello, b"".join(map(bytes, encode(call)))] if number % 2 else [hello, hello]


async def attack(strangers: Strangers, connections: int, rate: float) -> int:
    """Open so many connections of all kinds, so many a second, and print what came of them."""
    outcomes: Counter[str] = Counter()

    async def one(number: int) -> None:
        kind: Callable[[int], Awaitable[bytes]] = strangers.kinds[number % len(strangers.kinds)]
        try:
            outcomes["accepted" if b"welcome" in await kind(number) else "refused"] += 1
        except (OSError, ssl.SSLError):
            outcomes["refused"] += 1

    began, running = time.monotonic(), set[asyncio.Task[None]]()
    for number in range(connections):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        task = asyncio.create_task(one(number))
        running.add(task)
        task.add_done_callback(running.discard)
    print("all made", flush=True)
    await asyncio.gather(*running)
    print("outcomes", json.dumps(outcomes), flush=True)
    return 0


async def accept_and_close() -> int:
    """The program beside which minidask is measured: what any server does that lets in who has a certificate."""

    async def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version, tls.verify_mode = ssl.TLSVersion.TLSv1_3, ssl.CERT_REQUIRED
    own = b"".join(certificate_of(secret()))
    tls.load_verify_locations(cadata=ssl.PEM_cert_to_DER_cert(own.decode().partition("-----BEGIN PRIVATE")[0]))
    load_chain(tls, own)
    limits = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": 1.0, "backlog": 1000}
    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=tls, **limits)
    print(f"port {server.sockets[0].getsockname()[1]};", flush=True)
    await server.serve_forever()
    return 0


# --- honest ones ---


def join_again_and_again(address: str, role: str) -> None:
    """Join five times a second until a signal ends this process, and print how long each time took, or why not."""
    while True:
        time.sleep(0.2)
        began = time.monotonic()
        try:
            (Hostile(address, "peer", {}) if role == "peer" else minidask.Client(address, timeout=10)).close()
            print(f"joined {time.monotonic() - began:.6f}", flush=True)
        except (OSError, MinidaskError) as error:
            print(f"failed {time.monotonic() - began:.3f} {error}", flush=True)


class Watch:
    """The most memory and descriptors that a process has, beyond those at first."""

    def __init__(self, program: Program) -> None:
        self._process = psutil.Process(program.process.pid)
        self._first = self._now()
        self.mib = self.descriptors = 0.0

    def _now(self) -> tuple[float, int]:
        return self._process.memory_info().rss / MIB, self._process.num_fds()

    def look(self) -> None:
        mib, descriptors = self._now()
        self.mib = max(self.mib, mib - self._first[0])
        self.descriptors = max(self.descriptors, descriptors - self._first[1])


class Result(NamedTuple):
    """What a crowd has done. Times are of honest no-ops, in seconds, beside strangers here and elsewhere."""

    outcomes: Counter[str]
    here: list[float]
    elsewhere: list[float]
    joins: list[float]
    failed: list[str]
    mib: float
    descriptors: float

    def ratio(self, share: float) -> float:
        return percentile(self.here, share) / percentile(self.elsewhere, share)


def percentile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]


def no_ops(client: minidask.Client, until: Callable[[], object]) -> Iterator[float]:
    while not until():
        began = time.perf_counter()
        assert client.submit(neg, 1).result(60) == -1
        yield time.perf_counter() - began


class Scene:
    """A scheduler, a worker, an honest client, and the program that is no minidask."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self.scheduler, self.address = programs.scheduler()
        self.worker = programs.worker(self.address, "--nworkers", "1")
        self._closer = self._command("--close")
        self._port = self._closer.wait_for(";").split("port ")[1].split(";")[0]

    def _command(self, *arguments: str) -> Program:
        return self.programs.start(sys.executable, "-m", "tests.crowd", *arguments)

    def crowd(self, at_worker: bool, connections: int, rate: float, hosts: int, rounds: int = ROUNDS) -> Result:
        """Have strangers come, to the scheduler or to the worker's door for other workers."""
        with minidask.Client(self.address) as client:
            client.wait_for_workers(1, timeout=60)
            serves = str(client.scheduler_info()["machines"][0]["serves"])
            target = serves if at_worker else self.address
            [*no_ops(client, iter([False] * 200 + [True]).__next__)]
            watch = Watch(self.worker if at_worker else self.scheduler)
            joiner = self._joiner(target, "peer" if at_worker else "client")
            result = Result(Counter(), [], [], [], [], 0, 0)
            for _ in range(rounds):
                for address, times in ((f"tcp://127.0.0.1:{self._port}", result.elsewhere), (target, result.here)):
                    options = ("--connections", str(connections // rounds), "--rate", str(rate), "--hosts", str(hosts))
                    crowd = self._command("--attack", address, *options)
                    for seconds in no_ops(client, lambda crowd=crowd: "all made" in crowd.text):
                        times.append(seconds)
                        if len(times) % 20 == 0:
                            watch.look()
                    crowd.wait_for("outcomes")
                    assert crowd.exit_code() == 0, crowd.text
                    if address == target:
                        result.outcomes.update(json.loads(crowd.text.split("outcomes ")[1]))
            watch.look()
            joiner.ask_to_end()
            joiner.exit_code()
        words = [line.split(maxsplit=2) for line in joiner.text.splitlines()]
        result.joins.extend(float(each[1]) for each in words if each[0] == "joined")
        result.failed.extend(each[2] for each in words if each[0] == "failed")
        return result._replace(mib=watch.mib, descriptors=watch.descriptors)

    def _joiner(self, address: str, role: str) -> Program:
        joiner = self._command("--join", address, "--role", role)
        joiner.wait_for("joined")
        return joiner


def tell(where: str, result: Result) -> bool:
    """Print what came of a crowd; whether all is as it should be."""
    here, there = result.here, result.elsewhere
    print(f"{where}: {sum(result.outcomes.values())} connections, accepted: {result.outcomes['accepted']}")
    print(f"  it had {result.mib:.1f} MiB and {result.descriptors:.0f} descriptors more, at most")
    for name, share in (("median", 0.5), ("p99", 0.99)):
        ms = f"{1e3 * percentile(here, share):.2f} ms, beside the others {1e3 * percentile(there, share):.2f}"
        print(f"  an honest no-op, {name}: {ms}; ratio {result.ratio(share):.2f}")
    print(f"  of {len(here)} and {len(there)} no-ops")
    joins = f"median {percentile(result.joins, 0.5):.3f} s, p99 {percentile(result.joins, 0.99):.3f} s"
    print(f"  joined meanwhile: {len(result.joins)} of {len(result.joins) + len(result.failed)}, {joins}", flush=True)
    for error, count in Counter(result.failed).most_common(3):
        print(f"    {count} times: {error}")
    return not result.outcomes["accepted"] and not result.failed and result.mib < MOST_MIB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000, help="how many, of all kinds (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=200, help="how many of them a second (default: %(default)s)")
    parser.add_argument("--hosts", type=int, default=50, help="addresses they come from (default: %(default)s)")
    for name in ("--attack", "--join", "--role"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--close", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    raise_limit()
    if options.join:
        join_again_and_again(options.join, options.role)
    if options.close:
        return run_loop(accept_and_close())
    if options.attack:
        host, port = options.attack.removeprefix("tcp://").rsplit(":", 1)
        return run_loop(attack(Strangers((host, int(port)), options.hosts), options.connections, options.rate))
    os.environ[RUN] = str(os.getpid())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder
        programs = Programs(Path(folder))
        try:
            scene = Scene(programs)
            wanted: tuple[Any, ...] = options.connections, options.rate, options.hosts
            good = [tell(name, scene.crowd(at, *wanted)) for name, at in (("scheduler", False), ("worker", True))]
        finally:
            programs.end_all()
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
