"""The checks of a client: the kit is its scheduler and its workers, and computes `pow` itself."""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minidask.wire import messages as m
from minidask.wire.codec import encode
from minidask.wire.frames import Buffer
from minidask.wire.infos import ClientInfo, checked
from minidask.wire.large import CHUNK_BYTES, OUT_OF_BAND_BYTES
from minidask.wire.observing import Explain, Subscribe

from .checks import Checks, NotRun, expect
from .initiators import SECONDS, InitiatorStage, add_those_of_initiators
from .peer import Peer, Silent, handshake_frame

CHECKS = Checks()
QUIET_SECONDS = 0.5
NODE = m.WorkerRow("tcp://127.0.0.1:1", "kit", 2, {})
ASKER = 7  # the number of the worker that asks the client for data


class ClientStage(InitiatorStage):
    """A scheduler for one client. Each check starts the program anew, but those that look at a whole run share one."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        super().__init__(command, folder)
        self._client: Peer | None = None
        self.seen: list[m.Message] = []
        self.data: dict[bytes, list[bytes]] = {}
        self._whole = self.seen, self.data

    @property
    def client(self) -> Peer:
        """The client, which has connected."""
        assert self._client is not None
        return self._client

    def join(self, *more: m.WorkerRow) -> Peer:
        """Start the program, let it connect, and tell it of a worker with two slots."""
        self.start()
        self.seen, self.data = [], {}
        return self.join_again(*more)

    def join_again(self, *more: m.WorkerRow) -> Peer:
        """Let the program connect once more."""
        self._client = self.accept()
        self._client.say(m.Workers([NODE, *more]))
        return self._client

    def end(self) -> None:
        """End the program, and its connection."""
        if self._client is not None:
            self._client.close()
            self._client = None
        super().end()

    def between(self) -> None:
        """Every check has a program of its own."""
        self.end()

    def submitted(self) -> list[m.Submit]:
        """Wait until the client has submitted, and then says nothing for a moment. Returns its tasks."""
        tasks: list[m.Submit] = []
        while True:
            try:
                message = self._next(QUIET_SECONDS if tasks else SECONDS)
            except Silent:
                expect(tasks, "it submitted nothing")
                return tasks
            if isinstance(message, m.Submit):
                tasks.append(message)

    def _next(self, seconds: float) -> m.Message:
        message = self.client.next(seconds)
        self.seen.append(message)
        if isinstance(message, m.PutBlob):
            self.data[message.blob] = [bytes(buffer) for buffer in message.payload]
        if isinstance(message, m.Ask | m.Restart):
            self.client.say(m.Answer(message.request, {}))
        return message

    def value(self, task: m.Submit) -> Any:
        """What the call of a task returns: it is made here."""
        function, args, kwargs = self.call(task)
        return function(*args, **kwargs)

    def call(self, task: m.Submit) -> Any:
        """The call of a task, which should be a function, a tuple and a dict."""
        return pickle.loads(task.payload[0], buffers=[self._buffer(beside) for beside in task.payload[1:]])

    def _buffer(self, buffer: Buffer) -> bytes:
        beside = bytes(buffer)
        if len(beside) >= OUT_OF_BAND_BYTES:
            return beside
        return b"".join(self.fetched(beside[at : at + 16]) for at in range(0, len(beside) - 1, 16))

    def fetched(self, blob: bytes) -> bytes:
        """The one buffer of a blob: it is asked for, if the client has only offered it."""
        offer = next((seen for seen in self.seen if isinstance(seen, m.OfferBlob) and seen.blob == blob), None)
        if blob not in self.data and offer is not None:
            data = b""
            while len(data) < offer.size:
                self.client.say(m.FetchChunk(blob, len(data), min(CHUNK_BYTES, offer.size - len(data)), ASKER))
                chunk = self.wait(m.Chunk)
                expect((chunk.blob, chunk.offset, chunk.peer) == (blob, len(data), ASKER), f"a Chunk had {chunk[:3]}")
                expect(chunk.payload and len(chunk.payload[0]), "a Chunk had no bytes")
                data += bytes(chunk.payload[0])
            self.data[blob] = [data]
        expect(blob in self.data, "a Submit names a blob that was neither put nor offered")
        return self.data[blob][0]

    def wait(self, *kinds: type) -> Any:
        """Wait for a message of some kinds."""
        end = time.monotonic() + SECONDS
        while not isinstance(message := self._next(end - time.monotonic()), kinds):
            pass
        return message

    def done(self, task: m.Submit, duration: float = 0.25) -> m.TaskDone:
        """The outcome of a task."""
        return m.TaskDone(task.task, duration, NODE.name, [pickle.dumps(self.value(task), 5)])

    def finish(self, tasks: Sequence[m.Submit] = (), *, well: bool = True) -> None:
        """Give these tasks their outcomes, and all that follow. The program has to end with exit code 0, or not so."""
        with contextlib.suppress(ConnectionError, Silent):  # it may end at the first error
            for task in tasks:
                self.client.say(self.done(task))
            while True:
                message = self._next(SECONDS)
                if isinstance(message, m.Submit):
                    self.client.say(self.done(message))
        self.client.close()
        code = self.exit_code(SECONDS)
        expect((code == 0) is well, f"its exit code was {code}")

    def whole(self) -> list[m.Message]:
        """All that the client says in a run that goes well."""
        if not self._whole[0]:
            self.join()
            self.finish(self.submitted())
            self._whole = self.seen, self.data
        self.seen, self.data = self._whole
        return self.seen

    def tasks(self) -> Iterator[tuple[m.Submit, list[m.Message]]]:
        """The tasks of such a run, each with what was said before it."""
        whole = self.whole()
        return ((said, whole[:place]) for place, said in enumerate(whole) if isinstance(said, m.Submit))


def numbers(seen: Sequence[m.Message], added: type | tuple[type, ...], removed: type) -> set[Any]:
    """The blobs or groups, as their first fields say, that some messages have added and others not removed."""
    there: set[Any] = set()
    for message in seen:
        first: Any = message[0] if message else None
        if isinstance(message, added):
            there.add(first)
        elif isinstance(message, removed):
            there.difference_update(first if isinstance(first, list) else [first])
    return there


@CHECKS("Handshake")
def info(stage: ClientStage) -> None:
    """hello with the role "client", proof, and an info whose declared keys have the declared types."""
    checked(ClientInfo, stage.join().peer_info)
    role = getattr(stage.client.handshake, "role", "")
    expect(role == "client", f"its role was {role!r}")


add_those_of_initiators(CHECKS)


@CHECKS("Handshake")
def refused(stage: ClientStage) -> None:
    """refuse ends it, with an exit code other than 0."""
    stage.start()
    peer = Peer.accept(stage.listener, stage.credentials, SECONDS)
    peer.next_frame()
    peer.say_bytes(handshake_frame("refuse", "authentication", "for a test"))
    expect(peer.is_closed(SECONDS), "it goes on")
    peer.close()
    expect(stage.exit_code(SECONDS) != 0, "its exit code was 0")


@CHECKS("Messages")
def messages(stage: ClientStage) -> None:
    """all that it says is a message of a client's, with the fields that the tables say."""
    may = (
        m.PutBlob | m.OfferBlob | m.ReleaseBlobs | m.OpenGroup | m.CloseGroup | m.Submit | m.Cancel | m.Ask | m.Shutdown
        | m.Resubmitted | m.Restart | Subscribe | Explain | m.CancelAll | m.FetchChunk | m.Chunk | m.NoBlob
        | m.ResultTaken | m.RanInline | m.Goodbye | m.Heartbeat
    )  # fmt: skip
    odd = [type(said).__name__ for said in stage.whole() if not isinstance(said, may)]
    expect(not odd, f"it said {', '.join(odd)}")


@CHECKS("Client to scheduler")
def numbers_of_tasks(stage: ClientStage) -> None:
    """the numbers of its tasks differ."""
    found = [task.task for task, _ in stage.tasks()]
    expect(len(set(found)) == len(found), f"two tasks had one number, of {found}")


@CHECKS("Client to scheduler")
def several_at_once(stage: ClientStage) -> None:
    """it submits several calls before it waits for an outcome."""
    stage.join()
    found = len(stage.submitted())
    expect(found > 1, f"it submitted {found}")


@CHECKS("Client to scheduler")
def groups(stage: ClientStage) -> None:
    """a Submit names no group but 0, or one that is open."""
    for task, before in stage.tasks():
        there = numbers(before, m.OpenGroup, m.CloseGroup)
        expect(task.group in {0, *there}, f"task {task.task} is of group {task.group}")


@CHECKS("Client to scheduler")
def blobs(stage: ClientStage) -> None:
    """a Submit names only blobs that were put or offered, and not released."""
    for task, before in stage.tasks():
        there = numbers(before, (m.PutBlob, m.OfferBlob), m.ReleaseBlobs)
        expect(there.issuperset(task.blobs), f"task {task.task} names another one")


@CHECKS("The session")
def session(stage: ClientStage) -> None:
    """the first of a task's blobs is a session, with the declared entries."""
    needed = {"python", "version", "path", "path_after", "directory", "log_level", "code"}
    for task, _ in stage.tasks():
        if task.blobs:
            value = pickle.loads(stage.data[task.blobs[0]][0])
            expect(isinstance(value, dict) and needed <= value.keys(), f"its value is {str(value)[:200]}")


@CHECKS("Payloads")
def payload(stage: ClientStage) -> None:
    """a call is the pickle of (function, args, kwargs)."""
    for task, _ in stage.tasks():
        found = stage.call(task)
        kinds = [type(part).__name__ for part in found] if isinstance(found, tuple) else [type(found).__name__]
        expect(kinds[1:] == ["tuple", "dict"] and callable(found[0]), f"it was a pickle of {', '.join(kinds)}")


@CHECKS("Scheduler to client")
def outcomes(stage: ClientStage) -> None:
    """with TaskDone for each task it ends with exit code 0, and closes the connection."""
    stage.whole()


@CHECKS("Scheduler to client")
def outcomes_in_any_order(stage: ClientStage) -> None:
    """the outcomes may come in another order than the tasks."""
    stage.join()
    stage.finish(stage.submitted()[::-1])


@CHECKS("Scheduler to client")
def raised(stage: ClientStage) -> None:
    """TaskRaised is an error of its task: the exit code is not 0."""
    stage.join()
    first, *others = stage.submitted()
    error = pickle.dumps((ZeroDivisionError("for a test"), []), 5)
    stage.client.say(m.TaskRaised(first.task, 0.1, NODE.name, "ZeroDivisionError: for a test", [error]))
    stage.finish(others, well=False)


@CHECKS("Scheduler to client")
def lost(stage: ClientStage) -> None:
    """TaskLost is an error of its task, with any reason."""
    for reason in ("killed", "a reason of a later version"):
        stage.join()
        first, *others = stage.submitted()
        stage.client.say(m.TaskLost(first.task, reason, "for a test"))
        stage.finish(others, well=False)


@CHECKS("Scheduler to client")
def goodbye(stage: ClientStage) -> None:
    """after Goodbye it does not connect again, and its tasks have no outcome."""
    stage.join()
    stage.submitted()
    stage.client.say(m.Goodbye("for a test"))
    stage.client.close()
    expect(stage.exit_code(SECONDS) != 0, "its exit code was 0")


@CHECKS("Scheduler to client")
def other_messages(stage: ClientStage) -> None:
    """what a client need not know disturbs nothing: workers, output, heartbeats, messages of tasks."""
    stage.join()
    tasks = stage.submitted()
    stage.client.say(
        m.Heartbeat(0, 1),
        m.WorkerChanged(NODE.address, NODE.name, 3, {"python": "3.11.7", "a package": "1"}),
        m.WorkerChanged("tcp://127.0.0.1:2", "two", 1, {}),
        m.WorkerChanged("tcp://127.0.0.1:2", "two", None, {}),
        m.TaskOutput(NODE.name, "stdout", "a line\n"),
        m.CallerMessage("a channel of a later version", [b"x"]),
    )
    stage.finish(tasks)


@CHECKS("Messages")
def int_for_float(stage: ClientStage) -> None:
    """an integer goes for a float."""
    stage.join()
    first, *others = stage.submitted()
    stage.client.say(stage.done(first, duration=0))
    stage.finish(others)


@CHECKS("Frames")
def pieces(stage: ClientStage) -> None:
    """frames come in any pieces: several in one, and one in many."""
    stage.join()
    tasks = stage.submitted()
    data = b"".join(bytes(piece) for task in tasks for piece in encode(stage.done(task)))
    half = len(data) // 2
    stage.client.say_bytes(data[:half])
    for byte in data[half : half + 200]:
        stage.client.say_bytes(bytes([byte]))
    stage.client.say_bytes(data[half + 200 :])
    stage.finish()


@CHECKS("Frames")
def large_headers(stage: ClientStage) -> None:
    """a header may have more than 64 KiB, and its lists and texts any length."""
    many = [m.WorkerRow(f"tcp://127.0.0.1:{port}", f"n{port}" + "x" * 300, 1, {}) for port in range(2, 302)]
    stage.join(*many)
    stage.finish(stage.submitted())


@CHECKS("Text")
def lone_surrogates(stage: ClientStage) -> None:
    """a text may have lone surrogates."""
    stage.join(m.WorkerRow("tcp://127.0.0.1:2", "\udcff", 1, {}))
    stage.finish(stage.submitted())


# --- a full client ---


def beside(task: m.Submit, stage: ClientStage, size: int) -> tuple[bytes, bytes]:
    """The result of a call, a whole number, as the pickle of a call of int.from_bytes with a buffer beside it."""
    value = stage.value(task)
    data = int(value).to_bytes(size, "little")
    return b"\x80\x05\x8c\x08builtins\x8c\x0eint.from_bytes\x93\x97\x8c\x06little\x86R.", data


@CHECKS("Payloads", "full")
def buffers_of_results(stage: ClientStage) -> None:
    """the buffers of a result are those of its pickle, out of band."""
    stage.join()
    first, *others = stage.submitted()
    pickled, data = beside(first, stage, OUT_OF_BAND_BYTES)
    stage.client.say(m.TaskDone(first.task, 0.1, NODE.name, [pickled, data]))
    stage.finish(others)


@CHECKS("Large results", "full")
def large_results(stage: ClientStage) -> None:
    """ResultOffered is answered by FetchChunk for all of it, and ResultTaken; the result names the data."""
    stage.join()
    first, *others = stage.submitted()
    pickled, data = beside(first, stage, CHUNK_BYTES + 100)
    name = b"a large result.."
    stage.client.say(m.ResultOffered(first.task, name, len(data), ASKER))
    missing = len(data)
    while not isinstance(asked := stage.wait(m.FetchChunk, m.ResultTaken), m.ResultTaken):
        expect((asked.blob, asked.peer) == (name, ASKER), f"it asked for {asked}")
        stage.client.say(m.Chunk(name, asked.offset, ASKER, [data[asked.offset :][: asked.size]]))
        missing -= asked.size
    expect((asked, missing) == (m.ResultTaken(name, ASKER), 0), f"it said {asked} with {missing} bytes to come")
    stage.client.say(m.TaskDone(first.task, 0.1, NODE.name, [pickled, name + b"w"]))
    stage.finish(others)


@CHECKS("Large data, chunk by chunk", "full")
def offered_data(stage: ClientStage) -> None:
    """data that it offers is there when it is asked for, and no data is answered by NoBlob."""
    offers = [said for said in stage.whole() if isinstance(said, m.OfferBlob)]
    if not offers:
        raise NotRun("it offers no data: let it submit a call with an argument of 2 MiB")
    stage.join()
    tasks = stage.submitted()
    stage.client.say(m.FetchChunk(b"nobody's data...", 0, 1, ASKER))
    expect(stage.wait(m.NoBlob).peer == ASKER, "its NoBlob was for another one")
    stage.finish(tasks)


@CHECKS("A lost scheduler", "full")
def reconnects(stage: ClientStage) -> None:
    """cut off, it connects again with its keys, submits what has no outcome under the old numbers, then Resubmitted."""
    first = stage.join()
    tasks = stage.submitted()
    before = checked(ClientInfo, first.peer_info)[0]
    first.close()
    after = checked(ClientInfo, stage.join_again().peer_info)[0]
    expect(before.keys and set(before.keys) < set(after.keys), f"its keys were {before.keys}, then {after.keys}")
    expect(before.uid == after.uid and before.uid, "its uid is another one")
    place = len(stage.seen)
    stage.wait(m.Resubmitted)
    again = [said.task for said in stage.seen[place:] if isinstance(said, m.Submit)]
    expect(again == [task.task for task in tasks], f"it submitted {again} again")
    stage.finish([said for said in stage.seen[place:] if isinstance(said, m.Submit)])
