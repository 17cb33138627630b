"""Results in a store: they stay until they are taken, or their process ended before anybody heard of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minidask.data.store import RESULT, BlobStore
from minidask.host.folders import owner
from tests.data.stores import KIB, blob, data, files

BLOB = b"p" * 16


def fill(store: BlobStore) -> None:
    """Have a process look for room."""
    other = BlobStore(store.folder)
    other.put(blob(3, 60 * KIB), data(3, 60 * KIB))
    other.unpin(blob(3, 60 * KIB))


def in_another_process(code: str, folder: Path) -> str:
    code = "import os, sys; from minidask.data.store import BlobStore; s = BlobStore(sys.argv[1]); " + code
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout.strip()


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
            (store.folder / f"{BLOB.hex()}.{name}{suffix}").touch()
    fill(store)
    assert {name for name in files(store) if BLOB.hex() in name} == {
        f"{BLOB.hex()}.{elsewhere}{suffix}" for suffix in ("-1", "-2.draft", RESULT)
    }
