"""The checks of a worker: the kit is its scheduler."""

from __future__ import annotations

import builtins
import itertools
import pickle
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minidask._version import __version__
from minidask.errors import MinidaskError
from minidask.wire import messages as m
from minidask.wire.infos import WorkerInfo, checked
from minidask.wire.large import CHUNK_BYTES, blob_id

from .checks import Checks, Differs, Stage, expect
from .peer import Peer, acceptor

CHECKS = Checks()
SECONDS = 20.0
OUTCOMES = (m.Done, m.Failed, m.Died, m.Stopped, m.GaveBack)


class WorkerStage(Stage):
    """A scheduler for one worker, which joins when a check first needs it."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        super().__init__(command, folder)
        self._worker: Peer | None = None
        self._numbers = itertools.count(1)
        self._put: set[bytes] = set()
        self.seen: list[m.Message] = []

    def fresh(self, heartbeat_timeout: float = 60.0) -> Peer:
        """Start the program, and let it join."""
        self.start()
        welcome = {"version": __version__, "heartbeat_timeout": heartbeat_timeout, "shutdown": False}
        self._worker = Peer.accept(self.listener, self.credentials, SECONDS)
        self._worker.shake(acceptor(self.credentials, welcome), SECONDS)
        return self._worker

    @property
    def worker(self) -> Peer:
        """The worker, which has joined."""
        if self._worker is None or not self.runs:
            return self.fresh()
        return self._worker

    def end(self) -> None:
        """End the program, and its connection."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        self.seen, self._put = [], set()
        super().end()

    def run(self, text: str, *blobs: bytes, timeout: float | None = None, buffers: Sequence[bytes] = ()) -> int:
        """Send a Run of a call of `eval`, or of a whole pickle. Returns its task; the attempt is 1."""
        return self.run_pickle(pickle.dumps((builtins.eval, (text,), {}), 5), *blobs, timeout=timeout, buffers=buffers)

    def run_pickle(
        self,
        pickled: bytes,
        *blobs: bytes,
        timeout: float | None = None,
        buffers: Sequence[bytes] = (),
        name: str = "t",
    ) -> int:
        """Send a Run of a pickle."""
        task = next(self._numbers)
        if blobs:
            blobs = (self._session(), *blobs)
        self.worker.say(m.Run(task, 1, 1, name, timeout, list(blobs), 0, False, [pickled, *buffers]))
        return task

    def _session(self) -> bytes:
        """Put the session, which comes first among the blobs of a call: a caller with the worker's own Python."""
        version = str(self.worker.peer_info.get("python") or platform.python_version())
        python = [int(part) for part in version.split(".")[:2]]
        paths: dict[str, Any] = {"path": [], "path_after": [], "directory": "", "executable": ""}
        payload: m.Payload = [
            pickle.dumps({**paths, "python": python, "version": version, "log_level": 30, "code": b""}, 5)
        ]
        name = blob_id(payload)
        if name not in self._put:
            self._put.add(name)
            self.worker.say(m.PutBlob(name, payload))
        return name

    def wait(self, kinds: type | tuple[type, ...], task: int | None = None, seconds: float = SECONDS) -> Any:
        """Wait for a message of some kinds, and of a task if one is named; others are kept in `seen`."""
        end = time.monotonic() + seconds
        while True:
            message = self.worker.next(end - time.monotonic())
            self.seen.append(message)
            if isinstance(message, kinds) and task in (None, getattr(message, "task", None)):
                return message

    def ends(self, task: int, kind: type) -> Any:
        """Wait for the answer to a Run, which has to be of a kind."""
        found = self.wait(OUTCOMES, task)
        expect(isinstance(found, kind), f"it answered {str(found)[:200]}")
        return found

    def returns(self, task: int, value: object) -> None:
        """Expect that a call returns a value."""
        found = pickle.loads(self.ends(task, m.Done).payload[0])
        expect(found == value, f"the result was {found!r} instead of {value!r}")


@CHECKS("Handshake")
def info(stage: WorkerStage) -> None:
    """hello, proof and an info whose declared keys have the declared types, with one slot or more."""
    about, _ = checked(WorkerInfo, stage.fresh().peer_info)
    role = getattr(stage.worker.handshake, "role", "")
    expect(role == "worker" and about.slots, f"its role was {role!r}, and its slots {about.slots}")


@CHECKS("Handshake")
def secret(stage: WorkerStage) -> None:
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


@CHECKS("Encryption")
def certificate(stage: WorkerStage) -> None:
    """it accepts no other certificate than that of its secret."""
    stage.start()
    try:
        peer = Peer.accept(stage.listener, stage.strangers, SECONDS)
    except (OSError, MinidaskError):
        stage.end()
        return
    peer.close()
    raise Differs("it accepted the certificate of another secret")


@CHECKS("Worker to scheduler")
def done(stage: WorkerStage) -> None:
    """Run of a call that returns is answered by Done with its pickled value."""
    stage.returns(stage.run_pickle(pickle.dumps((pow, (2, 10), {}), 5)), 1024)


@CHECKS("Payloads")
def failed(stage: WorkerStage) -> None:
    """a call that raises is answered by Failed, with its traceback and the pair (exception, notes)."""
    found = stage.ends(stage.run("1 / 0"), m.Failed)
    error, notes = pickle.loads(found.payload[0])
    expect(isinstance(error, ZeroDivisionError) and isinstance(notes, list), f"the pair was {(error, notes)!r}")
    expect("ZeroDivisionError" in found.traceback, f"the traceback was {found.traceback!r}")


@CHECKS("Payloads")
def unpicklable_exception(stage: WorkerStage) -> None:
    """an exception that does not pickle is None in the pair, with lines of text."""
    text = "(_ for _ in ()).throw(type('E', (Exception,), {'__reduce__': lambda s: 1 / 0})('odd'))"
    error, notes = pickle.loads(stage.ends(stage.run(text), m.Failed).payload[0])
    expect(error is None and isinstance(notes, list), f"the pair was {(error, notes)!r}")


@CHECKS("What happens when")
def system_exit(stage: WorkerStage) -> None:
    """a call that calls sys.exit has raised: Failed."""
    stage.ends(stage.run("__import__('sys').exit(3)"), m.Failed)


@CHECKS("Worker to scheduler")
def died(stage: WorkerStage) -> None:
    """a call that ends its process is answered by Died, and the next one runs."""
    found = stage.ends(stage.run("__import__('os')._exit(3)"), m.Died)
    expect("3" in found.how, f"it does not tell the exit code: {found.how!r}")
    stage.returns(stage.run("1 + 1"), 2)


@CHECKS("Scheduler to worker")
def stop_of_a_running_call(stage: WorkerStage) -> None:
    """Stop of a call that runs is answered by Stopped, reason "cancelled", and the next one runs."""
    mark = stage.folder / "began"
    task = stage.run(f"(open({str(mark)!r}, 'w').close(), __import__('time').sleep(600))")
    end = time.monotonic() + SECONDS
    while not mark.exists() and time.monotonic() < end:
        time.sleep(0.01)
    stage.worker.say(m.Stop(task, 1))
    found = stage.ends(task, m.Stopped)
    expect(found.reason == "cancelled", f"the reason was {found.reason!r}")
    stage.returns(stage.run("1 + 1"), 2)


@CHECKS("What happens when")
def time_limit(stage: WorkerStage) -> None:
    """a call that runs longer than its timeout is answered by Stopped, reason "timeout"."""
    found = stage.ends(stage.run("__import__('time').sleep(600)", timeout=0.2), m.Stopped)
    expect(found.reason == "timeout", f"the reason was {found.reason!r}")


@CHECKS("Messages")
def int_for_float(stage: WorkerStage) -> None:
    """an integer goes for a float."""
    stage.returns(stage.run("1 + 1", timeout=30), 2)


@CHECKS("Worker to scheduler")
def one_answer_for_each_run(stage: WorkerStage) -> None:
    """more Runs than slots are each answered once."""
    tasks = [stage.run(str(number)) for number in range(30)]
    answers = [stage.wait(OUTCOMES).task for _ in tasks]
    stage.returns(stage.run("1 + 1"), 2)
    expect(sorted(answers) == tasks, f"the answers were for {sorted(answers)} instead of {tasks}")


@CHECKS("Payloads")
def blob(stage: WorkerStage) -> None:
    """resolve_blob gives the object of a blob that was put, the same one each time in a call."""
    payload: m.Payload = [pickle.dumps([1, 2, 3], 5)]
    name = blob_id(payload)
    stage.worker.say(m.PutBlob(name, payload))
    # (eval, ("a is b", {"a": blob, "b": blob}), {}), with calls of resolve_blob in the place of the objects
    resolved = b"cminidask.pickling.payload\nresolve_blob\nC\x10" + name + b"\x85R"
    call = b"\x80\x05cbuiltins\neval\n(X\x10\x00\x00\x00[a is b, len(a)]}(U\x01a" + resolved + b"U\x01b" + resolved
    stage.returns(stage.run_pickle(call + b"ut}\x87.", name), [True, 3])
    stage.worker.say(m.ReleaseBlobs([name]))


def _large(stage: WorkerStage, data: bytes) -> tuple[bytes, int]:
    """Announce a blob of one buffer that has to be fetched, and send a Run that needs it, as a reference."""
    name = blob_id([data])
    stage.worker.say(m.NeedBlob(name, len(data), "", []))
    call = b"\x80\x05cbuiltins\nlen\n\x97\x85}\x87."
    return name, stage.run_pickle(call, name, buffers=[name + b"r"])


@CHECKS("Large data, chunk by chunk")
def fetch(stage: WorkerStage) -> None:
    """NeedBlob with an empty source is followed by FetchChunk within the blob, HaveBlob, and the Run that waited."""
    data = bytes(range(256)) * (2 * CHUNK_BYTES // 256) + b"end"
    name, task = _large(stage, data)
    while isinstance(asked := stage.wait((m.FetchChunk, m.HaveBlob)), m.FetchChunk):
        expect(asked.offset + asked.size <= len(data) and asked.blob == name, f"it asked for {asked}")
        stage.worker.say(m.Chunk(name, asked.offset, 0, [data[asked.offset :][: asked.size]]))
    stage.returns(task, len(data))


@CHECKS("Large data, chunk by chunk")
def no_blob(stage: WorkerStage) -> None:
    """NoBlob is answered by FetchFailed, and BlobLost by Stopped, reason "no-data"."""
    name, task = _large(stage, b"x" * CHUNK_BYTES)
    stage.wait(m.FetchChunk)
    stage.worker.say(m.NoBlob(name, 0, "gone"))
    stage.wait(m.FetchFailed)
    stage.worker.say(m.BlobLost(name, "gone"))
    found = stage.ends(task, m.Stopped)
    expect(found.reason == "no-data", f"the reason was {found.reason!r}")


@CHECKS("Large data, chunk by chunk", "full")
def wrong_bytes(stage: WorkerStage) -> None:
    """bytes that are not what the id says are answered by FetchFailed."""
    data = b"y" * CHUNK_BYTES
    name, task = _large(stage, data)
    stage.wait(m.FetchChunk)
    stage.worker.say(m.Chunk(name, 0, 0, [b"z" * len(data)]))
    stage.wait(m.FetchFailed)
    stage.worker.say(m.BlobLost(name, "gone"))
    stage.ends(task, m.Stopped)


@CHECKS("Text")
def lone_surrogates(stage: WorkerStage) -> None:
    """the name of a task may have lone surrogates."""
    stage.returns(stage.run_pickle(pickle.dumps((pow, (3, 2), {}), 5), name="\udcff"), 9)


@CHECKS("Scheduler to worker")
def notice(stage: WorkerStage) -> None:
    """Notice and Heartbeat disturb nothing."""
    stage.worker.say(m.Notice("a line for the log"), m.Heartbeat(0, 1))
    stage.returns(stage.run("1 + 1"), 2)


@CHECKS("Scheduler to worker", "full")
def restart(stage: WorkerStage) -> None:
    """Restart is answered by Restarted with its number."""
    stage.worker.say(m.Restart(7))
    expect(stage.wait(m.Restarted).request == 7, "the number was another one")


@CHECKS("Worker to scheduler")
def heartbeat(stage: WorkerStage) -> None:
    """Heartbeat comes within heartbeat_timeout seconds, again and again."""
    worker = stage.fresh(3.0)
    for _ in range(2):
        stage.wait(m.Heartbeat, seconds=3.0)
        worker.say(m.Heartbeat(0, 0))
    stage.end()


@CHECKS("Scheduler to worker")
def shutdown(stage: WorkerStage) -> None:
    """Shutdown ends it."""
    stage.worker.say(m.Shutdown())
    stage.exit_code(SECONDS)
    stage.end()
