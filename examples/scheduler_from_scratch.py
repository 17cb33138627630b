"""A minidask scheduler in one file: clients and workers of minidask connect to it as to the real one.

    python examples/scheduler_from_scratch.py ACCESS_FILE [PORT]     (the file is made if there is none)

It follows docs/protocol.md, with the standard library, msgpack, and `cryptography` for the certificate. It decides all
in `Core`, which knows no socket and no clock: a message goes in, messages come out. So a test can tell it any story.

    client ── Submit ──► Core: ready ──► Run ──► worker
    client ◄─ TaskDone ─ Core ◄───────── Done ── worker
                         Core ◄───────── Died, or the worker is gone: ready again, three times at most

minidask's own scheduler has more: fairness between clients, prefetching, tasks within tasks, pins, resources, leases,
data that workers fetch from each other, limits for peers that do not read; and it may be lost, and nobody loses
anything.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import hmac
import os
import socket
import ssl
import struct
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgpack
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HEARTBEAT_TIMEOUT = 15.0
ATTEMPTS = 3
PUT_BLOB, RELEASE_BLOBS, OPEN_GROUP, CLOSE_GROUP, SUBMIT, CANCEL, ASK = range(7)
WORKERS, TASK_DONE, TASK_RAISED, TASK_LOST, TASK_OUTPUT, ANSWER, GOODBYE, RUN, STOP = range(8, 17)
DONE, FAILED, DIED, STOPPED, GAVE_BACK, OUTPUT, HEARTBEAT, RESIZED, WORKER_CHANGED, OFFER_BLOB, NEED_BLOB = range(
    18, 29
)
FETCH_CHUNK, CHUNK, NO_BLOB, HAVE_BLOB, FETCH_FAILED, BLOB_LOST, OFFER_RESULT, RESULT_OFFERED, RESULT_TAKEN = range(
    29, 38
)

# --- the core ---


@dataclass(eq=False)
class Task:
    client: int
    number: int  # the client's
    submit: list  # the fields of Submit
    payload: list[bytes]
    attempt: int = 0
    worker: int | None = None


@dataclass
class Client:
    info: dict
    tasks: dict[int, Task] = field(default_factory=dict)
    blobs: dict[bytes, Any] = field(default_factory=dict)  # the payload, or the size if the client offers the bytes
    groups: dict[int, list[int]] = field(default_factory=dict)  # the limit, and how many run


@dataclass
class Worker:
    info: dict
    slots: int
    running: dict[int, Task] = field(default_factory=dict)  # by the scheduler's number
    blobs: set[bytes] = field(default_factory=set)
    fetchers: dict[bytes, int] = field(default_factory=dict)  # which client fetches this buffer of a result


class Core:
    """Who runs what. Each method returns what to send: peer, header, buffers."""

    def __init__(self) -> None:
        self.clients: dict[int, Client] = {}
        self.workers: dict[int, Worker] = {}
        self._ready: collections.deque[Task] = collections.deque()
        self._numbers = 0
        self._out: list[tuple[int, list, list[bytes]]] = []

    def joined(self, peer: int, role: str, info: dict) -> list:
        if role == "client":
            self.clients[peer] = Client(info)
            self._send(peer, [WORKERS, [self._row(each) for each in self.workers]])
        else:
            self.workers[peer] = Worker(info, info["slots"])
            self._to_clients([WORKER_CHANGED, *self._row(peer)])
        return self._assigned()

    def left(self, peer: int) -> list:
        worker = self.workers.pop(peer, None)
        if worker is not None:
            self._to_clients([WORKER_CHANGED, self._address(peer), worker.info["name"], None, {}])
            for task in worker.running.values():
                self._again(task, f"machine {worker.info['name']} was lost")
        client = self.clients.pop(peer, None)
        if client is not None:
            for task in list(client.tasks.values()):
                self._give_up(task, force=True)
        return self._assigned()

    def received(self, peer: int, code: int, fields: list, payload: list[bytes]) -> list:
        if peer in self.clients:
            self._from_client(peer, self.clients[peer], code, fields, payload)
        elif peer in self.workers:
            self._from_worker(peer, self.workers[peer], code, fields, payload)
        return self._assigned()

    def _from_client(self, peer: int, client: Client, code: int, fields: list, payload: list[bytes]) -> None:
        if code == SUBMIT and fields[9]:  # no machine would be asked whether it has them
            self._send(peer, [TASK_LOST, fields[0], "internal", f"this scheduler knows of no resources: {fields[9]}"])
        elif code == SUBMIT:
            task = client.tasks[fields[0]] = Task(peer, fields[0], fields, payload)
            self._put(task)
        elif code == CANCEL:
            for number in fields[0]:
                if number in client.tasks:
                    self._give_up(client.tasks[number], force=fields[1])
        elif code == OPEN_GROUP:
            client.groups[fields[0]] = [fields[1] or sys.maxsize, 0]
        elif code == PUT_BLOB:
            client.blobs[fields[0]] = payload
        elif code == OFFER_BLOB:
            client.blobs[fields[0]] = fields[1]
        elif code == FETCH_CHUNK and fields[3] in self.workers:  # of a result
            self.workers[fields[3]].fetchers[fields[0]] = peer
            self._send(fields[3], [FETCH_CHUNK, *fields[:3], 0])
        elif code == RESULT_TAKEN and fields[1] in self.workers:
            self._send(fields[1], [RESULT_TAKEN, fields[0], 0])
        elif code in (CHUNK, NO_BLOB):  # for the worker that has asked: the number is its peer's
            place = 2 if code == CHUNK else 1
            self._send(fields[place], [code, *fields[:place], 0, *fields[place + 1 :]], payload)
        elif code == ASK:
            machines = [{"address": self._address(each), **worker.info} for each, worker in self.workers.items()]
            info = {"machines": machines, "clients": len(self.clients), "tasks": {"waiting": len(self._ready)}}
            self._send(peer, [ANSWER, fields[0], info])

    def _from_worker(self, peer: int, worker: Worker, code: int, fields: list, payload: list[bytes]) -> None:
        if code in (DONE, FAILED, DIED, STOPPED, GAVE_BACK):
            task = worker.running.get(fields[0])
            if task is not None and task.attempt == fields[1]:  # else it is stale
                self._ended(task, worker, code, fields, payload)
        elif code == OFFER_RESULT:
            task = worker.running.get(fields[0])
            if task is not None:
                self._send(task.client, [RESULT_OFFERED, task.number, *fields[2:], peer])
        elif code == FETCH_CHUNK:
            holder = next((p for p, c in self.clients.items() if fields[0] in c.blobs), None)
            answer = (
                [NO_BLOB, fields[0], 0, "no client holds it"] if holder is None else [FETCH_CHUNK, *fields[:3], peer]
            )
            self._send(peer if holder is None else holder, answer)
        elif code in (CHUNK, NO_BLOB) and fields[0] in worker.fetchers:
            place = 2 if code == CHUNK else 1
            answer = [code, *fields[:place], peer, *fields[place + 1 :]]
            self._send(worker.fetchers[fields[0]], answer, payload)
        elif code == FETCH_FAILED:
            worker.blobs.discard(fields[0])
            self._send(peer, [BLOB_LOST, fields[0], fields[2]])
        elif code == OUTPUT:
            self._send(fields[0], [TASK_OUTPUT, worker.info["name"], fields[2], fields[3]])
        elif code == RESIZED:
            worker.slots = fields[0]
            self._to_clients([WORKER_CHANGED, *self._row(peer)])

    # --- a task's life ---

    def _put(self, task: Task) -> None:
        task.worker = None
        higher = (other for other in self._ready if other.submit[2] >= task.submit[2])
        self._ready.insert(sum(1 for _ in higher), task)  # behind all of its priority

    def _assigned(self) -> list:
        """Begin what can begin. Returns all that is to be sent."""
        for task in list(self._ready):
            client = self.clients[task.client]
            limit, running = client.groups.get(task.submit[4], [sys.maxsize, 0])
            free = [p for p, worker in self.workers.items() if len(worker.running) < worker.slots]
            if not free:
                break
            if running < limit:
                self._ready.remove(task)
                self._run(task, client, min(free, key=lambda p: len(self.workers[p].running)))
        out, self._out = self._out, []
        return out

    def _run(self, task: Task, client: Client, peer: int) -> None:
        _, name, _, timeout, group, _, blobs, _, _, _ = task.submit
        worker = self.workers[peer]
        for blob in blobs:
            if blob not in worker.blobs and blob in client.blobs:
                worker.blobs.add(blob)
                held = client.blobs[blob]
                offered = isinstance(held, int)
                self._send(
                    peer, [NEED_BLOB, blob, held, "", []] if offered else [PUT_BLOB, blob], [] if offered else held
                )
        self._numbers += 1
        task.worker, task.attempt = peer, task.attempt + 1
        worker.running[self._numbers] = task
        if group in client.groups:
            client.groups[group][1] += 1
        run = [RUN, self._numbers, task.attempt, task.client, name, timeout, blobs, 0, False]
        self._send(peer, run, task.payload)

    def _leave_slot(self, task: Task) -> int:
        """The task runs no more. Returns the number that it had."""
        worker, client = self.workers.get(task.worker), self.clients.get(task.client)
        if client is not None and task.submit[4] in client.groups:
            client.groups[task.submit[4]][1] -= 1
        number = next((n for n, other in worker.running.items() if other is task), 0) if worker is not None else 0
        if number:
            del worker.running[number]
        return number

    def _ended(self, task: Task, worker: Worker, code: int, fields: list, payload: list[bytes]) -> None:
        self._leave_slot(task)
        name = worker.info["name"]
        if code == GAVE_BACK:
            self._put(task)
        elif code == DIED:
            self._again(task, f"attempt {task.attempt}: on {name} its process ended with {fields[2]}")
        elif code == STOPPED and fields[2] in ("no-data", "guest-died", "cut-off"):
            self._again(task, f"attempt {task.attempt}: on {name}: {fields[3]}")
        elif code == STOPPED:
            self._over(task, [TASK_LOST, task.number, *fields[2:]])
        elif code == DONE:
            self._over(task, [TASK_DONE, task.number, fields[2], name], payload)
        else:
            self._over(task, [TASK_RAISED, task.number, fields[2], name, fields[3]], payload)

    def _again(self, task: Task, why: str) -> None:
        if task.attempt < ATTEMPTS:
            self._put(task)
        else:
            self._over(task, [TASK_LOST, task.number, "killed", f"it was tried {ATTEMPTS} times; {why}"])

    def _give_up(self, task: Task, force: bool) -> None:
        """Nobody wants the outcome any more."""
        if task.worker is None:
            self._ready.remove(task)
        elif not force:
            return
        else:
            peer, attempt = task.worker, task.attempt
            number = self._leave_slot(task)
            self._send(peer, [STOP, number, attempt])
        if task.client in self.clients:
            self._over(task, [TASK_LOST, task.number, "cancelled", ""])

    def _over(self, task: Task, header: list, payload: list[bytes] | None = None) -> None:
        del self.clients[task.client].tasks[task.number]
        self._send(task.client, header, payload)

    # --- what is sent ---

    def _send(self, peer: int, header: list, payload: list[bytes] | None = None) -> None:
        self._out.append((peer, header, payload or []))

    def _to_clients(self, header: list) -> None:
        for peer in self.clients:
            self._send(peer, header)

    def _address(self, peer: int) -> str:
        return f"worker-{peer}"

    def _row(self, peer: int) -> list:
        worker = self.workers[peer]
        versions = {"python": worker.info.get("python", ""), **worker.info.get("packages", {})}
        return [self._address(peer), worker.info["name"], worker.slots, versions]


# --- the shell: sockets and time ---


def context_of(secret: bytes) -> tuple[ssl.SSLContext, bytes]:
    """TLS that accepts only who shows the certificate that the secret makes. Returns that certificate too."""
    seed = HKDF(hashes.SHA256(), length=32, salt=None, info=b"minidask tls key 1").derive(secret)
    key = Ed25519PrivateKey.from_private_bytes(seed)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "minidask")])
    unsigned = x509.CertificateBuilder(name, name, key.public_key(), serial_number=1)
    unsigned = unsigned.not_valid_before(datetime(1970, 1, 1)).not_valid_after(datetime(9999, 12, 31, 23, 59, 59))
    pem, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
    certificate = unsigned.sign(key, None).public_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    context.load_verify_locations(cadata=certificate.decode())
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_password))
        file.flush()
        context.load_cert_chain(file.name)
    return context, ssl.PEM_cert_to_DER_cert(certificate.decode())


def frame(header: list, buffers: list[bytes]) -> bytes:
    packed = msgpack.packb(header, unicode_errors="surrogatepass")
    return b"".join(
        [struct.pack(f"<2sHI{len(buffers)}Q", b"mD", len(buffers), len(packed), *map(len, buffers)), packed, *buffers]
    )


async def read_frame(reader: asyncio.StreamReader, most: int) -> tuple[bytes, list[bytes]]:
    magic, count, size = struct.unpack("<2sHI", await reader.readexactly(8))
    if magic != b"mD" or size > most or (count and most <= 4096):
        raise ConnectionError("no frame, or one that is too large")
    sizes = struct.unpack(f"<{count}Q", await reader.readexactly(8 * count))
    return await reader.readexactly(size), [await reader.readexactly(each) for each in sizes]


def unpack(data: bytes) -> list:
    return msgpack.unpackb(data, unicode_errors="surrogatepass", strict_map_key=False)


class Server:
    """Takes connections, and carries out what the core says."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._core = Core()
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._received: collections.Counter[int] = collections.Counter()

    async def serve(self, context: ssl.SSLContext, der: bytes, port: int, on_port: Any) -> None:
        self._der = der
        server = await asyncio.start_server(self._talk, "127.0.0.1", port, ssl=context, ssl_shutdown_timeout=0.1)
        on_port(server.sockets[0].getsockname()[1])
        while True:
            await asyncio.sleep(HEARTBEAT_TIMEOUT / 3)
            for peer in list(self._writers):
                self._carry_out([(peer, [HEARTBEAT, 0, self._received[peer]], [])])

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = None
        try:
            async with asyncio.timeout(5):
                role, info = await self._shake_hands(reader, writer)
            peer = max(self._writers, default=0) + 1
            self._writers[peer] = writer
            self._carry_out(self._core.joined(peer, role, info))
            while True:
                header, payload = await read_frame(reader, 16 << 20)
                self._received[peer] += 1
                code, *fields = unpack(header)
                self._carry_out(self._core.received(peer, code, fields, payload))
        except (OSError, TimeoutError, ssl.SSLError, asyncio.IncompleteReadError):
            pass  # whoever it was is gone
        except (ValueError, TypeError, KeyError, IndexError) as error:
            writer.write(frame([GOODBYE, f"malformed: {error!r}"], []))
        finally:
            if peer is not None:
                del self._writers[peer]
                self._carry_out(self._core.left(peer))
            writer.close()

    async def _shake_hands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, dict]:
        def proof(label: bytes, *parts: bytes) -> bytes:
            return hmac.digest(self._secret, label + b"".join(struct.pack("<I", len(p)) + p for p in parts), "sha256")

        def refuse(code: str, text: str) -> ConnectionError:
            writer.write(frame(["refuse", code, text], []))
            return ConnectionError(text)

        if writer.get_extra_info("ssl_object").getpeercert(binary_form=True) != self._der:
            raise ConnectionError("another certificate")
        binding, nonce = 2 * hashlib.sha256(self._der).digest(), os.urandom(32)
        hello, _ = await read_frame(reader, 4096)
        kind, protocol, *more = unpack(hello)
        if protocol != 4:
            raise refuse("version", "this scheduler speaks protocol 4")
        _, role, _ = more
        if kind != "hello" or role not in ("client", "worker"):
            raise refuse("protocol", "a client or worker is expected to say hello")
        own = proof(b"minidask acceptor", binding, hello, nonce)
        writer.write(frame(["challenge", 4, "0.1.0", nonce, own], []))
        answer, _ = await read_frame(reader, 4096)
        _, theirs, info = unpack(answer)
        if not hmac.compare_digest(theirs, proof(b"minidask initiator", binding, hello, nonce, own, info)):
            raise refuse("authentication", "the secrets differ")
        writer.write(frame(["welcome", {"version": "0.1.0", "heartbeat_timeout": HEARTBEAT_TIMEOUT}], []))
        return role, unpack(info)[1]

    def _carry_out(self, messages: list[tuple[int, list, list[bytes]]]) -> None:
        for peer, header, buffers in messages:
            if peer in self._writers:
                with contextlib.suppress(OSError):
                    self._writers[peer].write(frame(header, buffers))


def main() -> None:
    path = Path(sys.argv[1])
    secret = bytes.fromhex(path.read_text().split()[0]) if path.exists() else os.urandom(32)

    def tell(port: int) -> None:
        address = f"tcp://127.0.0.1:{port}"
        path.touch(mode=0o600)
        path.write_text(f"{secret.hex()} {address}\n")
        print(f"listens on {address}, host {socket.gethostname()}", flush=True)

    port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    asyncio.run(Server(secret).serve(*context_of(secret), port, tell))


if __name__ == "__main__":
    main()
