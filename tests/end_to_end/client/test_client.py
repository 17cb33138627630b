"""`Client` on a cluster of real processes: what users do with it, and what they may do wrong."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from operator import neg
from typing import Any

import numpy as np
import psutil
import pytest

import minidask
from minidask import errors
from minidask.client.places import address_of
from tests.helpers import at_rest, wait_until
from tests.leaks import holdings


def add(a: int, b: int = 1) -> int:
    return a + b


# --- work ---


def test_a_call_with_arguments_and_keywords(client: minidask.Client) -> None:
    future = client.submit(add, 1, b=41)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(10) == 42
    assert future.worker == "local"
    assert future.duration is not None
    assert future.duration < 5


def test_functions_and_classes_that_cannot_be_imported(client: minidask.Client) -> None:
    offset = 5

    class Box:
        def __init__(self, value: int) -> None:
            self.value = value

    def boxed(value: int) -> Box:
        return Box(value + offset)

    box = client.submit(boxed, 1).result(10)
    assert isinstance(box, Box)
    assert box.value == 6
    assert client.submit(lambda x: x.value, Box(3)).result(10) == 3


def test_map_pairs_its_iterables_and_keeps_order(client: minidask.Client) -> None:
    assert client.gather(client.map(add, range(50), range(50))) == [2 * i for i in range(50)]
    assert client.map(add, []) == []


def test_a_shared_function_is_pickled_once_for_a_map(client: minidask.Client) -> None:
    pickled = []

    class Counted:
        def __reduce__(self) -> Any:
            pickled.append(1)
            return (list, ())

    counted = Counted()

    def use(i: int) -> int:
        return i + len(counted)  # type: ignore[arg-type]

    assert client.gather(client.map(use, range(20))) == list(range(20))
    assert len(pickled) == 1


def test_a_changed_definition_is_noticed(client: minidask.Client) -> None:
    for number in range(3):
        assert client.gather(client.map(lambda _, n=number: n, range(2))) == [number, number]


def test_gather_and_its_ways_with_errors(client: minidask.Client) -> None:
    def futures() -> list[minidask.Future]:
        return [client.submit(neg, 1), client.submit(neg, "x"), client.submit(neg, 3)]

    with pytest.raises(TypeError):
        client.gather(futures())
    assert client.gather(futures(), errors="skip") == [-1, -3]
    first, second, third = client.gather(futures(), errors="return")
    assert (first, third) == (-1, -3)
    assert isinstance(second, TypeError)
    with pytest.raises(ValueError, match="skip"):
        client.gather([], errors="other")  # type: ignore[arg-type]


def test_the_standard_librarys_tools_work_on_futures(client: minidask.Client) -> None:
    futures = client.map(neg, range(5))
    assert {f.result() for f in concurrent.futures.as_completed(futures, 10)} == {-i for i in range(5)}
    bad = client.submit(neg, "x")
    done, _ = concurrent.futures.wait([bad, client.submit(time.sleep, 0.5)], 10, concurrent.futures.FIRST_EXCEPTION)
    assert bad in done
    called = threading.Event()
    client.submit(neg, 1).add_done_callback(lambda _: called.set())
    assert called.wait(10)

    async def wait_for_it() -> Any:
        return await asyncio.wrap_future(client.submit(neg, 7))

    assert asyncio.run(wait_for_it()) == -7


def test_the_executor_is_a_standard_one(client: minidask.Client) -> None:
    with client.get_executor() as executor:
        assert list(executor.map(add, range(5), range(5))) == [0, 2, 4, 6, 8]
        future = executor.submit(dict, priority=1, timeout=2)
        assert future.result(10) == {"priority": 1, "timeout": 2}
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(neg, 1)
    assert client.submit(neg, 1).result(10) == -1


def test_higher_priorities_start_first() -> None:
    with minidask.Client(n_workers=1) as client:
        blocker = client.submit(time.sleep, 0.3)
        low = [client.submit(time.monotonic, priority=-1) for _ in range(4)]
        high = [client.submit(time.monotonic, priority=1) for _ in range(4)]
        blocker.result(10)
        assert max(client.gather(high)) < min(client.gather(low))


def test_scattered_data_is_found_at_any_depth_and_is_read_only(client: minidask.Client) -> None:
    data = np.arange(100_000.0)
    handle = client.scatter(data)
    assert client.submit(lambda d: d["a"][0].sum(), {"a": [handle]}).result(10) == data.sum()
    with pytest.raises(ValueError, match="read-only"):
        client.submit(lambda a: a.fill(0), handle).result(10)
    first, second = client.scatter([1, "two"])
    assert client.submit(lambda a, b: (a, b), first, second).result(10) == (1, "two")
    assert client.submit(len, client.scatter({"k": [1, 2]})["k"]).result(10) == 2
    with pytest.raises(errors.SerializationError, match="own client"):
        pickle.dumps(handle)


def test_run_goes_to_every_machine(client: minidask.Client) -> None:
    (address,) = client.nthreads()
    assert client.run(add, 1) == {address: 2}


def test_what_is_known_of_the_cluster(client: minidask.Client) -> None:
    assert list(client.nthreads().values()) == [2]
    info = client.scheduler_info()
    assert info["version"] == minidask.__version__
    assert [machine["workers"] for machine in info["machines"]] == [2]
    assert client.name in [c["name"] for c in info["clients"]]
    assert "2 workers" in repr(client)
    assert "<table>" in client._repr_html_()
    client.wait_for_workers(2, 1)
    with pytest.raises(errors.NoWorkersError, match="minidask-worker"):
        client.wait_for_workers(3, 0.05)
    assert minidask.get_client() is client


# --- what tasks raise, and how they end ---


def test_an_exception_comes_back_with_its_remote_traceback(client: minidask.Client) -> None:
    def fails_in_here() -> None:
        raise KeyError("lost")

    future = client.submit(fails_in_here)
    with pytest.raises(KeyError, match="lost") as caught:
        future.result(10)
    assert "fails_in_here" in str(caught.value.__cause__)
    assert "local" in str(caught.value.__cause__)
    assert isinstance(future.exception(), KeyError)


class Picky(Exception):
    """Pickles, but does not unpickle."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__("picky")


class Locked(Exception):
    """Does not pickle."""

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


class Treacherous:
    """Fails when it is unpickled."""

    def __reduce__(self) -> Any:
        return (int, ("no number",))


def raises(error: Callable[[], BaseException]) -> None:
    raise error()


def test_any_text_of_an_exception_comes_back(client: minidask.Client) -> None:
    def fail(text: str) -> None:
        raise ValueError(text)

    for text in ("", "\0", "caf\udce9", "\ud800"):
        error = client.submit(fail, text).exception(30)
        assert isinstance(error, ValueError) and error.args == (text,)


@pytest.mark.parametrize(
    ("function", "arguments", "error", "text"),
    [
        (len, (threading.Lock(),), errors.SerializationError, "cannot be pickled"),
        (threading.Lock, (), errors.SerializationError, "result.*cannot be pickled"),
        (len, (Treacherous(),), errors.SerializationError, "cannot be unpickled"),
        (Treacherous, (), errors.SerializationError, "result.*cannot be unpickled"),
        (raises, (lambda: Picky(1, 2),), errors.TaskError, "Picky: picky"),
        (raises, (Locked,), errors.TaskError, "Locked: locked"),
        (raises, (KeyboardInterrupt,), errors.TaskError, "KeyboardInterrupt"),
        (sys.exit, (3,), errors.TaskError, r"sys.exit\(3\)"),
        (os._exit, (3,), errors.KilledWorker, "_exit.*3 times.*exit code 3"),
        (os.kill, (0, signal.SIGSEGV), errors.KilledWorker, "kill.*SIGSEGV.*compiled code"),
    ],
)
def test_what_cannot_work_says_so_and_the_cluster_goes_on(
    client: minidask.Client, function: Any, arguments: tuple[Any, ...], error: type[Exception], text: str
) -> None:
    neighbour = client.submit(neg, 1)
    with pytest.raises(error, match=text):
        client.submit(function, *arguments).result(20)
    assert neighbour.result(10) == -1
    assert client.submit(neg, 2).result(10) == -2


def test_only_functions_can_be_submitted(client: minidask.Client) -> None:
    with pytest.raises(TypeError, match="function"):
        client.submit(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 0"):
        client.submit(neg, 1, timeout=0)


def test_a_callback_that_waits_for_another_future_is_told_that_it_cannot(client: minidask.Client) -> None:
    caught: list[BaseException] = []
    done = threading.Event()

    def waits(_: Any) -> None:
        try:
            client.submit(time.sleep, 0.2).result()
        except RuntimeError as error:
            caught.append(error)
        done.set()

    client.submit(time.sleep, 0.3).add_done_callback(waits)  # not done yet, so the reader will call it
    assert done.wait(10)
    assert "callback" in str(caught[0])


def test_a_large_result_comes_whole(client: minidask.Client) -> None:
    result = client.submit(np.ones, 30_000_000).result(50)
    assert result.sum() == 30_000_000
    result[0] = 2  # it is the caller's own


# --- output ---


def test_output_of_tasks_is_shown(client: minidask.Client, capsys: pytest.CaptureFixture[str]) -> None:
    def noisy() -> None:
        print("printed\ntwice")
        print("to stderr", file=sys.stderr)
        warnings.warn("warned", stacklevel=1)
        os.write(1, b"raw\n")
        print("partial", end="")

    client.submit(noisy).result(10)
    captured = capsys.readouterr()
    assert captured.out == "printed\ntwice\nraw\npartial"
    for text in ("to stderr", "UserWarning: warned"):
        assert text in captured.err


def test_the_callers_log_level_counts_in_tasks(client: minidask.Client, caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger()
    before = root.level
    try:
        root.setLevel(logging.INFO)
        client.submit(lambda: logging.getLogger("some").info("an info")).result(10)
        assert ("some", logging.INFO, "an info") in caplog.record_tuples
        caplog.clear()
        root.setLevel(logging.WARNING)
        client.submit(lambda: logging.getLogger("some").info("an info")).result(10)
        assert not caplog.record_tuples
    finally:
        root.setLevel(before)


def test_a_flood_of_output_cannot_drown_the_results(
    client: minidask.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    def flood() -> int:
        for _ in range(200_000):
            print("x" * 99)
        return 1

    assert client.submit(flood).result(30) == 1
    client.submit(print, "after").result(10)
    assert len(capsys.readouterr().out) < 10_000_000


def test_output_can_be_turned_off(client: minidask.Client, capsys: pytest.CaptureFixture[str]) -> None:
    with minidask.Client(client.address, forward_output=False) as quiet:
        quiet.submit(print, "unheard").result(10)
        client.submit(print, "heard").result(10)
    assert capsys.readouterr().out.splitlines() == ["heard"]


# --- threads, forks, several clients ---


def test_many_threads_may_use_one_client(client: minidask.Client) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        sums = list(pool.map(lambda i: sum(client.gather(client.map(add, range(20), [i] * 20))), range(8)))
    assert sums == [190 + 20 * i for i in range(8)]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_told_and_leaves_its_parent_alone(client: minidask.Client) -> None:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            client.submit(neg, 1)
        except errors.MinidaskError as error:
            os.write(write_end, str(error).encode())
        finally:
            client.close()
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        assert "fork" in pipe.read()
    assert client.submit(neg, 1).result(10) == -1


def test_two_clients_share_a_cluster(client: minidask.Client) -> None:
    with minidask.Client(client.address, name="second") as second:
        assert second.submit(neg, 1).result(10) == -1
        names = [c["name"] for c in second.scheduler_info()["clients"]]
        assert sorted(names) == sorted([client.name, "second"])
        left_behind = second.submit(time.sleep, 60)
    with pytest.raises(errors.SchedulerLost, match="closed"):
        left_behind.result(1)
    wait_until(lambda: at_rest(client), "the task of the client that left was stopped", 5)
    with pytest.raises(errors.SchedulerLost, match="closed"):
        second.submit(neg, 1)
    assert "closed" in repr(second)


# --- threads in the place of processes ---


def test_workers_may_be_threads_of_this_process(thread_client: minidask.Client) -> None:
    assert set(thread_client.gather(thread_client.map(lambda _: os.getpid(), range(4)))) == {os.getpid()}
    with pytest.raises(ZeroDivisionError):
        thread_client.submit(lambda: 1 / 0).result(10)
    with pytest.raises(errors.TaskError, match="exit"):
        thread_client.submit(sys.exit, 1).result(10)
    assert thread_client.submit(neg, 1).result(10) == -1


# --- at bad moments ---


def test_a_handle_may_be_collected_while_its_clients_locks_are_held(client: minidask.Client) -> None:
    before = client.submit(abs, client.scatter(-1)).result(10)
    with client.shell._lock, client.shell.connection._outbox._sending:
        handle = client.scatter([1, 2])
        del handle
    assert client.submit(neg, before).result(10) == -1
    assert not client.shell.blobs.dropped


@pytest.mark.alone(reason="it sends Ctrl-C to its own process")
def test_ctrl_c_does_not_cut_a_message_in_two(client: minidask.Client) -> None:
    begin, stop = threading.Event(), threading.Event()

    def interrupt() -> None:
        begin.wait(30)
        while not stop.wait(0.003):
            os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupted = 0
    data = np.zeros(3_000_000)
    futures = []  # held, and nothing collected: what a finalizer is interrupted by cannot be raised
    gc.collect()
    gc.disable()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupter.start()
        for _ in range(40):
            try:
                begin.set()  # only here is an interrupt expected, which the start of a thread would pass on
                futures.append(client.submit(len, data))
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        while True:
            try:
                stop.set()
                interrupter.join()
                break
            except KeyboardInterrupt:
                continue
        signal.signal(signal.SIGINT, before)
        gc.enable()
    assert interrupted
    assert client.submit(len, data).result(30) == 3_000_000


def held_here() -> Counter[str]:
    """What this process holds, its children among it; other processes run tests beside it."""
    held = Counter({what: count for what, count in holdings().items() if not what.startswith("process ")})
    return held + Counter(f"child {child.pid}" for child in psutil.Process().children())


CUTS = {
    "the pipe": "minidask.client.reading.os.pipe",
    "the thread": "minidask.client.reading.start",
    "the wait": "minidask.client.workers.WorkerTable.wait",
    "the look at versions": "minidask.client.versions.VersionWatch.warn",
}


@pytest.mark.parametrize("at", CUTS)
def test_nothing_stays_of_a_client_whose_making_was_cut_off(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with minidask.LocalCluster(1, processes=False) as cluster:
        before = held_here()
        with monkeypatch.context() as patch:
            patch.setattr(CUTS[at], cut)
            with pytest.raises(KeyboardInterrupt):
                minidask.Client(address_of(cluster), access_file=cluster.access_file)
            if at == "the wait":
                with pytest.raises(KeyboardInterrupt):
                    minidask.Client(n_workers=1)
        wait_until(lambda: not held_here() - before, "nothing more was held")
