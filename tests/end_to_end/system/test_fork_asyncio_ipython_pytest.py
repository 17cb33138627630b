"""Where people work: processes that they fork and spawn, asyncio, IPython, pytest with several workers."""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import joblib
import pytest
import uvloop

import minidask
from minidask import errors
from tests.helpers import Programs, at_rest, wait_until

# --- forked children ---

FORKS = """
import gc, os, sys, time, warnings, joblib, minidask, numpy as np
warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process that has threads

client = minidask.Client(n_workers=2{options})
data = np.arange(300_000.0)
handle = client.scatter(data)
pending = client.submit(time.sleep, 60)
done = client.submit(abs, -1)
done.result(10)

def forked(what):
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert client.submit(abs, -2).result(10) == 2
        assert client.submit(lambda a: a.sum(), handle).result(10) == data.sum()
        assert not pending.done()
        return os.waitstatus_to_exitcode(status)
    what()
    os._exit(9)
"""

IGNORES = """
def collect():
    global client, handle, pending, done, data, results
    warnings.simplefilter("ignore")  # joblib's, of the generator
    del client, handle, pending, done, data, results
    gc.collect()
    sys.exit(4)

with joblib.parallel_config("minidask", n_jobs=2):
    results = joblib.Parallel(batch_size=1, return_as="generator")(joblib.delayed(time.sleep)(0.05) for _ in range(20))
    next(results)
assert forked(collect) == 4
assert list(results) == [None] * 19
assert forked(lambda: os._exit(5)) == 5
assert forked(lambda: 1 / 0) == 1
with client.progress():
    client.gather(client.map(time.sleep, [0.05] * 10))
    assert forked(lambda: sys.exit(3)) == 3
client.cancel(pending, force=True)
print("parent ends", flush=True)
"""

USES = """
def refused(what):
    began = time.monotonic()
    try:
        what()
    except minidask.errors.MinidaskError as error:
        assert str(os.getppid()) in str(error), error
        assert time.monotonic() - began < 1
        print("refused", flush=True)

def parallel():
    with joblib.parallel_config("minidask", scheduler=client):
        joblib.Parallel()(joblib.delayed(abs)(i) for i in range(5))

uses = [
    lambda: client.submit(abs, 1), lambda: client.map(abs, [1]), lambda: client.scatter(data),
    lambda: client.scheduler_info(), lambda: client.wait_for_workers(3), lambda: client.run(os.getpid),
    lambda: client.get_executor().submit(abs, 1), lambda: client.shutdown(), lambda: pending.result(),
    lambda: client.gather([pending]), lambda: client.progress([pending]) or pending.result(), parallel,
]

def use_all():
    for use in uses:
        refused(use)
    assert done.result() == 1
    pending.cancel()
    client.cancel([pending], force=True)
    client.close()
    client.cluster.close()
    client.close()
    sys.exit(0)

def have_ones_own():
    with joblib.parallel_config("minidask", n_jobs=2):
        assert joblib.Parallel()(joblib.delayed(abs)(-i) for i in range(5)) == [0, 1, 2, 3, 4]
    assert minidask.get_client().address != client.address
    with minidask.Client(client.address) as second:
        assert second.submit(abs, -3).result(10) == 3
    sys.exit(0)

assert forked(use_all) == 0
assert forked(have_ones_own) == 0
client.cancel(pending, force=True)
print("parent ends", len(uses), flush=True)
"""


@pytest.mark.parametrize("options", ["", ", processes=False"])
def test_a_forked_child_that_ignores_the_client_may_end_in_any_way(options: str, programs: Programs) -> None:
    script = programs.script(FORKS.format(options=options) + IGNORES)
    assert script.exit_code(50) == 0, script.text
    assert script.text.endswith("parent ends\n")
    assert script.text.count("Error") == 1, script.text  # that of the child that raised one
    assert re.findall(rb"(\d+/\d+) \[[^\r\n]*\n", script.log.read_bytes()) == [b"12/12"]  # the child draws no bar


@pytest.mark.parametrize("options", ["", ", processes=False"])
def test_a_forked_child_that_uses_the_client_is_told_at_once_and_may_have_its_own(
    options: str, programs: Programs
) -> None:
    script = programs.script(FORKS.format(options=options) + USES)
    assert script.exit_code(50) == 0, script.text
    assert "parent ends 12\n" in script.text
    assert script.text.count("refused\n") == 12, script.text


CHILDREN = """
import multiprocessing, os, sys, time, warnings, joblib, minidask
from concurrent.futures import ProcessPoolExecutor
warnings.simplefilter("ignore", DeprecationWarning)
client = None

def inherits(_):
    try:
        return client and client.submit(abs, -1).result(10)
    except minidask.errors.MinidaskError:
        return "refused"

def connects(address):
    with minidask.Client(address) as own:
        return own.submit(abs, -9).result(10)

def has_its_own(_):
    with joblib.parallel_config("minidask", n_jobs=2):
        return joblib.Parallel()(joblib.delayed(abs)(-i) for i in range(4))

if __name__ == "__main__":
    client = minidask.Client(n_workers=2)
    pending = client.submit(time.sleep, 60)
    method = sys.argv[1]
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(abs, -1).result(20) == 1
        assert pool.submit(inherits, 0).result(20) == ("refused" if method == "fork" else None)
        assert pool.submit(connects, client.address).result(20) == 9
        try:
            pool.submit(inherits, client).result(20)
        except minidask.errors.SerializationError as error:
            assert client.address in str(error)
        else:
            raise AssertionError("a client was sent")
    if method == "fork":
        with context.Pool(1) as pool:
            assert pool.map(has_its_own, [0]) == [[0, 1, 2, 3]]
    killed = context.Process(target=time.sleep, args=(60,))
    killed.start()
    killed.terminate()
    killed.join(20)
    assert client.submit(abs, -2).result(10) == 2
    assert not pending.done()
    print("parent ends", flush=True)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing(method: str, programs: Programs) -> None:
    script = programs.script(CHILDREN, method)
    assert script.exit_code(50) == 0, script.text
    assert script.text == "parent ends\n"


def test_a_client_cannot_be_sent_and_says_what_to_do(client: minidask.Client) -> None:
    with pytest.raises(errors.SerializationError, match=r"make one with minidask\.Client\('unix://"):
        pickle.dumps(client)
    with pytest.raises(errors.SerializationError, match="a Client cannot be sent"):
        client.submit(lambda: client.address)


# --- asyncio ---

Runner = Callable[[Coroutine[Any, Any, None]], None]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_many_futures_can_be_awaited(run: Runner, client: minidask.Client) -> None:
    async def use() -> None:
        results = await asyncio.gather(*(asyncio.wrap_future(client.submit(abs, -i)) for i in range(300)))
        assert results == list(range(300))
        with pytest.raises(ZeroDivisionError):
            await asyncio.wrap_future(client.submit(divmod, 1, 0))
        assert await asyncio.get_running_loop().run_in_executor(client.get_executor(), abs, -4) == 4
        assert await asyncio.to_thread(call) == call() == [0, 1, 2]

    def call() -> Any:
        with joblib.parallel_config("minidask", scheduler=client):
            return joblib.Parallel()(joblib.delayed(abs)(-i) for i in range(3))

    run(use())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_awaiting_can_be_cancelled(run: Runner, client: minidask.Client, tmp_path: Path) -> None:
    def nap(i: int) -> None:
        (tmp_path / str(i)).touch()
        time.sleep(60)

    async def use() -> None:
        futures = client.map(nap, range(4))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(futures[3]), 0.01)
        assert futures[3].cancelled()
        waiting = asyncio.gather(*map(asyncio.wrap_future, futures[:3]))
        while len(list(tmp_path.iterdir())) < 2:
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert all(future.cancelled() for future in futures)
        client.cancel(futures, force=True)  # what runs goes on until then
        assert await asyncio.wrap_future(client.submit(abs, -1)) == 1

    run(use())
    wait_until(lambda: at_rest(client), "what ran was stopped", 5)
    assert len(list(tmp_path.iterdir())) == 2


# --- tools ---

XDIST = """
import joblib, minidask, os, pytest, time

@pytest.fixture(scope="session")
def client():
    return minidask.Client(n_workers=2)  # and never closed

@pytest.mark.parametrize("i", range(4))
def test_on_a_cluster(i, client, capfd):
    with joblib.parallel_config("minidask"):
        assert joblib.Parallel()(joblib.delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
    client.submit(print, "heard").result(20)
    assert capfd.readouterr().out == "heard\\n"
    naps = client.map(time.sleep, [60, 60])
    open(f"{os.path.dirname(__file__)}/cluster-{client.scheduler_info()['pid']}", "w").close()
    client.cancel(naps, force=True)
"""


def test_pytest_with_several_workers_each_with_its_cluster(tmp_path: Path, programs: Programs) -> None:
    (tmp_path / "test_it.py").write_text(XDIST)
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-n", "2", "-W", "error", str(tmp_path)]
    run = programs.start(*command, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert run.exit_code(50) == 0, run.text
    assert "4 passed" in run.text
    nodes = [path.name.removeprefix("cluster-") for path in tmp_path.glob("cluster-*")]
    assert len(nodes) == 2
    wait_until(lambda: not any(Path("/proc", node).exists() for node in nodes), "both clusters had ended", 5)


IPYTHON = """\
import joblib, minidask
client = minidask.Client(n_workers=2)
def double(x): return 2 * x

with joblib.parallel_config("minidask"): print(joblib.Parallel()(joblib.delayed(double)(i) for i in range(4)))

def double(x): return 3 * x

client.submit(double, 100).result(20)
client.submit(print, "from a task").result(20)
await __import__("asyncio").wrap_future(client.submit(double, 4))
"""


def test_ipython(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner"],
        input=IPYTHON,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "IPYTHONDIR": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    for text in ("[0, 2, 4, 6]", "300", "from a task", "12"):
        assert text in result.stdout, result.stdout + result.stderr
