"""What tasks have of the caller's process, as its children have: keys, resource tracker, command line, pools."""

from __future__ import annotations

import logging
import math
import multiprocessing
import multiprocessing.process
import os
import random
import signal
import sys
import warnings
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed

import minidask
from minidask import errors
from tests.helpers import Programs, wait_until


@pytest.fixture
def segment() -> Iterator[shared_memory.SharedMemory]:
    made = shared_memory.SharedMemory(create=True, size=16)
    yield made
    made.close()
    made.unlink()


def add_up(numbers: Any, lock: Any, queue: Any, i: int) -> None:
    with lock:
        numbers.append(i)
    queue.put(i)


def write(name: str, at: int) -> int:
    attached = shared_memory.SharedMemory(name)
    attached.buf[at] = at + 1
    attached.close()
    return os.getpid()


def make() -> str:
    made = shared_memory.SharedMemory(create=True, size=4)
    made.buf[0] = 7
    made.close()
    return made.name


def remove(name: str) -> None:
    attached = shared_memory.SharedMemory(name)
    attached.close()
    attached.unlink()


def there(name: str) -> bool:
    return os.path.exists(f"/dev/shm/{name}")


@pytest.mark.parametrize("backend", ["minidask", "loky"])
def test_a_managers_proxies_work_in_tasks(client: minidask.Client, backend: str) -> None:
    with multiprocessing.Manager() as manager, joblib.parallel_config(backend, n_jobs=2):
        numbers, lock, queue = manager.list(), manager.Lock(), manager.Queue()
        Parallel()(delayed(add_up)(numbers, lock, queue, i) for i in range(10))
        assert sorted(numbers) == list(range(10))
        assert sorted(queue.get(timeout=10) for _ in range(10)) == list(range(10))


def test_a_key_that_is_changed_is_changed_in_tasks(client: minidask.Client) -> None:
    current = multiprocessing.process.current_process()
    before = bytes(current.authkey)
    try:
        for key in (b"one", b"two"):
            current.authkey = key
            assert client.submit(lambda: bytes(multiprocessing.current_process().authkey)).result(10) == key
    finally:
        current.authkey = before


def test_the_key_does_not_leave_the_machine(programs: Programs) -> None:
    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as client:
        key = client.submit(lambda: bytes(multiprocessing.current_process().authkey)).result(20)
    assert key != bytes(multiprocessing.process.current_process().authkey)


def test_a_slot_that_ends_leaves_the_callers_shared_memory(segment: shared_memory.SharedMemory) -> None:
    with minidask.Client(n_workers=2) as client:
        pids = {client.submit(write, segment.name, at).result(10) for at in range(8)}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: client.submit(os.getpid).result(30) not in pids, "there was another slot")
        client.submit(write, segment.name, 8).result(30)
    assert there(segment.name)
    assert bytes(segment.buf[:9]) == bytes(range(1, 10))


def test_what_a_task_makes_outlives_its_slot_until_somebody_removes_it() -> None:
    resource_tracker.ensure_running()
    with minidask.Client(n_workers=1) as client:
        name = client.submit(make).result(10)
        other = client.submit(make).result(10)
        client.submit(remove, other).result(10)
        assert not there(other)
    assert there(name)
    mine = shared_memory.SharedMemory(name)
    assert mine.buf[0] == 7
    mine.close()
    mine.unlink()


def test_nothing_is_said_to_have_leaked(programs: Programs) -> None:
    script = programs.script(
        """
from multiprocessing.shared_memory import SharedMemory
import minidask
def make():
    made = SharedMemory(create=True, size=4)
    made.close()
    return made.name
def attach(name):
    SharedMemory(name).close()
def remove(name):
    SharedMemory(name).unlink()
with minidask.Client(n_workers=2) as client:
    names = client.gather([client.submit(make) for _ in range(4)])
    for name in names[:2]:
        client.submit(remove, name).result()
    for name in names[2:]:
        client.submit(attach, name).result()
        mine = SharedMemory(name)
        mine.close()
        mine.unlink()
    own = SharedMemory(create=True, size=4)
    client.submit(attach, own.name).result()
own.close()
own.unlink()
print("end")
"""
    )
    assert script.exit_code() == 0, script.text
    assert script.text == "end\n"


def test_between_machines_attaching_does_not_register(programs: Programs, segment: shared_memory.SharedMemory) -> None:
    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as client:
        pid = client.submit(write, segment.name, 0).result(20)
        os.kill(pid, signal.SIGKILL)
        client.submit(write, segment.name, 1).result(20)
    assert bytes(segment.buf[:2]) == b"\1\2"
    assert there(segment.name)


def nested(backend: str) -> list[float]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return list(Parallel(n_jobs=2, backend=backend)(delayed(math.sqrt)(i) for i in (1, 4, 9)))


def nested_by_value(backend: str) -> list[int]:
    def square(x: int) -> int:
        return x * x

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return list(Parallel(n_jobs=2, backend=backend)(delayed(square)(i) for i in (1, 2, 3)))


def pool(method: str) -> list[float]:
    with multiprocessing.get_context(method).Pool(2) as made:
        return made.map(math.sqrt, [1, 4, 9])


@pytest.mark.parametrize("backend", ["multiprocessing", "loky", "threading", "sequential"])
def test_other_backends_work_inside_tasks(client: minidask.Client, backend: str) -> None:
    assert client.submit(nested, backend).result(60) == [1, 2, 3]
    assert client.submit(nested_by_value, backend).result(60) == [1, 4, 9]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pools_of_multiprocessing_work_inside_tasks(client: minidask.Client, method: str) -> None:
    with joblib.parallel_config("minidask", n_jobs=2):
        assert Parallel()(delayed(pool)(method) for _ in range(2)) == [[1, 2, 3]] * 2


def test_the_command_line_is_the_callers(client: minidask.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in (["prog", "--x"], [], ["caf\udce9"], [os.curdir]):
        monkeypatch.setattr(sys, "argv", line)
        assert client.submit(lambda: sys.argv).result(10) == line


@pytest.mark.parametrize("source", ["random.random()", "numpy.random.rand()"])
def test_slots_do_not_draw_the_same_numbers(client: minidask.Client, source: str) -> None:
    def draw() -> tuple[int, float]:
        return os.getpid(), random.random() if source.startswith("random") else float(np.random.rand())

    drawn = dict(client.gather([client.submit(draw) for _ in range(40)]))
    assert len(drawn) == len(set(drawn.values()))


def test_named_levels_are_the_callers(client: minidask.Client) -> None:
    def levels() -> tuple[int, bool]:
        return logging.getLogger("tests.named").level, logging.getLogger("other").isEnabledFor(logging.ERROR)

    named = logging.getLogger("tests.named")
    try:
        named.setLevel(logging.DEBUG)
        assert client.submit(levels).result(10) == (logging.DEBUG, True)
        named.setLevel(logging.NOTSET)
        logging.disable(logging.CRITICAL)
        assert client.submit(levels).result(10) == (logging.NOTSET, False)
    finally:
        named.setLevel(logging.NOTSET)
        logging.disable(logging.NOTSET)
    assert client.submit(levels).result(10) == (logging.NOTSET, True)


def test_the_interpreters_options_are_the_callers(programs: Programs) -> None:
    script = programs.script(
        """
import sys, minidask
def flags():
    return sys.flags.optimize, sys.flags.dev_mode, sys.warnoptions[-1:]
with minidask.Client(n_workers=1) as client:
    assert client.submit(flags).result(30) == flags(), client.submit(flags).result(30)
    print(flags())
"""
    )
    assert script.exit_code() == 0, script.text
    options = ["-O", "-X", "dev", "-W", "error::UserWarning"]
    optimized = programs.start(sys.executable, *options, str(script.log.with_name("script0.py")))
    assert optimized.exit_code() == 0, optimized.text
    assert optimized.text.endswith("(1, True, ['error::UserWarning'])\n")


def test_a_crash_tells_where(client: minidask.Client, capsys: pytest.CaptureFixture[str]) -> None:
    def crash_here() -> None:
        import ctypes

        ctypes.string_at(0)

    with pytest.raises(errors.KilledWorker):
        client.submit(crash_here).result(30)
    assert "Fatal Python error: Segmentation fault" in (told := capsys.readouterr().err)
    assert "in crash_here" in told
