"""What a scheduler or a worker sends that is malformed: it ends that connection at most, and everything is told why."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from operator import neg
from pathlib import Path

import msgpack
import pytest

import minidask
from minidask._version import __version__
from minidask.errors import MinidaskError, SchedulerLost, SerializationError, TaskError
from minidask.net.access import load_or_create_access
from minidask.wire.codec import decode, encode
from minidask.wire.frames import AUTHENTICATED, Buffer, FrameDecoder, encode_frame
from minidask.wire.handshake import NONCE_BYTES, Acceptor
from minidask.wire.messages import Submit, TaskDone, TaskLost, TaskRaised, WorkerChanged, Workers

Answers = Callable[[int], list[Buffer]]
DONE = [pickle.dumps(-1)]


class FakeScheduler:
    """Shakes hands, tells of a worker, and answers each task with what it is given."""

    def __init__(self, access_file: Path) -> None:
        self.answers: Answers = lambda task: encode(TaskDone(task, 0.0, "w", DONE))
        self._secret = load_or_create_access(access_file).secret
        path = str(access_file.with_name("socket"))
        self._listener = socket.create_server(path, family=socket.AF_UNIX)
        self.address = f"unix://{path}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        decoder = FrameDecoder()
        nonce = os.urandom(NONCE_BYTES)
        acceptor = Acceptor(self._secret, version=__version__, nonce=nonce, info={"id": "fake"})
        with sock, contextlib.suppress(OSError):
            while count := sock.recv_into(decoder.get_buffer()):
                for frame in decoder.received(count):
                    if not acceptor.done:
                        answer = acceptor.receive(frame)
                        if acceptor.done:
                            decoder.limits = AUTHENTICATED
                            answer = [*answer, *encode(Workers([["10.0.0.1:1", "w", 2, {}]]))]
                        sock.sendall(b"".join(answer))
                    elif isinstance(message := decode(frame), Submit):
                        sock.sendall(b"".join(self.answers(message.task)))

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[FakeScheduler]:
    scheduler = FakeScheduler(tmp_path / "access")
    yield scheduler
    scheduler.close()


@pytest.fixture
def client(scheduler: FakeScheduler, tmp_path: Path) -> Iterator[minidask.Client]:
    with minidask.Client(scheduler.address, access_file=tmp_path / "access") as client:
        yield client


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (lambda task: TaskDone(task, 0.0, "w", [*DONE, b""]), SerializationError, "cannot be read"),
        (lambda task: TaskDone(task, 0.0, "w", [*DONE, b"short"]), SerializationError, "cannot be had"),
        (lambda task: TaskDone(task, 0.0, "w", [*DONE, b"x" * 33]), SerializationError, "cannot be had"),
        (lambda task: TaskDone(task, 0.0, "w", []), SerializationError, "cannot be unpickled"),
        (lambda task: TaskDone(task, 0.0, "w", [b"no pickle"]), SerializationError, "cannot be unpickled"),
        (lambda task: TaskRaised(task, 0.0, "w", "E: e", [b"no pickle"]), TaskError, "E: e"),
        (lambda task: TaskLost(task, "a reason of tomorrow", "why"), MinidaskError, "why"),
    ],
)
def test_what_is_wrong_with_one_outcome_is_that_tasks_error_alone(
    client: minidask.Client, scheduler: FakeScheduler, answer: Callable[[int], TaskDone], error: type, text: str
) -> None:
    good = scheduler.answers
    scheduler.answers = lambda task: encode(answer(task))
    with pytest.raises(error, match=text):
        client.submit(neg, 1).result(10)
    scheduler.answers = good
    assert client.submit(neg, 1).result(10) == -1


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda task: encode_frame(b"\xc1"), "no msgpack"),
        (lambda task: encode_frame(msgpack.packb([9999])), "no known message code"),
        (lambda task: [b"HTTP/1.0 200 OK"], "begin no minidask frame"),
        (lambda task: encode(TaskDone("1", 0.0, "w", DONE)), "malformed"),  # type: ignore[arg-type]
        (lambda task: encode(Submit(1, "", 0, None, 0, None, [], [], False, {}, DONE)), "no message for a client"),
        (lambda task: encode(Workers([[1]])), "Workers is malformed: workers"),
        (lambda task: encode(Workers([7])), "Workers is malformed: workers"),
        (
            lambda task: encode(WorkerChanged("a", "w", -1, {})) + encode(Workers(["xy"])),
            "WorkerChanged is malformed: slots",
        ),
    ],
)
def test_a_malformed_message_ends_the_connection_and_every_future_with_the_reason(
    client: minidask.Client, scheduler: FakeScheduler, answer: Answers, text: str
) -> None:
    scheduler.answers = lambda task: []
    waiting = client.submit(neg, 1)
    called: list[object] = []
    waiting.add_done_callback(called.append)
    scheduler.answers = answer
    for future in (client.submit(neg, 2), waiting):
        with pytest.raises(SchedulerLost, match=text):
            future.result(10)
    assert called == [waiting]
    with pytest.raises(SchedulerLost, match=text):
        client.submit(neg, 3)
    with pytest.raises(SchedulerLost, match=text):
        client.scheduler_info()
