"""What a peer should not have sent, and errors of our own: they end one peer at most, and every task is settled."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest

import minidask
from minidask import errors
from minidask.net.transport import MessageLink
from minidask.scheduler import attempts
from minidask.scheduler.core import SchedulerCore
from minidask.scheduler.events import Left, Received, Tick
from minidask.scheduler.server import SchedulerServer
from minidask.task.context import SlotConfig
from minidask.wire import messages as m
from minidask.wire.codec import decode, encode
from minidask.wire.frames import (
    AUTHENTICATED,
    SHARED_BYTES,
    STRANGERS_BYTES,
    FrameDecoder,
    encode_frame,
)
from minidask.wire.handshake import Acceptor, Initiator
from minidask.worker.memory import MemoryLimits
from minidask.worker.shell import WorkerShell
from tests.helpers import Programs, wait_until

SECRET = b"s" * 32


class Peer:
    """A link that keeps what it is sent."""

    def __init__(self) -> None:
        self.came: list[m.Message] = []
        self.closed = False

    def send(self, message: m.Message) -> None:
        encode(message)
        self.came.append(message)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.came if type(message) is kind]


class Scheduler:
    """A server with a core, and no sockets; its peers take the place of those that came over one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("minidask.scheduler.server.MessageLink", Peer)
        self.server = SchedulerServer(SchedulerCore(), SECRET)
        self.core = self.server.core

    def join(self, role: str, **info: Any) -> tuple[int, Peer]:
        link = Peer()
        return self.server.attach(link, role, f"tcp://{role}:{len(self.server._links)}", info), link

    def say(self, peer: int, *messages: m.Message) -> None:
        self.server.post(*(Received(peer, message) for message in messages))

    def leave(self, peer: int) -> None:
        del self.server._links[peer]
        self.server.post(Left(peer, "it was told to go"))

    def submit(self, client: int, task: int, name: str = "f") -> None:
        self.say(client, m.Submit(task, name, 0, None, 0, None, [], [], [b"call"]))


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    return Scheduler(monkeypatch)


def test_a_worker_with_an_unknown_reason_goes_and_its_task_runs_elsewhere(scheduler: Scheduler) -> None:
    client, to_client = scheduler.join("client")
    bad, to_bad = scheduler.join("worker", slots=1)
    scheduler.submit(client, 1)
    (run,) = to_bad.of(m.Run)
    scheduler.say(bad, m.Stopped(run.task, run.attempt, "bored", ""), m.Done(run.task, run.attempt, 0.1, [b"r"]))
    (goodbye,) = to_bad.of(m.Goodbye)
    assert "reason 'bored'" in goodbye.reason and to_bad.closed
    assert not to_client.of(m.TaskDone), "what comes after a mistake counts no more"
    scheduler.leave(bad)
    good, to_good = scheduler.join("worker", slots=1)
    (again,) = to_good.of(m.Run)
    scheduler.say(good, m.Done(again.task, again.attempt, 0.1, [b"r"]))
    assert [done.task for done in to_client.of(m.TaskDone)] == [1]


def test_an_error_of_ours_ends_the_peer_whose_message_it_was(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And the task that it has cut loose is told to be lost."""
    client, to_client = scheduler.join("client")
    worker, to_worker = scheduler.join("worker", slots=2, prefetch=1)
    scheduler.submit(client, 1)
    scheduler.submit(client, 2)
    run, other = to_worker.of(m.Run)
    monkeypatch.setattr(attempts, "record_duration", lambda *_: 1 / 0)
    scheduler.say(worker, m.Done(run.task, run.attempt, 0.1, [b"result"]))
    (goodbye,) = to_worker.of(m.Goodbye)
    assert "ZeroDivisionError" in goodbye.reason
    assert [(lost.task, lost.reason) for lost in to_client.of(m.TaskLost)] == [(1, "internal")]
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    scheduler.leave(worker)
    another, to_another = scheduler.join("worker", slots=2)
    (again,) = to_another.of(m.Run)
    scheduler.say(another, m.Done(again.task, again.attempt, 0.1, [b"result"]))
    assert [done.task for done in to_client.of(m.TaskDone)] == [2]
    assert not scheduler.core.attempts.tasks and not to_client.closed
    assert other.task == again.task


def test_an_error_of_ours_in_placing_a_task_loses_that_one(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client, to_client = scheduler.join("client")
    worker, to_worker = scheduler.join("worker", slots=1)
    with monkeypatch.context() as patch:
        patch.setattr(scheduler.core.data, "give", lambda *_: 1 / 0)
        scheduler.submit(client, 1)
    assert [(lost.task, lost.reason) for lost in to_client.of(m.TaskLost)] == [(1, "internal")]
    scheduler.submit(client, 2)
    (run,) = to_worker.of(m.Run)
    scheduler.say(worker, m.Done(run.task, run.attempt, 0.1, [b"result"]))
    assert [done.task for done in to_client.of(m.TaskDone)] == [2]
    assert not scheduler.server.stopped.is_set()
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("where", ["assign", "leave", "tick"])
def test_where_nothing_can_be_relied_on_every_peer_is_told(
    where: str, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client, to_client = scheduler.join("client")
    _, to_other = scheduler.join("client")
    worker, to_worker = scheduler.join("worker", slots=1)
    if where == "assign":
        monkeypatch.setattr(scheduler.core.attempts, "assign_ready", lambda now: 1 / 0)
        scheduler.submit(client, 1)
    elif where == "leave":
        monkeypatch.setattr(scheduler.core, "_lose_worker", lambda *_: 1 / 0)
        scheduler.leave(worker)
    else:
        monkeypatch.setattr(scheduler.core, "_tick", lambda now: 1 / 0)
        scheduler.server.post(Tick())
    assert scheduler.server.stopped.is_set()
    for peer in (to_client, to_other, *([to_worker] if where != "leave" else [])):
        assert "an error inside the scheduler" in peer.of(m.Goodbye)[0].reason and peer.closed
    assert "ZeroDivisionError" in caplog.text


def test_who_cannot_be_sent_something_is_the_only_one_to_go(scheduler: Scheduler) -> None:
    client, to_client = scheduler.join("client")
    other, to_other = scheduler.join("client")
    scheduler.core.info["odd"] = 1 << 70  # no msgpack can hold it
    scheduler.say(client, m.Ask(1))
    assert "it cannot be sent a Answer" in to_client.of(m.Goodbye)[0].reason
    del scheduler.core.info["odd"]
    scheduler.say(other, m.Ask(1))
    assert to_other.of(m.Answer)


def test_a_worker_can_send_parts_of_results_to_clients_only(scheduler: Scheduler) -> None:
    worker, to_worker = scheduler.join("worker", slots=1)
    other, to_other = scheduler.join("worker", slots=1)
    client, to_client = scheduler.join("client")
    before = len(to_other.came)
    for target in (other, worker, 0, -1, 1 << 40):
        scheduler.say(worker, m.Chunk(b"n" * 16, 0, target, [b"x"]), m.NoBlob(b"n" * 16, target, ""))
    assert len(to_other.came) == before and not to_worker.closed
    scheduler.say(worker, m.Chunk(b"n" * 16, 0, client, [b"x"]))
    assert to_client.of(m.Chunk) == [m.Chunk(b"n" * 16, 0, worker, [b"x"])]


@pytest.mark.parametrize(
    "info",
    [{}, {"slots": -1}, {"slots": True}, {"slots": 1 << 40}, {"slots": "2"}, {"slots": 1, "prefetch": -1}],
    ids=str,
)
def test_a_worker_with_no_sensible_slots_is_turned_away(info: dict[str, Any], scheduler: Scheduler) -> None:
    _, link = scheduler.join("worker", **info)
    assert link.of(m.Goodbye) and link.closed
    assert not scheduler.core.workers


# --- connections ---


class Transport:
    """What asyncio gives a protocol, with the bytes written to it."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False

    def writelines(self, pieces: list[Any]) -> None:
        self.written += b"".join(pieces)

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str) -> Any:
        return None


def frames(data: bytes) -> list[Any]:
    decoder = FrameDecoder(AUTHENTICATED)
    found = []
    while data:
        buffer = decoder.get_buffer()
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        data = data[count:]
        found += list(decoder.received(count))
    return found


def give(link: MessageLink, data: bytes) -> None:
    """Have the link receive these bytes, in one read."""
    buffer = link.get_buffer(-1)
    buffer[: len(data)] = data
    link.buffer_updated(len(data))


def opened(came: list[m.Message]) -> tuple[MessageLink, Transport]:
    """A scheduler's link to a client that has shaken hands."""
    initiator = Initiator(SECRET, role="client", version="1", nonce=b"n" * 32, info={})
    acceptor = Acceptor(SECRET, version="1", nonce=b"m" * 32, info={})
    ended: list[Any] = []
    link = MessageLink(
        acceptor, lambda _: None, lambda _, messages: came.extend(messages), lambda *end: ended.append(end)
    )
    transport = Transport()
    link._transport = transport  # type: ignore[assignment]
    give(link, b"".join(initiator.start()))
    (challenge,) = frames(transport.written)
    give(link, b"".join(initiator.receive(challenge)))
    transport.written = b""
    return link, transport


@pytest.mark.parametrize("bad", [b"no frame", b"".join(encode_frame(b"\xff")), b"".join(encode_frame(b"\x91\x63"))])
def test_a_broken_protocol_is_answered_with_goodbye_and_the_reason(bad: bytes) -> None:
    """What came before the mistake, in the same read, is still taken."""
    came: list[m.Message] = []
    link, transport = opened(came)
    give(link, b"".join(encode(m.Ask(7))) + bad)
    assert came == [m.Ask(7)]
    (frame,) = frames(transport.written)
    goodbye = decode(frame)
    assert isinstance(goodbye, m.Goodbye) and goodbye.reason.startswith("protocol error: ")
    assert transport.closing


def test_a_stranger_gets_a_small_buffer_and_a_known_peer_a_large_one() -> None:
    stranger = FrameDecoder()
    assert len(stranger.get_buffer()) == STRANGERS_BYTES <= 8192
    link, _ = opened([])
    assert len(link.get_buffer(-1)) == SHARED_BYTES


def test_the_large_buffer_begins_with_what_had_come() -> None:
    whole = b"".join([*encode_frame(b"first"), *encode_frame(b"h" * 3000, [b"b" * 100_000])])
    decoder = FrameDecoder()
    decoder.get_buffer()[:4000] = whole[:4000]
    found = []
    for frame in decoder.received(4000):
        found.append(frame.header)
        decoder.limits = AUTHENTICATED
    rest = whole[4000:]
    decoder.get_buffer()[: len(rest)] = rest
    for frame in decoder.received(len(rest)):
        found += [frame.header, bytes(frame.buffers[0])]
    assert found == [b"first", b"h" * 3000, b"b" * 100_000]


def test_many_small_frames_fit_through_the_small_buffer() -> None:
    decoder, found = FrameDecoder(), []
    data = b"".join(piece for number in range(50) for piece in encode_frame(bytes([number]) * 1000))
    while data:
        buffer = decoder.get_buffer()
        count = min(len(buffer), 700, len(data))
        assert count
        buffer[:count], data = data[:count], data[count:]
        found += [frame.header[0] for frame in decoder.received(count)]
    assert found == list(range(50))


# --- the worker daemon ---


def test_a_slot_that_talks_nonsense_is_replaced_and_its_task_counts_as_dead(client: minidask.Client) -> None:
    """A task writes to the socket of its slot: a result that no client could take."""

    def nonsense() -> None:
        from threading import Event

        from minidask.task.context import current_slot

        slot = current_slot()
        assert slot is not None
        task, attempt = slot.call
        os.write(slot.fileno(), b"".join(encode(m.Done(task, attempt, 0.1, [b"pickle", b"short"]))))
        Event().wait(20)

    with pytest.raises(errors.KilledWorker):
        client.submit(nonsense).result(30)
    assert client.gather([client.submit(abs, -i) for i in range(4)]) == [0, 1, 2, 3]


def test_a_slot_whose_bytes_are_no_messages_is_replaced(client: minidask.Client) -> None:
    def garbage() -> None:
        from threading import Event

        from minidask.task.context import current_slot

        slot = current_slot()
        assert slot is not None
        os.write(slot.fileno(), b"garbage")
        Event().wait(20)

    with pytest.raises(errors.KilledWorker):
        client.submit(garbage).result(30)
    assert client.submit(abs, -1).result(20) == 1


class OddSlots:
    """A factory of slots that cannot be started, or sent anything."""

    pid = 1

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.killed = self.started = 0

    def __call__(self, *_: Any) -> Any:
        self.started += 1
        if self.error is not None:
            raise self.error
        return self

    def send(self, message: m.Message) -> None:
        raise ValueError("no room")

    def kill(self) -> None:
        self.killed += 1


def agent(slots: Any) -> WorkerShell:
    slot_config = SlotConfig("", "", "")
    return WorkerShell("w", 1, slots, MemoryLimits(None, 1 << 40), slot_config, None, None)  # type: ignore[arg-type]


def test_a_slot_that_cannot_be_sent_its_call_is_killed() -> None:
    async def scene() -> None:
        slots = OddSlots(None)
        worker, link = agent(slots), Peer()
        worker.attach(link)
        worker.resize(1)
        worker._slot_said(0, m.SlotReady())
        worker.from_scheduler([m.Run(1, 1, 1, "f", None, [], 0, [b"call"])])
        assert slots.killed == 1 and not worker.gave_up.is_set()
        worker._slot_exited(0, "SIGKILL", "?")
        assert [(died.task, died.how) for died in link.of(m.Died)] == [(1, "SIGKILL")]
        worker._closing = True

    asyncio.run(scene())


def test_an_error_of_ours_ends_this_worker_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        worker = agent(OddSlots(None))
        monkeypatch.setattr(worker._core.table, "resize", lambda slots: 1 / 0)
        worker.resize(1)
        assert worker.gave_up.is_set()
        assert "ZeroDivisionError" in worker.reason

    asyncio.run(scene())


# --- the programs ---


def test_hundreds_of_silent_connections_cost_the_scheduler_little(programs: Programs) -> None:
    import psutil

    from tests.end_to_end.cluster.test_daemons import host_and_port

    scheduler, address = programs.scheduler()
    process = psutil.Process(scheduler.process.pid)
    before = process.memory_info().rss
    silent = []
    try:
        for _ in range(400):
            silent.append(socket.create_connection(host_and_port(address), 10))
        wait_until(lambda: len(process.net_connections()) >= len(silent), "the scheduler had taken them all in")
        grown = process.memory_info().rss - before
        assert grown < len(silent) * 64 * 1024, f"{grown / len(silent):.0f} bytes for each"
    finally:
        for sock in silent:
            sock.close()
    with minidask.Client(address):
        pass
