"""`Parallel` calls on a cluster with a call queue: what users see of it, and what others on the cluster see."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from operator import neg
from pathlib import Path
from typing import Any

import joblib
import psutil
import pytest
from joblib import Parallel, delayed

import minidask
from minidask import errors
from minidask.task import channels
from tests.helpers import Programs, alive, at_rest, delayed_calls, wait_until

pytestmark = pytest.mark.usefixtures("on_client")

LOGGER = logging.getLogger("tests.call_queue")


def in_use(client: minidask.Client) -> bool:
    """Whether the client has a call queue: all that is tested here would work without."""
    return len(client.shell.core.queues) > 0


# --- what a call says ---


def speak(i: int) -> int:
    if i % 3 == 0:
        print("printed", i)
    if i % 3 == 1:
        LOGGER.warning("logged %d", i)
    if i % 5 == 0:
        channels.tell_caller("call queue", [b"told %d" % i])
    return i


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_what_a_call_prints_and_logs_is_there_before_its_result(
    return_as: str, client: minidask.Client, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    channels.handle("call queue", lambda payload: None)
    printed = ""
    for i in Parallel(n_jobs=2, batch_size=1, return_as=return_as)(delayed_calls(speak, 300)):
        printed += capsys.readouterr().out
        if i % 3 == 0:
            assert f"printed {i}\n" in printed
        if i % 3 == 1:
            assert f"logged {i}" in [record.getMessage() for record in caplog.records]
    assert printed.count("\n") == 100 and len(caplog.records) == 100
    assert in_use(client)


def say_much(i: int) -> int:
    for k in range(50):
        print(i, k)
        LOGGER.warning("%d %d", i, k)
        channels.tell_caller("call queue", [b"%d %d" % (i, k)])
    return i


def test_what_a_call_prints_logs_and_tells_comes_in_order(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    channels.handle("call queue", lambda payload: told.append(bytes(payload[0]).decode()))
    assert Parallel(n_jobs=2, batch_size=1)(delayed_calls(say_much, 60)) == list(range(60))
    for lines in (capsys.readouterr().out.splitlines(), [record.getMessage() for record in caplog.records], told):
        assert len(lines) == 60 * 50
        for i in range(60):
            assert [line for line in lines if line.split()[0] == str(i)] == [f"{i} {k}" for k in range(50)]


# --- others on the cluster ---


def moment(seconds: float = 0.0) -> float:
    """When the call began; it takes so long."""
    began = time.monotonic()
    time.sleep(seconds)
    return began


OTHER = """
import json, pathlib, sys, time
import joblib, minidask
from joblib import Parallel, delayed

def moment(seconds):
    began = time.monotonic()
    time.sleep(seconds)
    return began

folder = pathlib.Path(sys.argv[2])
with minidask.Client(sys.argv[1]) as client, joblib.parallel_config("minidask", scheduler=client):
    Parallel(batch_size=1)(delayed(moment)(0) for _ in range(4))
    (folder / "ready").touch()
    while not (folder / "go").exists():
        time.sleep(0.001)
    moments = Parallel(batch_size=1)(delayed(moment)(0.005) for _ in range(800))
    assert len(client.shell.core.queues)
    (folder / "moments").write_text(json.dumps(moments))
"""


def test_two_programs_have_equal_shares_while_both_have_calls(
    client: minidask.Client, programs: Programs, tmp_path: Path
) -> None:
    import json

    other = programs.script(OTHER, client.address, str(tmp_path))
    wait_until(lambda: (tmp_path / "ready").exists() or other.process.poll() is not None, "the other one was ready")
    (tmp_path / "go").touch()
    ours = Parallel(batch_size=1)(delayed(moment)(0.005) for _ in range(800))
    assert other.exit_code() == 0, other.text
    theirs = json.loads((tmp_path / "moments").read_text())
    begin, end = max(min(ours), min(theirs)), min(max(ours), max(theirs))
    counts = [sum(begin <= one <= end for one in moments) for moments in (ours, theirs)]
    assert sum(counts) > 800, "they ran at the same time"
    assert 0.6 < counts[0] / counts[1] < 1.6, counts


@pytest.mark.parametrize("seconds", [0.0, 0.02])
@pytest.mark.parametrize("who", ["another client", "a higher priority"])
def test_a_task_gets_a_slot_when_a_call_in_hand_is_over(who: str, seconds: float, client: minidask.Client) -> None:
    calls = Parallel(batch_size=1, pre_dispatch=1000, return_as="generator_unordered")(
        delayed(moment)(seconds) for _ in range(10**9)
    )
    moments = [next(calls)]
    with contextlib.ExitStack() as stack:
        submitter = stack.enter_context(minidask.Client(client.address)) if who == "another client" else client
        submitter.submit(moment).result(20)  # what describes this process is sent before it is measured
        for _ in range(5):
            asked = time.monotonic()
            ran = submitter.submit(moment, priority=int(submitter is client)).result(20)
            while (at := next(calls)) < ran:
                moments.append(at)
            assert not seconds or sum(asked < at < ran for at in moments) <= 6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del calls
    wait_until(lambda: at_rest(client), "the rest was cancelled", 10)


# --- ends ---


INTERRUPTED = """
import os, pathlib, signal, sys, threading, time
import joblib, minidask
from joblib import Parallel, delayed
from operator import neg

signal.signal(signal.SIGINT, signal.default_int_handler)
client = minidask.Client(n_workers=2)

def files():
    return [path.name for path in client.shell.store.folder.iterdir() if path.name[:6] in ("arena.", "calls.")]

def at_rest():
    tasks = client.scheduler_info()["tasks"]
    return not tasks["queued"] and not tasks["running"]

with joblib.parallel_config("minidask", scheduler=client):
    for delay in (0.001, 0.05, 0.2, 0.4, 0.5, 0.6):
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            for _ in range(100):
                Parallel(batch_size=1, pre_dispatch="all")(delayed(neg)(i) for i in range(10_000))
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("it was not interrupted")
        assert Parallel()(delayed(neg)(i) for i in range(500)) == [-i for i in range(500)]
    end = time.monotonic() + 20
    while not at_rest():
        assert time.monotonic() < end, client.scheduler_info()["tasks"]
        time.sleep(0.01)
    assert len(files()) <= 2, files()
client.close()
print("left", *pathlib.Path("/dev/shm").glob(f"minidask-{os.getpid()}-*"))
"""


def test_ctrl_c_amid_ten_thousand_calls_leaves_nothing(programs: Programs) -> None:
    script = programs.script(INTERRUPTED)
    assert script.exit_code(50) == 0, script.text
    assert script.text == "left\n"


@pytest.mark.parametrize("way", ["cancel_all", "restart"])
@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_all_is_cancelled_by_another_thread(way: str, seconds: float) -> None:
    caught: list[BaseException] = []

    def call() -> None:
        try:
            with joblib.parallel_config("minidask", scheduler=client):
                Parallel(batch_size=1)(delayed(moment)(seconds) for _ in range(100_000))
        except BaseException as error:
            caught.append(error)

    with minidask.Client(n_workers=2) as client:
        thread = threading.Thread(target=call)
        thread.start()
        wait_until(lambda: client.scheduler_info()["tasks"]["running"] == 2, "they run")
        if way == "restart":
            client.restart(20)
        else:
            client.cancel_all(force=True)
        thread.join(10)
        assert len(caught) == 1 and isinstance(caught[0], errors.MinidaskError), caught
        assert "cancelled" in str(caught[0])
        wait_until(lambda: at_rest(client), "all ended")
        with joblib.parallel_config("minidask", scheduler=client):
            assert Parallel()(delayed_calls(neg, 100)) == [-i for i in range(100)]


def test_a_restart_by_another_client_does_not_wait_for_the_end_of_a_call(client: minidask.Client) -> None:
    with minidask.Client(client.address) as other:
        calls = Parallel(batch_size=1, return_as="generator")(delayed(os_and_moment)(i) for i in range(100_000))
        before, _ = next(calls)
        other.restart(30)
        found = {process for process, _ in zip((pid for pid, _ in calls), range(2000), strict=False)}
        assert found - {before}, "fresh workers run the same call"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del calls
    wait_until(lambda: at_rest(client), "the rest was cancelled", 10)


def os_and_moment(i: int) -> tuple[int, int]:
    return os.getpid(), i


def test_a_cluster_shrinks_and_grows_during_a_call() -> None:
    with (
        minidask.LocalCluster(2) as cluster,
        minidask.Client(cluster) as client,
        joblib.parallel_config("minidask", scheduler=client),
    ):
        calls = Parallel(batch_size=1, return_as="generator")(delayed_calls(neg, 20_000))
        results = [next(calls)]
        for size in (1, 2, 1, 2):
            cluster.scale(size)
            wait_until(lambda size=size: client.slots() == size, "the size has changed")  # type: ignore[misc]
            results += [next(calls) for _ in range(500)]
        assert results + list(calls) == [-i for i in range(20_000)]


@pytest.mark.parametrize("batch_size", [1, "auto"])
def test_a_generator_that_is_given_up_leaves_the_queue_for_the_next_call(
    batch_size: Any, client: minidask.Client
) -> None:
    for many in (1, 500, 1500):
        results = Parallel(batch_size=batch_size, return_as="generator")(delayed_calls(neg, 2000))
        assert [next(results) for _ in range(many)] == [-i for i in range(many)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del results
        assert Parallel()(delayed_calls(neg, 200)) == [-i for i in range(200)]
    wait_until(lambda: at_rest(client), "the rest was cancelled", 10)


KILLED = """
import os, sys, time
import joblib, minidask
from joblib import Parallel, delayed

with minidask.Client(n_workers=2) as client, joblib.parallel_config("minidask", scheduler=client):
    results = Parallel(batch_size=1, return_as="generator", pre_dispatch=1000)(
        delayed(divmod)(i, 7) for i in range(10**9)
    )
    for i, _ in enumerate(results):
        if i == 1000:
            assert len(client.shell.core.queues)
            print("amid", client.scheduler_info()["pid"], "them", flush=True)
"""


def test_nothing_stays_of_a_program_that_is_killed_amid_its_calls(programs: Programs) -> None:
    program = programs.script(KILLED)
    node = int(program.wait_for("them").split()[-2])
    processes = [node, *(process.pid for process in psutil.Process(node).children())]
    program.send(signal.SIGKILL)
    wait_until(lambda: not alive(processes), "its processes had ended")
    for place in ("/dev/shm", tempfile.gettempdir()):
        for process in (program.process.pid, node):
            left = list(Path(place).glob(f"minidask-{process}-*"))
            assert not left


# --- slots ---


def test_workers_killed_between_two_calls_cost_nothing(client: minidask.Client) -> None:
    for number in range(6):
        (process,) = set(Parallel(n_jobs=2)([delayed(os.getpid)()]))
        os.kill(process, signal.SIGKILL)  # its lease is not over yet
        expected = [-i for i in range(number, number + 300)]
        assert Parallel(n_jobs=2, batch_size=1)(delayed(neg)(i) for i in range(number, number + 300)) == expected
    assert in_use(client)


def test_tasks_have_their_turn_while_workers_are_killed_amid_a_call(client: minidask.Client) -> None:
    with minidask.Client(client.address) as other:
        calls = Parallel(n_jobs=2, batch_size=1, return_as="generator")(delayed(os_and_moment)(i) for i in range(3000))
        numbers = []
        for process, number in calls:
            numbers.append(number)
            if number % 500 == 250:
                with contextlib.suppress(ProcessLookupError):  # this call's worker may be another one's victim
                    os.kill(process, signal.SIGKILL)
                assert [asking.submit(neg, 1).result(20) for asking in (client, other)] == [-1, -1]
        assert numbers == list(range(3000))


# --- sizes ---


def test_a_call_too_large_for_the_queue_among_small_ones(client: minidask.Client) -> None:
    def size_of(data: bytes, i: int) -> tuple[int, int]:
        return len(data), i

    for _ in range(3):
        sizes = [100_000 if i % 100 == 50 else i for i in range(400)]
        calls = (delayed(size_of)(os.urandom(size), i) for i, size in enumerate(sizes))
        assert Parallel(batch_size=1)(calls) == [(size, i) for i, size in enumerate(sizes)]
    assert Parallel()(delayed_calls(neg, 100)) == [-i for i in range(100)]
    assert in_use(client)


@pytest.mark.parametrize("return_as", ["list", "generator_unordered"])
def test_results_of_all_sizes(return_as: str) -> None:
    def data(size: int) -> bytes:
        return bytes([size % 251]) * size

    edges = [0, 1, *(edge + more for edge in (4096, 65_536) for more in range(-80, 40, 5)), 2**18, 2**20]
    found = Parallel(batch_size=1, return_as=return_as)(delayed(data)(size) for size in edges * 3)
    assert sorted(found) == sorted(map(data, edges * 3))


# --- the caller ---


def test_threads_of_the_caller_with_a_call_each(client: minidask.Client) -> None:
    def call(number: int) -> bool:
        with joblib.parallel_config("minidask", scheduler=client):
            found = Parallel(n_jobs=2, batch_size=1)(delayed(pow)(i, number) for i in range(500))
        return bool(found == [i**number for i in range(500)])

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(call, range(4)))


FORKED = """
import gc, os, sys, warnings
import joblib, minidask
from joblib import Parallel, delayed
from operator import neg

warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process that has threads
with minidask.Client(n_workers=2) as client, joblib.parallel_config("minidask", scheduler=client):
    for way in ("exit", "drop", "own"):
        results = Parallel(batch_size=1, return_as="generator")(delayed(neg)(i) for i in range(3000))
        found = [next(results) for _ in range(500)]
        assert len(client.shell.core.queues)
        child = os.fork()
        if not child:
            if way == "drop":
                warnings.simplefilter("ignore")
                del results
                gc.collect()
            elif way == "own":
                with minidask.Client(client.address) as own, joblib.parallel_config("minidask", scheduler=own):
                    assert Parallel()(delayed(neg)(i) for i in range(500)) == [-i for i in range(500)]
            os._exit(0) if way == "exit" else sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, way
        assert found + list(results) == [-i for i in range(3000)], way
print("over", flush=True)
"""


def test_a_fork_amid_a_call_does_not_disturb_it(programs: Programs) -> None:
    script = programs.script(FORKED)
    assert script.exit_code(50) == 0, script.text
    assert script.text.splitlines()[-1] == "over", script.text
    assert "Traceback" not in script.text


CHANGED = """
import os, pathlib, sys
import joblib, minidask
from joblib import Parallel, delayed

state = 0

def look(i):
    return i, os.getcwd(), state

folders = [pathlib.Path(sys.argv[1]) / name for name in ("one", "two")]
for folder in folders:
    folder.mkdir()

def calls():
    global state
    for i in range(200):
        os.chdir(folders[i // 50 % 2])
        state = i
        yield delayed(look)(i)

with minidask.Client(n_workers=2) as client, joblib.parallel_config("minidask", scheduler=client):
    found = Parallel(batch_size=1, pre_dispatch=1)(calls())
    for i, folder, _ in found:  # joblib asks for the next call before it submits one
        assert folder in [str(folders[number // 50 % 2]) for number in (i, i + 1)], found
    assert {seen for _, _, seen in found} == {0}, "a function is taken once for a call of Parallel"
    state = 1000
    assert {seen for _, _, seen in Parallel()(delayed(look)(i) for i in range(9))} == {1000}
    assert len(client.shell.core.queues)
print("over", flush=True)
"""


def test_a_caller_that_changes_its_folder_and_its_state_between_calls(programs: Programs, tmp_path: Path) -> None:
    script = programs.script(CHANGED, str(tmp_path))
    assert script.exit_code(50) == 0, script.text


# --- where there is no room ---


MUCH = """
import os, sys
import joblib, minidask
from joblib import Parallel, delayed

def double(data, i):
    return data * 2, i

with minidask.Client(n_workers=2) as client, joblib.parallel_config("minidask", scheduler=client):
    for number in range(3):
        if number == 1 and sys.argv[1:] == ["fill"]:
            os.system("head -c 1G /dev/zero > /dev/shm/others 2>/dev/null")
        data = [os.urandom(20_000 if i % 10 == 0 else 10) for i in range(1000)]
        found = Parallel(batch_size=1, pre_dispatch="all")(delayed(double)(*call) for call in zip(data, range(1000)))
        assert found == [(data[i] * 2, i) for i in range(1000)]
print("all is right, with", len(client.shell.core.queues), "queues", flush=True)
"""

REFUSE = """
import os
def refused(*_, **__):
    raise OSError({error}, os.strerror({error}))
os.{name} = refused
"""


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("mkfifo", errno.EPERM),
        ("posix_fallocate", errno.ENOSPC),
        ("ftruncate", errno.ENOSPC),
    ],
)
def test_where_files_of_queues_cannot_be_made_calls_run_all_the_same(
    name: str, error: int, programs: Programs, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(REFUSE.format(name=name, error=error))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    program = programs.script(MUCH, PYTHONPATH=path)
    assert program.exit_code(50) == 0, program.text
    assert "all is right, with 0 queues" in program.text
    assert "Traceback" not in program.text


@pytest.mark.parametrize(
    ("options", "argument"), [("size=2m", ""), ("size=30m", "fill"), ("size=300m", "fill"), ("ro", "")]
)
def test_a_small_full_or_read_only_shared_memory(options: str, argument: str, programs: Programs) -> None:
    if os.getuid() != 0 or not shutil.which("unshare"):
        pytest.skip("a file system of one's own needs root, and unshare")
    path = programs.folder / "much.py"
    path.write_text(MUCH)
    command = f"mount -t tmpfs -o {options} none /dev/shm; exec {sys.executable} {path} {argument}"
    program = programs.start("unshare", "--mount", "sh", "-c", command)
    assert program.exit_code(50) == 0, program.text
    assert "all is right" in program.text
    assert "Traceback" not in program.text
