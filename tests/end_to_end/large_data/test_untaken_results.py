"""Large results that nobody has taken yet: they stay as long as somebody may, and no longer."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import minidask
from minidask.data.store import RESULT, BlobStore
from minidask.host.folders import owner
from minidask.wire import messages as m
from minidask.worker import events as e
from minidask.worker.untaken import Untaken
from tests.data.stores import KIB, blob, data, files, new_store
from tests.helpers import Programs, at_rest, wait_until
from tests.rig import Rig, done, run

PART = b"p" * 16


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return new_store(tmp_path, 100 * KIB)


def fill(store: BlobStore) -> None:
    """Have a process look for room."""
    other = BlobStore(store.folder)
    other.put(blob(3, 60 * KIB), data(3, 60 * KIB))
    other.unpin(blob(3, 60 * KIB))


def in_another_process(code: str, folder: Path) -> str:
    code = "import os, sys; from minidask.data.store import BlobStore; s = BlobStore(sys.argv[1]); " + code
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout.strip()


# --- in a store ---


def test_no_age_removes_a_result(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted, handed_over = store.hand_over(data(5)), store.hand_over(data(6))
    store.accept(accepted)
    for path in store.folder.iterdir():
        if RESULT in path.name:
            os.utime(path, (1, 1))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 10 * 365 * 86400)
    fill(store)
    assert store.take(accepted) == data(5)
    assert store.accept(handed_over) == len(data(6))
    assert store.take(handed_over) == data(6)


def test_a_result_outlives_the_process_that_it_is_of_once_it_was_accepted(store: BlobStore) -> None:
    code = "print(s.hand_over(bytes(9000)).hex(), flush=True)"
    told = bytes.fromhex(in_another_process(code, store.folder))
    assert store.accept(told) == 9000
    untold = bytes.fromhex(in_another_process(code, store.folder))
    fill(store)
    assert store.results() == {told}
    assert store.accept(untold) == 0, "its process is gone, and the daemon has never heard of it"
    assert store.take(told) == bytes(9000)


def test_what_another_container_owns_is_not_judged_by_its_number(store: BlobStore) -> None:
    if os.getuid() != 0 or not shutil.which("unshare"):
        pytest.skip("numbers of processes of one's own need root, and unshare")
    store.put(blob(1), data(1))
    store.hand_over(data(2))
    before = files(store)
    code = (
        "import os, sys; from minidask.data.store import BlobStore; BlobStore(sys.argv[1])._sweep(); print(os.getpid())"
    )
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code, str(store.folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert int(result.stdout) < 10
    assert files(store) == before


def test_what_is_owned_elsewhere_is_left_and_what_is_owned_by_the_dead_is_removed(store: BlobStore) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, elsewhere = owner(gone.pid), f"{gone.pid}-00000000"
    for name in (dead, elsewhere):
        for suffix in ("-1", "-2.draft", RESULT):
            (store.folder / f"{PART.hex()}.{name}{suffix}").touch()
    fill(store)
    assert {name for name in files(store) if PART.hex() in name} == {
        f"{PART.hex()}.{elsewhere}{suffix}" for suffix in ("-1", "-2.draft", RESULT)
    }


# --- who waits ---


class Known:
    """In the place of a scheduler: who waits for which task."""

    def __init__(self, **clients: int) -> None:
        self.waits = {int(task[1:]): client for task, client in clients.items()}
        self.clients = set(clients.values())

    def recipient(self, task: int, attempt: int) -> int:
        return self.waits.get(task, 0)


def left(store: BlobStore, number: int) -> bytes:
    name = store.hand_over(data(number))
    store.accept(name)
    return name


def test_what_was_left_for_a_client_goes_when_it_has_left_and_not_before(store: BlobStore) -> None:
    known = Known(t1=7, t2=7, t3=8)
    untaken = Untaken(store, known)
    names = [left(store, number) for number in range(4)]
    for number, name in enumerate(names):
        untaken.add(number, 1, [name])
    assert store.results() == set(names[1:]), "nobody waits for the first"
    untaken.look()
    assert store.results() == set(names[1:])
    store.take(names[1])
    known.clients = {8}
    untaken.look()
    assert store.results() == {names[3]}
    known.clients = set()
    untaken.look()
    assert store.results() == set()
    shutil.rmtree(store.folder)
    untaken.add(3, 1, [PART])
    untaken.look()


def test_the_worker_of_a_shared_store_tells_outcomes_at_once_and_removes_what_nobody_is_told_of() -> None:
    rig = Rig()
    rig.core.data.shared = True
    rig.run(1)
    assert rig.do(e.ResultLeft(0, done(1), {PART: 100})) == [e.AwaitTaker(1, 1, [PART]), e.ToScheduler(done(1))]
    rig.run(2, timeout=1.0)
    rig.pass_time(2)
    stopped = m.Stopped(2, 1, "timeout", "it ran longer than its time limit of 1 seconds and was stopped")
    assert rig.do(e.ResultLeft(0, done(2), {PART: 100})) == [e.RemoveResult(PART), e.ToScheduler(stopped)]
    assert rig.do(e.ResultLeft(0, done(9), {PART: 100})) == [e.RemoveResult(PART)]
    assert rig.run(3) == [e.ToSlot(0, run(3))]


# --- on a cluster ---


def large(number: int) -> np.ndarray:
    return np.full(2**18, number)


def waiting(client: minidask.Client) -> set[bytes]:
    assert client.shell.store is not None
    return client.shell.store.results()


def test_results_of_a_task_that_was_cancelled_are_removed(client: minidask.Client, tmp_path: Path) -> None:
    def late(folder: str) -> np.ndarray:
        open(os.path.join(folder, "began"), "w").close()
        while not os.path.exists(os.path.join(folder, "end")):
            time.sleep(0.005)
        return np.zeros(2**18)

    future = client.submit(late, str(tmp_path))
    wait_until((tmp_path / "began").exists, "the task had begun")
    assert future.cancel()
    (tmp_path / "end").touch()
    wait_until(lambda: not client.scheduler_info()["tasks"]["running"], "it had ended")
    assert client.submit(large, 1).result(30)[0] == 1
    assert waiting(client) == set()


STOPPED = """
import sys, minidask, numpy as np
client = minidask.Client(sys.argv[1])
futures = [client.submit(lambda i: np.full(2**18, i), i) for i in range(6)]
print("submitted", flush=True)
assert sys.stdin.readline()
assert [future.result(30)[0] for future in futures] == list(range(6))
print("all are there", flush=True)
"""


@contextlib.contextmanager
def stopped_client(client: minidask.Client) -> Iterator[subprocess.Popen[str]]:
    """Another client of the cluster: six tasks of its are done, and it has been stopped and reads nothing."""
    command = [sys.executable, "-c", STOPPED, client.address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "submitted\n"
            process.send_signal(signal.SIGSTOP)
            wait_until(lambda: at_rest(client), "its tasks were done")
            yield process
        finally:
            process.kill()


def test_a_client_that_reads_nothing_for_a_day_gets_its_results(one_worker: minidask.Client) -> None:
    store = one_worker.shell.store
    assert store is not None
    with stopped_client(one_worker) as process:
        there = store.results()
        for name in there:
            os.utime(store.folder / f"{name.hex()}{RESULT}", (1, 1))
        store._has_room(2**60)
        assert store.results() == there
        process.send_signal(signal.SIGCONT)
        assert process.communicate("go\n", 30)[0] == "all are there\n"
    assert not store.results()


def test_what_was_left_for_a_client_that_was_killed_goes(one_worker: minidask.Client) -> None:
    store = one_worker.shell.store
    assert store is not None
    with stopped_client(one_worker):
        pass
    wait_until(lambda: not store.results(), "its results were removed")


def test_a_slot_that_dies_right_after_its_word_loses_nothing(programs: Programs) -> None:
    script = """
import os, threading, time, minidask, numpy as np

def last_words(i):
    threading.Thread(target=lambda: (time.sleep(0.005 * (i % 4)), os.kill(os.getpid(), 9))).start()
    return np.full(2**18, i)

with minidask.Client(n_workers=2) as client:
    futures = client.map(last_words, range(24))
    results = [future.exception(60) or future.result()[0] for future in futures]
    assert all(isinstance(r, minidask.errors.KilledWorker) or r == i for i, r in enumerate(results)), results
    print("all is right", flush=True)
"""
    program = programs.script(script)
    assert program.exit_code(60) == 0, program.text
    assert "all is right" in program.text
