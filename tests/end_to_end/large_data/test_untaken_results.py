"""Large results that nobody has taken yet: they stay as long as somebody may, and no longer."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import minidask
from minidask.data.store import RESULT
from tests.helpers import Programs, at_rest, wait_until


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
