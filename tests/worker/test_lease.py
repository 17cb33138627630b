"""A lease in a slot: what it takes and gives, which way each outcome goes, and what ends it."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from minidask.data.callqueue import CallQueue, ResultPipe
from minidask.pickling.sharing import dumps
from minidask.task.context import SlotConfig
from minidask.wire import messages as m
from minidask.wire.codec import decode, encode
from minidask.wire.frames import AUTHENTICATED, FrameDecoder
from minidask.wire.tickets import ELSEWHERE, LINES, PIPE_BUF, RESULT, RESULT_BYTES, QueuedCall
from minidask.worker.slot import lease as lease_module
from minidask.worker.slot.lease import Lease
from minidask.worker.slot.loop import Slot
from minidask.worker.slot.reads import OutputCount
from minidask.worker.slot.stops import RunningCall

BLOB, OTHER = b"b" * 16, b"o" * 16
DIRECT = PIPE_BUF - RESULT.size


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Rig:
    """A client's queue, and a slot that does with each call what the test says: `Host` of a lease.

    Attributes:
        calls: what each call does, by its number. It returns the payload of a result, or an error's text.
        heard: what the daemon says, one thing each time that the slot reads; `say` adds to it.
        sent: what the slot has told the daemon.
        ran: the numbers of the calls that were run.
    """

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        self.results = ResultPipe(folder, 1)
        self.queue = CallQueue(folder, str(self.results.path), 1)
        self._files = opened.enter_context(ExitStack())
        self._files.callback(self.results.close)
        self._files.callback(self.queue.close)
        self.clock = Clock()
        self.calls: dict[int, Callable[[], m.Payload | str]] = {}
        self.heard: collections.deque[Callable[[], None]] = collections.deque()
        self.sent: list[m.Message] = []
        self.ran: list[int] = []
        self.has: set[bytes] = set()
        self.told = False
        self.unfinished = False
        self._tickets = LINES
        self._socket, self._daemon = os.pipe()
        opened.callback(os.close, self._socket)
        opened.callback(os.close, self._daemon)
        self.output: dict[int, int] = {}
        self.print_to: dict[int, int] = {}
        for number in (1, 2):
            self.output[number], self.print_to[number] = os.pipe()
            opened.callback(os.close, self.output[number])
            opened.callback(os.close, self.print_to[number])
        count = os.open(folder / "count", os.O_RDWR | os.O_CREAT)
        os.ftruncate(count, 8)
        self.reads = OutputCount(count)
        os.close(count)
        opened.callback(self.reads.close)
        self.call = RunningCall([1, 1], 0, [])
        self.run = m.Run(1, 1, 7, "lease", None, [], 0, True, [self.queue.files.pack(3)])
        self.lease = Lease(self, self.run, self.call, self.reads)

    def leave(self) -> None:
        """Have the client leave."""
        self._files.close()

    def put(self, number: int, what: Callable[[], m.Payload | str] = lambda: [b"r"], *blobs: bytes) -> int:
        """Put a call into the queue; returns its ticket."""
        self._tickets += 1
        self.calls[number] = what
        assert self.queue.put(self._tickets, QueuedCall(number, f"call {number}", [*blobs], [b"%d" % number]))
        return self._tickets

    def say(self, *what: Callable[[], None]) -> None:
        """Have the daemon say something."""
        self.heard.extend(what)
        os.write(self._daemon, b"x" * len(what))

    def returned(self) -> list[int]:
        """The calls whose results went straight to the client."""
        return [result[0] for result in self.results.read()]

    def claim(self) -> int:
        return self.queue.claim(3)

    # --- as `Host` ---

    def fileno(self) -> int:
        return self._socket

    def receive(self, *, wait: bool = False) -> None:
        os.read(self._socket, 1)
        self.heard.popleft()()

    def send(self, message: m.Message) -> None:
        self.sent.append(message)

    def lacking(self, blobs: list[bytes]) -> list[bytes]:
        return [blob for blob in blobs if blob not in self.has]

    def outcome(self, run: m.Run, call: RunningCall, number: int = 0) -> m.Done | m.Failed:
        assert number == int(run.payload[0])
        assert run.name == f"call {number}" and run[:3] == self.run[:3]
        self.ran.append(number)
        returned = self.calls[number]()
        if isinstance(returned, str):
            return m.Failed(run.task, run.attempt, 0.25, returned, [])
        return m.Done(run.task, run.attempt, 0.25, returned)

    def failed(self, run: m.Run, error: BaseException, began: float) -> m.Failed:
        return m.Failed(run.task, run.attempt, 0.0, str(error), [])

    def flush_output(self, call: RunningCall) -> None:
        pass

    def has_unfinished(self, call: RunningCall) -> bool:
        return self.unfinished


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with ExitStack() as opened:
        rig = Rig(tmp_path, opened)
        unread = lease_module._unread
        monkeypatch.setattr(lease_module, "_unread", lambda number: unread(rig.output[number]))
        monkeypatch.setattr(lease_module, "IDLE_SECONDS", 0.0)
        monkeypatch.setattr(lease_module, "time", rig.clock)
        rig.lease._began = rig.clock.now
        yield rig


def asked(after: float = 0.0, task: int = 1, attempt: int = 1) -> m.Yield:
    return m.Yield(task, attempt, after)


# --- take, run, give ---


def test_calls_are_taken_in_order_and_their_results_go_straight_to_the_client(rig: Rig) -> None:
    tickets = [rig.put(number) for number in (1, 2, 3)]
    over = rig.lease.serve()
    assert over[:2] == (1, 1)
    assert rig.ran == [1, 2, 3] and rig.sent == []
    assert rig.results.read() == [(number, ticket, 0.25, 1, b"r") for number, ticket in enumerate(tickets, 1)]


def test_the_claim_names_the_call_in_hand_and_no_other(rig: Rig) -> None:
    claims = []

    def look() -> m.Payload:
        claims.append(rig.claim())
        return [b"r"]

    tickets = [rig.put(number, look) for number in (1, 2)]
    rig.lease.serve()
    assert claims == tickets
    assert rig.claim() == 0


@pytest.mark.parametrize(
    ("size", "where"),
    [
        (0, "pipe"),
        (DIRECT, "pipe"),
        (DIRECT + 1, "line"),
        (RESULT_BYTES, "line"),
        (RESULT_BYTES + 1, "daemon"),
    ],
)
def test_the_size_of_a_result_tells_its_way(rig: Rig, size: int, where: str) -> None:
    result = os.urandom(size)
    ticket = rig.put(1, lambda: [result])
    rig.lease.serve()
    given = rig.results.read()
    if where == "daemon":
        assert given == [] and rig.sent == [m.CallDone(1, 1, 1, 0.25, [result])]
        return
    assert rig.sent == []
    if where == "pipe":
        assert given == [(1, ticket, 0.25, size, result)]
    else:
        assert given == [(1, ticket, 0.25, size | ELSEWHERE, b"")]
        assert rig.queue.result_in_line(ticket, size) == result


def test_a_result_with_large_buffers_goes_through_the_daemon(rig: Rig) -> None:
    payload: m.Payload = [b"pickle", b"n" * 17]
    rig.put(1, lambda: payload)
    rig.put(2)
    rig.lease.serve()
    assert rig.sent == [m.CallDone(1, 1, 1, 0.25, payload)]
    assert rig.returned() == [2]


def test_an_error_goes_through_the_daemon_and_the_lease_goes_on(rig: Rig) -> None:
    rig.put(1, lambda: "traceback")
    rig.put(2)
    rig.lease.serve()
    assert rig.sent == [m.CallFailed(1, 1, 1, 0.25, "traceback", [])]
    assert rig.returned() == [2]


@pytest.mark.parametrize("size", [1, DIRECT + 1])
def test_results_go_through_the_daemon_while_the_client_does_not_read(rig: Rig, size: int) -> None:
    with suppress(BlockingIOError):
        while os.write(rig.results.fileno(), bytes(PIPE_BUF)):
            pass
    rig.put(1, lambda: [bytes(size)])
    rig.lease.serve()
    assert rig.sent == [m.CallDone(1, 1, 1, 0.25, [bytes(size)])]


# --- what has an order to keep with output and messages ---


def test_a_call_that_has_told_its_caller_something_ends_through_the_daemon(rig: Rig) -> None:
    def tell() -> m.Payload:
        rig.told = True
        return [b"r"]

    rig.put(1, tell)
    rig.put(2)
    rig.lease.serve()
    assert rig.sent == [m.CallDone(1, 1, 1, 0.25, [b"r"])]
    assert rig.returned() == [2]


@pytest.mark.parametrize("stream", [1, 2])
def test_a_call_whose_output_was_not_read_yet_ends_through_the_daemon(rig: Rig, stream: int) -> None:
    def say() -> m.Payload:
        os.write(rig.print_to[stream], b"text")
        return [b"r"]

    def after_the_daemon_has_read() -> m.Payload:
        os.read(rig.output[stream], 4)
        rig.reads.count()
        return [b"r"]

    rig.put(1, say)
    rig.put(2)
    rig.put(3, after_the_daemon_has_read)
    rig.put(4)
    rig.lease.serve()
    assert [message.call for message in rig.sent if isinstance(message, m.CallDone)] == [1, 2, 3]
    assert rig.returned() == [4]


def test_a_call_whose_output_was_read_while_it_ran_ends_through_the_daemon(rig: Rig) -> None:
    def say() -> m.Payload:
        rig.reads.count()
        return [b"r"]

    rig.put(1, say)
    rig.put(2)
    rig.lease.serve()
    assert rig.sent == [m.CallDone(1, 1, 1, 0.25, [b"r"])]
    assert rig.returned() == [2]


def test_calls_end_through_the_daemon_where_nobody_can_tell_whether_they_print(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(number: int) -> int:
        raise OSError("Bad file descriptor")

    monkeypatch.setattr(lease_module, "_unread", closed)
    rig.put(1)
    rig.lease.serve()
    assert rig.sent == [m.CallDone(1, 1, 1, 0.25, [b"r"])]


def test_bytes_that_wait_in_a_pipe_are_counted() -> None:
    reading, writing = os.pipe()
    assert lease_module._unread(reading) == lease_module._unread(writing) == 0
    os.write(writing, b"text")
    assert lease_module._unread(reading) == lease_module._unread(writing) == 4, "the slot has the end that writes"
    os.close(reading)
    os.close(writing)


# --- what ends a lease ---


def test_a_lease_ends_when_the_queue_stays_empty(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    wait = lease_module._Waiter.wait

    def come_while_it_waits(waiter: lease_module._Waiter, seconds: float) -> list[int]:
        waited.append(seconds)
        if seconds and len(rig.ran) < 3:
            rig.put(len(rig.ran) + 1)
        return wait(waiter, 0)

    monkeypatch.setattr(lease_module, "IDLE_SECONDS", 0.5)
    monkeypatch.setattr(lease_module._Waiter, "wait", come_while_it_waits)
    rig.lease.serve()
    assert rig.ran == [1, 2, 3]
    assert [seconds for seconds in waited if seconds] == [0.5] * 4, "each time from anew"


def test_a_lease_ends_at_the_ticket_that_says_so_and_leaves_what_comes_after(rig: Rig) -> None:
    rig.put(1)
    rig.queue.ask_back(1)
    rig.put(2)
    rig.lease.serve()
    assert rig.ran == [1] and rig.claim() == 0
    again = Lease(rig, rig.run, rig.call, rig.reads)
    again.serve()
    assert rig.ran == [1, 2]


def test_a_lease_that_is_asked_for_ends_with_the_call_in_hand(rig: Rig) -> None:
    rig.put(1)
    rig.put(2)
    rig.put(3)
    rig.calls[2] = lambda: rig.say(lambda: rig.lease.heed(asked())) or [b"r"]
    rig.lease.serve()
    assert rig.ran == [1, 2] and rig.returned() == [1, 2]
    assert rig.claim() == 0


def test_a_lease_that_is_asked_for_before_it_begins_runs_one_call_at_most(rig: Rig) -> None:
    rig.lease.heed(asked())
    rig.put(1)
    rig.put(2)
    rig.lease.serve()
    assert len(rig.ran) <= 1


def test_that_another_lease_is_asked_for_ends_nothing(rig: Rig) -> None:
    for number in (1, 2, 3):
        rig.put(number)
    rig.lease.heed(asked(attempt=2))
    rig.say(lambda: rig.lease.heed(asked(attempt=2)), lambda: rig.lease.heed(asked(task=2)))
    rig.lease.serve()
    assert rig.ran == [1, 2, 3]


def test_a_lease_may_be_asked_for_at_the_end_of_its_slice(rig: Rig) -> None:
    def work() -> m.Payload:
        rig.clock.now += 2
        return [b"r"]

    for number in range(1, 6):
        rig.put(number, work)
    rig.say(lambda: rig.lease.heed(asked(5.0)))
    rig.lease.serve()
    assert rig.ran == [1, 2, 3], "4 seconds were not enough, and 6 are"


@pytest.mark.parametrize("afters", [(9.0, 3.0), (3.0, 9.0)])
def test_a_lease_ends_as_early_as_anybody_has_asked(rig: Rig, afters: tuple[float, float]) -> None:
    def work() -> m.Payload:
        rig.clock.now += 2
        return [b"r"]

    for number in range(1, 6):
        rig.put(number, work)
    for after in afters:
        rig.lease.heed(asked(after))
    rig.lease.serve()
    assert rig.ran == [1, 2]


def test_a_lease_that_is_asked_for_waits_for_calls_only_as_long_as_a_client_takes_to_send_the_next(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "IDLE_SECONDS", 1e6)
    rig.lease.heed(asked(1e6))
    rig.lease.serve()


def test_a_lease_that_waits_hears_at_once_that_it_is_asked_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "IDLE_SECONDS", 1e6)
    rig.say(lambda: rig.lease.heed(asked()))
    rig.lease.serve()
    assert not rig.heard


@pytest.mark.parametrize("how", ["stopped", "stop_pending"])
def test_a_call_that_was_stopped_ends_the_lease(rig: Rig, how: str) -> None:
    rig.put(1, lambda: setattr(rig.call, how, True) or "KeyboardInterrupt")
    rig.put(2)
    rig.lease.serve()
    assert rig.ran == [1]
    assert rig.sent == [m.CallFailed(1, 1, 1, 0.25, "KeyboardInterrupt", [])]


def test_a_call_that_leaves_tasks_behind_ends_the_lease(rig: Rig) -> None:
    rig.put(1, lambda: setattr(rig, "unfinished", True) or [b"r"])
    rig.put(2)
    rig.lease.serve()
    assert rig.ran == [1] and rig.returned() == [1]


def test_a_lease_ends_with_its_client(rig: Rig) -> None:
    def leave() -> m.Payload:
        rig.leave()
        return [b"r"]

    rig.put(1, leave)
    assert rig.lease.serve()[:2] == (1, 1)
    assert rig.ran == [1]
    assert rig.sent == [m.CallDone(1, 1, 1, 0.25, [b"r"])], "the daemon knows what becomes of it"


def test_a_lease_whose_client_is_gone_before_it_begins_ends_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "IDLE_SECONDS", 1e6)
    rig.leave()
    rig.lease.serve()


def test_a_lease_leaves_no_descriptor_behind(rig: Rig) -> None:
    before = len(os.listdir("/proc/self/fd"))
    rig.put(1)
    Lease(rig, rig.run, rig.call, rig.reads).serve()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_lease_cannot_begin_without_its_queue(rig: Rig) -> None:
    rig.leave()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        Lease(rig, rig.run, rig.call, rig.reads)
    assert len(os.listdir("/proc/self/fd")) == before


# --- blobs ---


def test_blobs_that_the_slot_lacks_are_asked_for_and_waited_for(rig: Rig) -> None:
    claims = []
    rig.has.add(OTHER)
    ticket = rig.put(1, lambda: [b"r"], BLOB, OTHER)
    rig.calls[1] = lambda: claims.append(rig.claim()) or [b"r"]
    rig.say(lambda: None, lambda: rig.has.add(BLOB))
    rig.lease.serve()
    assert rig.sent == [m.WantBlobs(1, 1, [BLOB])]
    assert rig.ran == [1] and claims == [ticket]


def test_a_blob_that_is_released_while_another_one_is_waited_for_is_asked_for_too(rig: Rig) -> None:
    rig.has.add(OTHER)
    rig.put(1, lambda: [b"r"], BLOB, OTHER)

    def comes(blob: bytes) -> None:
        rig.has.add(blob)
        rig.lease.blob_came(blob)

    rig.say(lambda: rig.has.discard(OTHER), lambda: comes(BLOB))
    rig.say(lambda: comes(OTHER) or rig.has.discard(OTHER), lambda: comes(OTHER))
    rig.lease.serve()
    assert rig.sent == [m.WantBlobs(1, 1, [blob]) for blob in (BLOB, OTHER, OTHER)]
    assert rig.ran == [1] and rig.returned() == [1]


def test_a_blob_that_is_lost_fails_its_call_alone(rig: Rig) -> None:
    rig.has.add(OTHER)
    rig.put(1, lambda: [b"r"], BLOB)
    rig.put(2, lambda: [b"r"], OTHER)
    rig.put(3, lambda: [b"r"], BLOB)
    rig.say(lambda: rig.lease.blob_lost(BLOB, "nobody has it"))
    rig.calls[2] = lambda: rig.say(lambda: None, lambda: rig.has.add(BLOB)) or [b"r"]
    rig.lease.serve()
    wanted, failed, again = rig.sent
    assert wanted == again == m.WantBlobs(1, 1, [BLOB]), "it may be there the next time"
    assert isinstance(failed, m.CallFailed) and failed.call == 1
    assert "its data cannot be had: nobody has it" in failed.traceback
    assert rig.ran == [2, 3] and rig.returned() == [2, 3]
    assert rig.claim() == 0


def test_a_call_of_which_one_blob_comes_and_one_is_lost_fails_when_both_is_known(rig: Rig) -> None:
    rig.put(1, lambda: [b"r"], BLOB, OTHER)
    sent_before = []
    rig.say(lambda: rig.lease.blob_lost(BLOB, "nobody has it"))
    rig.say(lambda: sent_before.extend(rig.sent) or rig.has.add(OTHER))
    rig.lease.serve()
    assert [type(message) for message in sent_before] == [m.WantBlobs]
    assert [type(message) for message in rig.sent] == [m.WantBlobs, m.CallFailed]
    assert rig.ran == []


# --- in the slot's loop ---


class Daemon:
    """The daemon's side of a slot's socket: what it says is read at once, however much; `told` has the slot's words."""

    def __init__(self) -> None:
        self.words = bytearray()
        self._pipe = os.pipe()
        self._decoder = FrameDecoder(AUTHENTICATED)
        self.told: list[m.Message] = []

    def say(self, *messages: m.Message) -> None:
        for message in messages:
            self.words += b"".join(encode(message))
        os.write(self._pipe[1], b"x")

    def recv_into(self, buffer: memoryview) -> int:
        os.read(self._pipe[0], 1)
        size = min(len(self.words), len(buffer))
        buffer[:size] = self.words[:size]
        del self.words[:size]
        return size

    def sendmsg(self, pieces: list[memoryview]) -> int:
        data = b"".join(pieces)
        rest = memoryview(data)
        while rest:
            buffer = self._decoder.get_buffer()
            size = min(len(buffer), len(rest))
            buffer[:size] = rest[:size]
            self.told += [decode(frame) for frame in self._decoder.received(size)]
            rest = rest[size:]
        return len(data)

    def fileno(self) -> int:
        return self._pipe[0]

    def close(self) -> None:
        for end in self._pipe:
            os.close(end)


class LoopRig:
    """A real `Slot`, whose daemon and client are the test."""

    def __init__(self, folder: Path, opened: ExitStack, *, thread: bool = False) -> None:
        self.rig = Rig(folder, opened)
        self.daemon = Daemon()
        opened.callback(self.daemon.close)
        reads = None if thread else self.rig.reads
        self.slot = Slot(self.daemon, SlotConfig(str(folder), "", ""), None, reads)  # type: ignore[arg-type]
        self.tickets = LINES

    def put(self, *values: int) -> None:
        for value in values:
            self.tickets += 1
            (pickle,) = dumps((abs, (value,), {}), "a call")
            assert self.rig.queue.put(self.tickets, QueuedCall(value, "abs", [], [pickle]))

    def go_on(self, *messages: m.Message) -> list[m.Message]:
        """Have the daemon say these all at once, and the slot do what follows."""
        self.daemon.told.clear()
        self.daemon.say(*messages)
        self.slot._receive()
        while self.slot._given:
            self.slot._run(self.slot._given.popleft())
        return self.daemon.told


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopRig]:
    with ExitStack() as opened:
        loop = LoopRig(tmp_path, opened)
        monkeypatch.setattr(lease_module, "_unread", lambda number: 0)
        monkeypatch.setattr(lease_module, "IDLE_SECONDS", 0.0)
        yield loop


def test_a_slot_runs_the_calls_of_a_lease(loop: LoopRig) -> None:
    loop.put(1, 2, 3)
    (over,) = loop.go_on(loop.rig.run)
    assert isinstance(over, m.Done) and over[:2] == (1, 1)
    assert loop.rig.returned() == [1, 2, 3]
    assert loop.slot.call == []


def test_a_lease_that_is_asked_for_in_the_same_breath_runs_one_call_at_most(loop: LoopRig) -> None:
    loop.put(1, 2, 3)
    (over,) = loop.go_on(loop.rig.run, asked())
    assert isinstance(over, m.Done)
    assert len(loop.rig.returned()) <= 1


def test_what_was_said_of_an_earlier_lease_ends_no_later_one(loop: LoopRig) -> None:
    loop.put(1, 2, 3)
    loop.go_on(loop.rig.run, asked())
    loop.rig.returned()
    loop.put(4, 5)
    loop.go_on(loop.rig.run._replace(task=2))
    assert loop.rig.returned()[-2:] == [4, 5]


def test_a_slot_that_is_asked_for_a_lease_that_it_does_not_have_goes_on(loop: LoopRig) -> None:
    assert loop.go_on(asked()) == []
    loop.put(1, 2)
    loop.go_on(loop.rig.run._replace(attempt=2))
    assert loop.rig.returned() == [1, 2]


def test_a_lease_whose_queue_is_gone_fails(loop: LoopRig) -> None:
    loop.rig.leave()
    (failed,) = loop.go_on(loop.rig.run)
    assert isinstance(failed, m.Failed) and "FileNotFoundError" in failed.traceback
    assert loop.slot.call == []


def test_a_slot_in_a_thread_takes_no_lease(tmp_path: Path) -> None:
    with ExitStack() as opened:
        loop = LoopRig(tmp_path, opened, thread=True)
        (failed,) = loop.go_on(loop.rig.run)
        assert isinstance(failed, m.Failed) and "takes no lease" in failed.traceback
