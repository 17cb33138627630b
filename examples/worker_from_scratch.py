"""A minidask worker in one file: it joins a scheduler, and runs one task at a time.

    python examples/worker_from_scratch.py ACCESS_FILE

It follows docs/protocol.md, with the standard library, msgpack and cloudpickle, and `cryptography` for the certificate.
It takes nothing from minidask. But what a task's pickle names is imported: joblib's calls name `minidask.task.batch`.

                         worker              slot, a process of its own
    scheduler ── Run ──────────────── pipe ──► unpickle, call, pickle
    scheduler ◄─ Done, Failed ◄────── pipe ──┘
              ◄─ Died      the pipe has ended: the task has killed its process
              ◄─ Stopped   Stop has come, or the time is up: the worker kills the slot

minidask's own worker also has several slots, limits of memory, tasks within tasks, and it outlives its scheduler.
"""

import functools
import hmac
import io
import multiprocessing
import os
import pickle
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
pack = functools.partial(msgpack.packb, unicode_errors="surrogatepass")


class Frames:
    """Frames over a socket: a magic, lengths, a header in msgpack, buffers."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock

    def send(self, header: list, buffers: list[bytes] | None = None) -> None:
        buffers, packed = buffers or [], pack(header)
        head = struct.pack(f"<2sHI{len(buffers)}Q", b"mD", len(buffers), len(packed), *map(len, buffers))
        self._sock.sendall(b"".join([head, packed, *buffers]))

    def next(self, seconds: float | None = None) -> tuple[list, list[bytes]]:
        """Wait for a frame. Returns its header and its buffers; of the header only None if none comes in time."""
        if not self._sock.pending() and not select.select([self._sock], [], [], seconds)[0]:
            return [None], []
        _, count, size = struct.unpack("<2sHI", self._read(8))  # the magic is for those without TLS
        sizes = struct.unpack(f"<{count}Q", self._read(8 * count))
        header = msgpack.unpackb(self._read(size), unicode_errors="surrogatepass")
        return header, [self._read(each) for each in sizes]

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            if not (piece := self._sock.recv(size - len(data))):
                raise ConnectionError("the scheduler closed the connection")
            data += piece
        return bytes(data)


def connect(address: str, secret: bytes) -> tuple[Frames, bytes]:
    """Connect over TLS: all who hold the secret show the same certificate. Returns the frames, and the binding."""
    key = Ed25519PrivateKey.from_private_bytes(HKDF(hashes.SHA256(), 32, None, b"minidask tls key 1").derive(secret))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "minidask")])
    lifetime = datetime(1970, 1, 1), datetime(9999, 12, 31, 23, 59, 59)
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, *lifetime).sign(key, None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # a peer is known by the secret that it holds
    context.load_verify_locations(cadata=certificate.public_bytes(serialization.Encoding.DER))
    with tempfile.NamedTemporaryFile(buffering=0) as file:  # ssl takes keys by a path alone
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file.write(certificate.public_bytes(pem) + private)
        context.load_cert_chain(file.name)
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    sock = context.wrap_socket(socket.create_connection((host.strip("[]"), int(port))))
    return Frames(sock), 2 * certificate.fingerprint(hashes.SHA256())  # both ends show it: any other one fails a proof


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


def run_slot(pipe) -> None:
    """Run calls until the pipe ends. A call comes as its payload, and those of the blobs that it names."""
    while True:
        payload, blobs = pipe.recv()
        began = time.monotonic()
        try:
            function, args, kwargs = load(payload, blobs)
            code, outcome, trace = DONE, cloudpickle.dumps(function(*args, **kwargs)), []
        except BaseException as error:  # noqa: BLE001 - SystemExit too: it is the task's, and no end of the slot
            code, trace = FAILED, [traceback.format_exc()]
            try:
                outcome = cloudpickle.dumps((error, []))
            except Exception:  # noqa: BLE001 - whatever its own code raises
                outcome = pickle.dumps((None, ["its exception cannot be pickled"]))
        pipe.send((code, [time.monotonic() - began, *trace], [outcome]))


def load(payload: list[bytes], blobs: dict[bytes, list[bytes]], resolve=None) -> object:
    """Unpickle a payload: see "Payloads". A blob that it names is unpickled once for a task: `resolve` returns it."""
    resolve = resolve or functools.cache(lambda blob: load(blobs[blob], blobs, resolve))

    def buffer(beside: bytes) -> bytes | bytearray:
        if len(beside) >= 32 * 1024:
            return beside
        data = b"".join(blobs[beside[i : i + 16]][0] for i in range(0, len(beside) - 1, 16))  # it names blobs
        return bytearray(data) if beside.endswith(b"c") else data

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            is_blob = name in ("resolve_blob", "resolve_copy") and module == "minidask.pickling.payload"
            return resolve if is_blob else super().find_class(module, name)

    return Unpickler(io.BytesIO(payload[0]), buffers=map(buffer, payload[1:])).load()


class Worker:
    """One connection to a scheduler, and one slot."""

    def __init__(self, frames: Frames) -> None:
        self._send, self._next = frames.send, frames.next
        self._calls: list[list] = []  # Runs without an answer, of which the first may run: their fields, and payload
        self._ends = 0.0  # when its time is up; 0: it waits for its data
        self._blobs: dict[bytes, list[bytes]] = {}  # of one that cannot be had: []
        self._fetching: dict[bytes, tuple[bytearray, int]] = {}  # what has come, and the size of all
        self._start_slot()

    def _start_slot(self) -> None:
        self._pipe, end = multiprocessing.Pipe()
        self._slot = multiprocessing.get_context("spawn").Process(target=run_slot, args=(end,), daemon=True)
        self._slot.start()  # spawned: nothing of this process is in it
        end.close()  # now the pipe ends with the slot

    def serve(self, heartbeat_timeout: float) -> None:
        """Run tasks until the scheduler says that this is the end."""
        told = 0.0
        while True:
            if time.monotonic() > told + heartbeat_timeout / 3:
                told = time.monotonic()
                self._send([HEARTBEAT, 0, 0])
            header, payload = self._next(0.002 if self._ends else 0.1)
            if header[0] in (SHUTDOWN, GOODBYE):
                return
            self._handle(payload, *header)
            if self._calls and not self._ends:
                self._begin()
            if self._ends and self._pipe.poll():
                self._call_ended()
            if 0 < self._ends < time.monotonic():
                self._stop("timeout", self._calls[0])

    def _handle(self, payload: list[bytes], code: int | None, first: object = None, *more) -> None:
        if code == RUN:
            self._calls.append([first, *more, payload])
        elif code == STOP:
            for call in [call for call in self._calls if call[:2] == [first, *more]]:
                self._stop("cancelled", call)
        elif code in (PUT_BLOB, BLOB_LOST):
            self._blobs[first] = payload
        elif code == RELEASE_BLOBS:
            self._blobs = {blob: data for blob, data in self._blobs.items() if blob not in first}
        elif code == NO_BLOB or (code == NEED_BLOB and more[1]):  # another worker has it
            self._fetching.pop(first, None)
            self._send([FETCH_FAILED, first, more[1] if code == NEED_BLOB else "", "it asks the scheduler alone"])
        elif code in (NEED_BLOB, CHUNK):
            data, size = self._fetching.setdefault(first, (bytearray(), more[0]))
            data += b"".join(payload)
            if len(data) < size:
                self._send([FETCH_CHUNK, first, len(data), min(1 << 20, size - len(data)), 0])
            else:
                self._blobs[first] = [bytes(data)]  # minidask's own worker checks the bytes against the id, and you?
                del self._fetching[first]
                self._send([HAVE_BLOB, first])

    def _begin(self) -> None:
        """Begin the first call if its data is there."""
        _, _, _, _, timeout, needed, *_, payload = call = self._calls[0]
        blobs = {blob: self._blobs[blob] for blob in needed if blob in self._blobs}
        if not all(blobs.values()):
            self._answer(call, STOPPED, ["no-data", "its data cannot be had"])
        elif len(blobs) == len(set(needed)):
            self._ends = time.monotonic() + (timeout or float("inf"))
            self._pipe.send((payload, blobs))

    def _answer(self, call: list, code: int, fields: list, payload: list[bytes] | None = None) -> None:
        self._ends = 0.0 if call is self._calls[0] else self._ends
        self._calls.remove(call)
        self._send([code, *call[:2], *fields], payload)

    def _call_ended(self) -> None:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):  # its process has ended
            self._slot.join()
            answer = DIED, [f"exit code {self._slot.exitcode}", ""]
            self._start_slot()
        self._answer(self._calls[0], *answer)

    def _stop(self, reason: str, call: list) -> None:
        if self._ends and call is self._calls[0]:
            self._slot.kill()
            self._start_slot()
        self._answer(call, STOPPED, [reason, ""])


def main() -> None:
    digits, *_, address = Path(sys.argv[1]).read_text().split()
    frames, binding = connect(address, secret := bytes.fromhex(digits))
    about = {"name": "from-scratch", "slots": 1, "python": sys.version.split()[0], "uid": os.urandom(8).hex()}
    welcome = shake_hands(frames, secret, binding, about)
    print(f"joined a scheduler of minidask {welcome['version']}", flush=True)
    Worker(frames).serve(welcome["heartbeat_timeout"])


if __name__ == "__main__":
    main()
