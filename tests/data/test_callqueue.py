"""Call queues over real files: what is put comes out, once, and nothing else does; no slot needs to be alive."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidask.data import callqueue
from minidask.data.callqueue import CallQueue, QueueEnd, ResultPipe, Written
from minidask.data.store import BlobStore
from minidask.host.folders import owner
from minidask.wire.packing import pack
from minidask.wire.tickets import (
    CALL_BYTES,
    ELSEWHERE,
    HEADER,
    LEAVE,
    LINES,
    PIPE_BUF,
    RESULT,
    RESULT_BYTES,
    TAKING,
    QueuedCall,
)
from tests.data.stores import KIB, blob, data, files

CALL = QueuedCall(7, "f", [b"b" * 16], [b"pickle", b"buffer"])
NO_PROCESS = 1 << 30
FIRST = LINES  # the first ticket of line 0


class Queue:
    """A queue with its client's end, and ends for slots with leases."""

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        self.results = ResultPipe(folder, 0)
        opened.callback(self.results.close)
        self.client = CallQueue(folder, str(self.results.path), 0)
        self._client_end = opened.enter_context(ExitStack())
        self._client_end.callback(self.client.close)
        self._slots = opened.enter_context(ExitStack())

    def slot(self, lease: int = 0) -> QueueEnd:
        end = QueueEnd(self.client.files.pack(lease))
        self._slots.callback(end.close)
        return end

    def client_leaves(self) -> None:
        self._client_end.close()


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with ExitStack() as opened:
        yield Queue(tmp_path, opened)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def one_queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    with ExitStack() as opened:
        yield Queue(tmp_path_factory.mktemp("queue"), opened)


# --- calls ---

BUFFERS = st.binary(max_size=5000)
CALLS = st.builds(
    QueuedCall,
    st.integers(1, (1 << 64) - 1),
    st.text(st.characters(), max_size=200),
    st.lists(st.binary(min_size=16, max_size=16), max_size=8),
    st.lists(st.one_of(BUFFERS, BUFFERS.map(bytearray), BUFFERS.map(memoryview)), min_size=1, max_size=5),
)


@given(st.lists(CALLS, min_size=1, max_size=4))
def test_any_call_comes_out_as_it_went_in(one_queue: Queue, calls: list[QueuedCall]) -> None:
    slot = one_queue.slot()
    for line, call in enumerate(calls):
        assert one_queue.client.put(FIRST + line, call)
        assert one_queue.client.call(FIRST + line) == call
    assert [slot.take() for _ in calls] == calls
    assert slot.take() == 0
    slot.close()


@pytest.mark.parametrize("too_many", [0, 1])
def test_a_call_that_is_larger_than_its_line_lies_beside_it(queue: Queue, too_many: int) -> None:
    room = CALL_BYTES - HEADER.size
    name = "n" * (room - len(pack(QueuedCall(1, "n" * 65000, [], [b""]))) + 65000 + too_many)
    call = QueuedCall(1, name, [], [b""])
    assert len(pack(call)) == room + too_many
    slot = queue.slot()
    assert queue.client.put(FIRST, CALL) is Written.IN_LINE
    assert queue.client.put(FIRST + 1, call) is (Written.BESIDE if too_many else Written.IN_LINE)
    assert queue.client.put(FIRST + 2, CALL) is Written.IN_LINE
    taken = [slot.take(), slot.take(), slot.take()]
    assert taken == [CALL, call, CALL], "no other line is touched"
    assert queue.client.call(FIRST + 1) == call
    beside = Path(queue.client.files.beside(FIRST + 1))
    assert beside.exists() == bool(too_many)
    queue.client.free(FIRST + 1)
    assert not beside.exists()


def test_a_call_beside_its_line_goes_when_it_is_revoked_or_replaced(queue: Queue) -> None:
    large = CALL._replace(payload=[bytes(CALL_BYTES)])
    slot = queue.slot()
    paths = [Path(queue.client.files.beside(FIRST + line)) for line in range(3)]
    for line in range(3):
        assert queue.client.put(FIRST + line, large) is Written.BESIDE
    queue.client.revoke(FIRST)
    queue.client.put(FIRST + 1 + LINES, large._replace(number=9))
    assert slot.take() == large, "that of the third ticket: the lines of the first two have another call, or none"
    assert slot.take() == large._replace(number=9)
    assert [path.exists() for path in paths] == [False, True, True]


def test_a_call_for_which_there_is_no_memory_leaves_no_file(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(callqueue.os, "write", full)
        assert queue.client.put(FIRST, CALL._replace(payload=[bytes(CALL_BYTES)])) is Written.REFUSED
    assert not Path(queue.client.files.beside(FIRST)).exists()


def test_all_lines_are_apart(queue: Queue) -> None:
    calls = [QueuedCall(number, f"call {number}", [], [os.urandom(100)]) for number in range(LINES)]
    slots = [queue.slot(lease) for lease in range(3)]
    for number, call in enumerate(calls):
        assert queue.client.put(FIRST + number, call)
    assert [slots[number % 3].take() for number in range(LINES)] == calls
    assert [slot.take() for slot in slots] == [0, 0, 0]


def test_a_revoked_ticket_is_skipped(queue: Queue) -> None:
    slot = queue.slot()
    for line in range(3):
        queue.client.put(FIRST + line, CALL._replace(number=line))
    queue.client.revoke(FIRST)
    queue.client.revoke(FIRST + 2)
    assert slot.take() == CALL._replace(number=1)
    assert queue.client.claim(0) == FIRST + 1
    assert slot.take() == 0


def test_a_ticket_whose_line_has_another_call_by_now_is_skipped(queue: Queue) -> None:
    slot = queue.slot()
    queue.client.put(FIRST, CALL)
    queue.client.put(FIRST + LINES, CALL._replace(number=8))
    assert slot.take() == CALL._replace(number=8)
    assert slot.take() == 0


def test_a_call_that_changes_while_it_is_read_is_skipped(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = queue.slot()
    queue.client.put(FIRST, CALL)
    later = iter([lambda: queue.client.put(FIRST + LINES, CALL._replace(number=8))])

    def unpack_from(memory: bytes, at: int) -> tuple[int, int]:
        found = HEADER.unpack_from(memory, at)
        next(later, lambda: True)()
        return found[0], found[1]

    header = SimpleNamespace(size=HEADER.size, pack_into=HEADER.pack_into, unpack_from=unpack_from)
    monkeypatch.setattr(callqueue, "HEADER", header)
    assert slot.take() == CALL._replace(number=8)
    assert queue.client.claim(0) == FIRST + LINES


def test_a_ticket_that_is_put_again_is_taken_again(queue: Queue) -> None:
    slot, other = queue.slot(), queue.slot(1)
    queue.client.put(FIRST, CALL)
    assert slot.take() == CALL
    queue.client.put_again(FIRST)
    assert other.take() == CALL
    assert (queue.client.claim(0), queue.client.claim(1)) == (FIRST, FIRST)


def test_what_was_drained_is_taken_by_nobody(queue: Queue) -> None:
    slot = queue.slot()
    for line in range(LINES):
        queue.client.put(FIRST + line, CALL)
    queue.client.ask_back(3)
    queue.client.drain()
    assert slot.take() == 0
    queue.client.drain()


def test_each_ticket_to_leave_ends_one_lease(queue: Queue) -> None:
    slots = [queue.slot(lease) for lease in range(3)]
    queue.client.ask_back(2)
    assert [slot.take() for slot in slots] == [LEAVE, LEAVE, 0]
    assert [queue.client.claim(lease) for lease in range(3)] == [0, 0, 0]


# --- claims ---


def test_a_claim_stands_from_before_the_ticket_is_read_until_the_result_is_given(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = queue.slot(5)
    seen = []
    read = os.read

    def reading(file: int, size: int) -> bytes:
        seen.append(queue.client.claim(5))
        return read(file, size)

    monkeypatch.setattr(callqueue.os, "read", reading)
    queue.client.put(FIRST, CALL)
    queue.client.put(FIRST + 1, CALL)
    queue.client.revoke(FIRST)
    assert queue.client.claim(5) == 0
    assert slot.take() == CALL
    assert queue.client.claim(5) == FIRST + 1
    assert slot.give(7, 0.5, b"result")
    assert queue.client.claim(5) == FIRST + 1, "it is cleared when the result is there"
    slot.done()
    assert queue.client.claim(5) == 0
    assert slot.take() == 0
    assert queue.client.claim(5) == 0
    monkeypatch.undo()
    assert seen == [TAKING, TAKING, TAKING]


def test_a_ticket_is_claimed_before_its_line_is_looked_at(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = queue.slot()
    queue.client.put(FIRST, CALL)
    claims = []

    def looking(body: bytes) -> list[object]:
        claims.append(queue.client.claim(0))
        queue.client.revoke(FIRST)
        return [*CALL]

    monkeypatch.setattr(callqueue, "unpack", looking)
    slot.take()
    assert claims == [FIRST]


def test_what_a_lease_that_has_ended_had_in_hand_is_forgotten(queue: Queue) -> None:
    slot, other = queue.slot(), queue.slot(1)
    queue.client.put(FIRST, CALL)
    queue.client.put(FIRST + 1, CALL)
    slot.take()
    other.take()
    queue.client.clear_claim(0)
    assert (queue.client.claim(0), queue.client.claim(1)) == (0, FIRST + 1)


# --- results ---

DIRECT = PIPE_BUF - RESULT.size
SIZES = st.integers(0, RESULT_BYTES + 10) | st.sampled_from([DIRECT, DIRECT + 1, PIPE_BUF, RESULT_BYTES])
PICKLES = st.binary(max_size=300) | SIZES.map(bytes)


@given(st.lists(PICKLES, max_size=5))
def test_any_result_comes_out_as_it_went_in_if_it_is_not_too_large(one_queue: Queue, pickles: list[bytes]) -> None:
    slot = one_queue.slot()
    given_results = []
    for number, pickle in enumerate(pickles):
        one_queue.client.put(FIRST + number, CALL)
        assert isinstance(slot.take(), QueuedCall)
        given_ = slot.give(number, number / 7, memoryview(pickle))
        assert given_ == (len(pickle) <= RESULT_BYTES)
        if given_:
            given_results.append((number, FIRST + number, number / 7, pickle))
    slot.close()
    came = []
    for number, ticket, duration, size, pickle in one_queue.results.read():
        in_line = one_queue.client.result_in_line(ticket, size & ~ELSEWHERE)
        assert bool(size & ELSEWHERE) == (size & ~ELSEWHERE > DIRECT), "a pipe is written whole up to PIPE_BUF only"
        came.append((number, ticket, duration, in_line if size & ELSEWHERE else pickle))
    assert came == given_results
    assert one_queue.results.read() == []


@given(
    st.lists(st.one_of(st.binary(max_size=200), st.integers(1, RESULT_BYTES)), max_size=10),
    st.lists(st.integers(1, 400), max_size=40),
    st.sampled_from([1, 7, 64, 1 << 16]),
)
def test_results_come_out_whole_however_they_are_read(
    one_queue: Queue, results: list[bytes | int], pieces: list[int], at_once: int
) -> None:
    sent, records = b"", []
    for number, result in enumerate(results):
        size, pickle = (result | ELSEWHERE, b"") if isinstance(result, int) else (len(result), result)
        sent += RESULT.pack(number, FIRST, 0.5, size) + pickle
        records.append((number, FIRST, 0.5, size, pickle))
    came = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callqueue, "_READ_BYTES", at_once)
        for piece in [*pieces, len(sent)]:
            os.write(one_queue.results.fileno(), sent[:piece])
            sent = sent[piece:]
            came += one_queue.results.read()
    assert came == records


def test_results_of_many_slots_come_whole(queue: Queue) -> None:
    slots = [queue.slot(lease) for lease in range(4)]
    pickle = bytes(PIPE_BUF - RESULT.size)
    given_ = 0
    while slots[given_ % 4].give(given_, 0.0, pickle):
        given_ += 1
    assert given_ >= 2
    assert [(number, body) for number, _, _, _, body in queue.results.read()] == [(n, pickle) for n in range(given_)]
    assert slots[0].give(1, 0.0, pickle), "there is room again"


def test_a_result_for_a_client_that_is_gone_goes_another_way(queue: Queue) -> None:
    slot = queue.slot()
    queue.client.put(FIRST, CALL)
    slot.take()
    queue.results.abandon()
    try:
        assert not slot.give(7, 0.0, b"small")
        assert not slot.give(7, 0.0, bytes(PIPE_BUF))
    finally:
        queue.results._pipe = os.open("/dev/null", os.O_RDONLY)


# --- the end ---


def test_a_slot_notices_that_the_client_is_gone_when_it_has_taken_all(queue: Queue) -> None:
    slot = queue.slot()
    queue.client.put(FIRST, CALL)
    queue.client_leaves()
    assert slot.take() == CALL
    assert slot.give(7, 0.0, bytes(PIPE_BUF)), "it may write where nobody reads"
    with pytest.raises(EOFError):
        slot.take()


def test_no_slot_can_open_a_queue_that_is_gone(queue: Queue, tmp_path: Path) -> None:
    payload = queue.client.files.pack(0)
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / f"results.{owner()}-0").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        QueueEnd(payload)
    (tmp_path / "elsewhere").rename(tmp_path / f"results.{owner()}-0")
    assert len(os.listdir("/proc/self/fd")) == before
    queue.client_leaves()
    with pytest.raises(FileNotFoundError):
        QueueEnd(payload)


def test_files_are_this_users_alone_and_gone_when_they_are_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    results = ResultPipe(tmp_path, 3)
    queues = [CallQueue(tmp_path, str(results.path), number) for number in range(3)]
    made = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert made == dict.fromkeys(
        [f"{kind}.{owner()}-{number}" for kind in ("arena", "calls") for number in range(3)] + [f"results.{owner()}-3"],
        0o600,
    )
    for queue in queues:
        queue.close()
    results.close()
    assert not list(tmp_path.iterdir())
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_fork_leaves_the_files_to_its_parent(tmp_path: Path) -> None:
    results = ResultPipe(tmp_path, 0)
    queue = CallQueue(tmp_path, str(results.path), 0)
    queue.abandon()
    results.abandon()
    assert len(list(tmp_path.iterdir())) == 3


def test_files_may_be_gone_already_when_they_are_closed(tmp_path: Path) -> None:
    results = ResultPipe(tmp_path, 0)
    queue = CallQueue(tmp_path, str(results.path), 0)
    for path in list(tmp_path.iterdir()):
        path.unlink()
    queue.close()
    results.close()


@pytest.mark.parametrize("fails", ["ftruncate", "posix_fallocate", "mkfifo", "open"])
def test_a_queue_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(callqueue.os, fails, full)
        with pytest.raises(OSError, match="No space left"):
            CallQueue(tmp_path, "results", 0)
    assert not list(tmp_path.iterdir())
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_call_for_whose_ticket_the_pipe_has_no_room_is_refused(queue: Queue) -> None:
    fcntl.fcntl(queue.client._pipe, fcntl.F_SETPIPE_SZ, 4096)
    put = [queue.client.put(FIRST + line, CALL) for line in range(LINES)]
    assert queue.client.put(FIRST + LINES, CALL) is Written.REFUSED
    assert set(put) == {Written.IN_LINE}
    slot = queue.slot()
    taken = [slot.take() for _ in range(LINES)]
    assert taken.count(CALL) == LINES - 1, "the line of the refused call has none"


def test_a_call_for_whose_line_there_is_no_memory_is_refused(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert queue.client.put(FIRST, CALL)
    with monkeypatch.context() as patch:
        patch.setattr(callqueue.os, "posix_fallocate", full)
        assert queue.client.put(FIRST + 1, CALL) is Written.REFUSED
        assert queue.client.put(FIRST + LINES, CALL) is Written.IN_LINE, "that line has memory"
    slot = queue.slot()
    assert slot.take() == CALL
    assert slot.take() == 0


# --- in a store ---


def test_a_store_removes_the_queues_of_a_killed_process(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(callqueue, "owner", lambda: owner(NO_PROCESS))
        dead = ResultPipe(store.folder, 0)
        CallQueue(store.folder, str(dead.path), 0).abandon()
        dead.abandon()
    results = ResultPipe(store.folder, 0)
    live = CallQueue(store.folder, str(results.path), 0)
    assert len(files(store)) == 6
    store.put(blob(1), data(1))
    kept = {name for name in files(store) if name.partition(".")[0] in ("arena", "calls", "results")}
    assert kept == {f"{kind}.{owner()}-0" for kind in ("arena", "calls", "results")}
    live.close()
    results.close()


def test_what_a_queue_does_not_use_takes_no_room_in_a_store(store: BlobStore) -> None:
    results = ResultPipe(store.folder, 0)
    queue = CallQueue(store.folder, str(results.path), 0)
    assert Path(queue.files.arena).stat().st_size > LINES * CALL_BYTES
    store.put(blob(1, 80 * KIB), data(1, 80 * KIB))
    assert not (store.folder / blob(1, 80 * KIB).hex()).is_symlink()
    store.unpin_all()
    queue.put(FIRST, CALL)
    with pytest.warns(UserWarning, match="no room in shared memory"):
        store.put(blob(2, 90 * KIB), data(2, 90 * KIB))
    assert Path(queue.files.arena).exists(), "a store makes no room there"
    queue.close()
    results.close()
