"""A minidask worker in one file: it joins a scheduler, and runs one task at a time.

    python examples/worker_from_scratch.py ACCESS_FILE

It follows docs/protocol.md, with the standard library, msgpack and cloudpickle, and `cryptography` for the certificate.
It takes nothing from minidask. But what a task's pickle names is imported: joblib's calls name `minidask.task.batch`.

    worker                                          slot, a process of its own
    scheduler ── Run ──► calls that wait ── pipe ──► unpickle, call, pickle
    scheduler ◄─ Done, Failed ◄──────────── pipe ──┘
              ◄─ Died      the pipe has ended: the task has killed its process
              ◄─ Stopped   Stop has come, or the time is up: the worker kills the slot

minidask's own worker has more: several slots, output of tasks, limits of memory, data that tasks share, tasks within
tasks, modules of the caller's own, and it outlives its scheduler.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import multiprocessing
import os
import pickle
import platform
import select
import socket
import ssl
import struct
import sys
import tempfile
import time
import traceback
from datetime import datetime
from pathlib import Path

import cloudpickle
import msgpack
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PUT_BLOB, RELEASE_BLOBS, SHUTDOWN, GOODBYE, RUN, STOP = 0, 1, 7, 14, 15, 16
DONE, FAILED, DIED, STOPPED, HEARTBEAT = 18, 19, 20, 21, 24
NEED_BLOB, FETCH_CHUNK, CHUNK, NO_BLOB, HAVE_BLOB, FETCH_FAILED, BLOB_LOST = 28, 29, 30, 31, 32, 33, 34
CHUNK_BYTES = 1 << 20

# --- the connection ---


def connect(address: str, secret: bytes) -> tuple[ssl.SSLSocket, bytes]:
    """Connect over TLS. All who hold the secret show the same certificate: see "Encryption".

    Returns:
        The socket, and the binding of the handshake.
    """
    seed = HKDF(hashes.SHA256(), length=32, salt=None, info=b"minidask tls key 1").derive(secret)
    key = Ed25519PrivateKey.from_private_bytes(seed)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "minidask")])
    unsigned = x509.CertificateBuilder(name, name, key.public_key(), serial_number=1)
    unsigned = unsigned.not_valid_before(datetime(1970, 1, 1)).not_valid_after(datetime(9999, 12, 31, 23, 59, 59))
    pem, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
    certificate = unsigned.sign(key, None).public_bytes(pem)
    der = ssl.PEM_cert_to_DER_cert(certificate.decode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # a peer is known by the secret that it holds
    context.load_verify_locations(cadata=der)
    with tempfile.NamedTemporaryFile() as file:  # ssl takes keys by a path alone
        file.write(certificate + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_password))
        file.flush()
        context.load_cert_chain(file.name)
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    sock = context.wrap_socket(socket.create_connection((host.strip("[]"), int(port))))
    if sock.getpeercert(binary_form=True) != der:
        raise ConnectionError("that is another cluster's certificate")
    return sock, 2 * hashlib.sha256(der).digest()


class Frames:
    """Frames over a socket: a magic, lengths, a header in msgpack, buffers."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock

    def send(self, header: list, buffers: list[bytes] | None = None) -> None:
        buffers, packed = buffers or [], pack(header)
        head = struct.pack(f"<2sHI{len(buffers)}Q", b"mD", len(buffers), len(packed), *map(len, buffers))
        self._sock.sendall(b"".join([head, packed, *buffers]))

    def next(self, seconds: float | None = None) -> tuple[list, list[bytes]] | None:
        """Wait for a frame. Returns its header and its buffers; None if none has begun to come in time."""
        if not self._sock.pending() and not select.select([self._sock], [], [], seconds)[0]:
            return None
        magic, count, size = struct.unpack("<2sHI", self._read(8))
        if magic != b"mD":
            raise ConnectionError("what listens there does not speak minidask's protocol")
        sizes = struct.unpack(f"<{count}Q", self._read(8 * count))
        header = msgpack.unpackb(self._read(size), unicode_errors="surrogatepass", strict_map_key=False)
        return header, [self._read(each) for each in sizes]

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._sock.recv(min(size - len(data), 1 << 18))
            if not piece:
                raise ConnectionError("the scheduler closed the connection")
            data += piece
        return bytes(data)


def pack(value: object) -> bytes:
    return msgpack.packb(value, unicode_errors="surrogatepass")


def shake_hands(frames: Frames, secret: bytes, binding: bytes, info: dict) -> dict:
    """Prove to each other that both ends hold the secret. Returns what the scheduler says of itself."""

    def proof(label: bytes, *parts: bytes) -> bytes:
        return hmac.digest(secret, label + b"".join(struct.pack("<I", len(part)) + part for part in parts), "sha256")

    def answer(kind: str) -> list:
        found, *rest = frames.next()[0]
        if found != kind:
            raise ConnectionError(f"the scheduler refuses: {rest[-1]}")
        return rest

    hello, packed = ["hello", 4, "0.1.0", "worker", os.urandom(32)], pack(["info", info])
    frames.send(hello)
    _, _, nonce, theirs = answer("challenge")
    if not hmac.compare_digest(theirs, proof(b"minidask acceptor", binding, pack(hello), nonce)):
        raise ConnectionError("the other side does not hold the secret")
    frames.send(["proof", proof(b"minidask initiator", binding, pack(hello), nonce, theirs, packed), packed])
    return answer("welcome")[0]


# --- the slot ---


def run_slot(pipe) -> None:
    """Run calls until the pipe ends. A call comes as its payload, and those of the blobs that it names."""
    while True:
        payload, blobs = pipe.recv()
        began, trace = time.monotonic(), None
        try:
            function, args, kwargs = load(payload, blobs, {})
            outcome = cloudpickle.dumps(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - SystemExit too: it is the task's, and no end of the slot
            trace = traceback.format_exc()
            try:
                outcome = cloudpickle.dumps((error, []))
            except Exception:  # noqa: BLE001 - whatever its own code raises
                outcome = pickle.dumps((None, ["its exception cannot be pickled"]))
        pipe.send(([outcome], time.monotonic() - began, trace))


def load(payload: list[bytes], blobs: dict[bytes, list[bytes]], objects: dict[bytes, object]) -> object:
    """Unpickle a payload: see "Payloads". A blob that it names is unpickled once for a task."""

    def resolve(blob: bytes) -> object:
        if blob not in objects:
            objects[blob] = load(blobs[blob], blobs, objects)
        return objects[blob]

    def buffer(beside: bytes) -> bytes | bytearray:
        if len(beside) >= 32 * 1024:
            return beside
        names, letter = beside[:-1], beside[-1:]  # a reference: names of blobs, and how to map them
        data = b"".join(blobs[names[i : i + 16]][0] for i in range(0, len(names), 16))
        return bytearray(data) if letter == b"c" else data

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            is_blob = (module, name[:8]) == ("minidask.pickling.payload", "resolve_")
            return resolve if is_blob else super().find_class(module, name)

    return Unpickler(io.BytesIO(payload[0]), buffers=map(buffer, payload[1:])).load()


# --- the worker ---


class Worker:
    """One connection to a scheduler, and one slot."""

    def __init__(self, frames: Frames) -> None:
        self._send, self._next = frames.send, frames.next
        self._waiting: list[tuple[list, list[bytes]]] = []  # calls that have not begun: task and attempt first
        self._running: list[int] = []  # task and attempt
        self._ends = float("inf")  # when the time of that one is up
        self._blobs: dict[bytes, list[bytes]] = {}
        self._fetching: dict[bytes, tuple[bytearray, int]] = {}  # what has come, and the size of all
        self._lost: set[bytes] = set()
        self._start_slot()

    def _start_slot(self) -> None:
        context = multiprocessing.get_context("spawn")  # nothing of this process is in it
        self._pipe, end = context.Pipe()
        self._slot = context.Process(target=run_slot, args=(end,), daemon=True)
        self._slot.start()
        end.close()  # now the pipe ends with the slot

    def serve(self, heartbeat_timeout: float) -> None:
        """Run tasks until the scheduler says that this is the end."""
        told = 0.0
        while True:
            if time.monotonic() > told + heartbeat_timeout / 3:
                told = time.monotonic()
                self._send([HEARTBEAT, 0, 0])
            frame = self._next(0.002 if self._running else 0.1)
            if frame is not None and frame[0][0] in (SHUTDOWN, GOODBYE):
                return
            if frame is not None:
                self._handle(*frame[0], payload=frame[1])
            if self._running and self._pipe.poll():
                self._call_ended()
            if self._running and time.monotonic() > self._ends:
                self._stop("timeout")
            if not self._running:
                self._begin_one()

    def _handle(self, code: int, first: object, *more, payload: list[bytes]) -> None:
        if code == RUN:
            self._waiting.append(([first, *more], payload))
        elif code == STOP and self._running == [first, *more]:
            self._stop("cancelled")
        elif code == STOP:
            before, self._waiting = self._waiting, [c for c in self._waiting if c[0][:2] != [first, *more]]
            if len(before) > len(self._waiting):
                self._send([STOPPED, first, *more, "cancelled", ""])
        elif code == PUT_BLOB:
            self._blobs[first] = payload
        elif code == RELEASE_BLOBS:
            for blob in first:
                self._blobs.pop(blob, None)
        elif code == NEED_BLOB and more[1]:  # another worker has it; this one fetches from the scheduler alone
            self._send([FETCH_FAILED, first, more[1], "it asks no other worker"])
        elif code in (NEED_BLOB, CHUNK):
            data, size = self._fetching.setdefault(first, (bytearray(), more[0]))
            data += b"".join(payload)
            if len(data) < size:
                self._send([FETCH_CHUNK, first, len(data), min(CHUNK_BYTES, size - len(data)), 0])
            else:
                self._blobs[first] = [bytes(data)]  # minidask's own worker checks the bytes against the id, and you?
                del self._fetching[first]
                self._send([HAVE_BLOB, first])
        elif code == NO_BLOB:  # the scheduler names another source then, or says BlobLost
            self._fetching.pop(first, None)
            self._send([FETCH_FAILED, first, "", "the scheduler had none"])
        elif code == BLOB_LOST:
            self._lost.add(first)

    def _begin_one(self) -> None:
        """Begin the first call whose blobs are all there. One whose blobs cannot be had is told, and never begins."""
        for index, ((task, attempt, _, _, timeout, blobs, *_), payload) in enumerate(self._waiting):
            if self._lost.isdisjoint(blobs) and not self._blobs.keys() >= set(blobs):
                continue
            del self._waiting[index]
            if not self._lost.isdisjoint(blobs):
                self._send([STOPPED, task, attempt, "no-data", "its data cannot be had"])
                return
            self._running, self._ends = [task, attempt], time.monotonic() + (timeout or float("inf"))
            self._pipe.send((payload, {blob: self._blobs[blob] for blob in blobs}))
            return

    def _call_ended(self) -> None:
        attempt, self._running = self._running, []
        try:
            payload, seconds, trace = self._pipe.recv()
        except (EOFError, OSError):
            self._slot.join()
            self._send([DIED, *attempt, f"exit code {self._slot.exitcode}", ""])
            self._start_slot()
            return
        self._send([DONE, *attempt, seconds] if trace is None else [FAILED, *attempt, seconds, trace], payload)

    def _stop(self, reason: str) -> None:
        attempt, self._running = self._running, []
        self._slot.kill()
        self._start_slot()
        self._send([STOPPED, *attempt, reason, ""])


def main() -> None:
    digits, *words = Path(sys.argv[1]).read_text().split()
    secret = bytes.fromhex(digits)
    sock, binding = connect(next(word for word in words if word.startswith("tcp://")), secret)
    frames, python = Frames(sock), platform.python_version()
    about = {"name": "from-scratch", "host": platform.node(), "pid": os.getpid(), "slots": 1, "python": python}
    welcome = shake_hands(frames, secret, binding, {**about, "uid": os.urandom(8).hex()})
    print(f"joined a scheduler of minidask {welcome['version']}", flush=True)
    Worker(frames).serve(welcome["heartbeat_timeout"])


if __name__ == "__main__":
    main()
