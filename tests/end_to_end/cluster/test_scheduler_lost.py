"""A scheduler or a local cluster's node is killed in the middle of a call, and the call returns all the same."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from operator import neg
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import minidask
from minidask import errors
from tests.helpers import Program, Programs, wait_until

ROOT = Path(__file__).parents[3]
COUNT = 60


def slow(i: int) -> int:
    time.sleep(0.02)
    return -i


def nested(i: int) -> int:
    inner: list[int] = joblib.Parallel(n_jobs=2)(joblib.delayed(slow)(j) for j in range(3))
    return sum(inner) - i


def nested_with_a_score_for_errors(i: int) -> int:
    """As scikit-learn's searches do: an error is a fit's score, and no end of the search."""
    try:
        return nested(i)
    except Exception:
        return 1000


def submits_and_catches(i: int) -> int:
    try:
        return minidask.get_client().submit(slow, i).result()  # type: ignore[no-any-return]
    except Exception:
        return 1000


def item(array: Any, i: int) -> float:
    time.sleep(0.02)
    return float(array[i])


def large(i: int) -> Any:
    time.sleep(0.05)
    return np.full(1 << 21, float(i))


class Cluster:
    """A scheduler, which can be killed and started again on its port, with one machine of two slots."""

    def __init__(self, programs: Programs, *options: str) -> None:
        self._programs = programs
        self._scheduler, self.address = programs.scheduler(*options)
        programs.worker(self.address, "--nworkers", "2")

    def kill(self, number: int = signal.SIGKILL) -> None:
        self._scheduler.send(number)
        self._scheduler.exit_code()

    def start(self) -> Program:
        port = self.address.rpartition(":")[2]
        self._scheduler = self._programs.start(sys.executable, "-m", "minidask.scheduler", "--port", port)
        self._scheduler.wait_for("listens on")
        return self._scheduler

    @contextlib.contextmanager
    def killed_after(self, seconds: float, number: int = signal.SIGKILL) -> Iterator[None]:
        """Kill the scheduler in the middle of the block, and start another one."""

        def kill_and_start() -> None:
            self.kill(number)
            self.start()

        timer = threading.Timer(seconds, kill_and_start)
        timer.start()
        try:
            yield
        finally:
            timer.join()


def parallel(function: Callable[..., Any], *shared: Any, return_as: str = "list", count: int = COUNT) -> list[Any]:
    with joblib.parallel_config("minidask"):
        calls = joblib.Parallel(n_jobs=2, return_as=return_as)(
            joblib.delayed(function)(*shared, i) for i in range(count)
        )
        return sorted(calls) if return_as == "generator_unordered" else list(calls)


NEGATED = [-i for i in range(COUNT)]
ARRAY = np.arange(1 << 21, dtype=float)


def as_scattered(client: minidask.Client) -> list[float]:
    handle = client.scatter(ARRAY)
    found: list[float] = client.gather([client.submit(item, handle, i) for i in range(COUNT)])
    return found


def large_results(client: minidask.Client) -> list[Any]:
    found = client.gather(client.map(large, range(16)))
    assert all(len(array) == 1 << 21 for array in found)
    return [float(array[-1]) for array in found]


def with_bar(client: minidask.Client) -> list[int]:
    with client.progress():
        found: list[int] = client.gather(client.map(slow, range(COUNT)))
    return found


CALLS: dict[str, tuple[Callable[[minidask.Client], list[Any]], list[Any]]] = {
    "list": (lambda client: parallel(slow), NEGATED),
    "generator": (lambda client: parallel(slow, return_as="generator"), NEGATED),
    "unordered": (lambda client: parallel(slow, return_as="generator_unordered"), NEGATED[::-1]),
    "nested": (lambda client: parallel(nested, count=20), [-3 - i for i in range(20)]),
    "nested, and caught": (
        lambda client: parallel(nested_with_a_score_for_errors, count=20),
        [-3 - i for i in range(20)],
    ),
    "submitted within, and caught": (lambda client: parallel(submits_and_catches), NEGATED),
    "shared array": (lambda client: parallel(item, ARRAY), [float(i) for i in range(COUNT)]),
    "map": (lambda client: client.gather(client.map(slow, range(COUNT))), NEGATED),
    "scattered array": (as_scattered, [float(i) for i in range(COUNT)]),
    "large results": (large_results, [float(i) for i in range(16)]),
    "progress bar": (with_bar, NEGATED),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_returns_though_its_scheduler_was_killed_and_started_again(
    name: str, programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    call, expected = CALLS[name]
    cluster = Cluster(programs)
    with minidask.Client(cluster.address) as client, cluster.killed_after(0.4):
        client.wait_for_workers(2)
        assert call(client) == expected
    said = [record.getMessage() for record in caplog.records if record.name == "minidask.client"]
    assert len(said) == 2, "one line when it is lost, one when it is found"
    assert "connects again" in said[0] and said[1].endswith("is connected again")


@pytest.mark.parametrize("name", ["list", "nested", "large results"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_call_returns_though_its_scheduler_was_ended_by_hand_and_started_again(
    name: str, number: int, programs: Programs
) -> None:
    call, expected = CALLS[name]
    cluster = Cluster(programs)
    with minidask.Client(cluster.address) as client, cluster.killed_after(0.4, number):
        client.wait_for_workers(2)
        assert call(client) == expected


def short(i: int) -> int:
    return -i


def test_machines_come_back_whatever_the_number_of_results_on_their_way(programs: Programs) -> None:
    """They name them in the handshake, which is short."""
    cluster = Cluster(programs)
    with minidask.Client(cluster.address) as client, cluster.killed_after(1.0):
        client.wait_for_workers(2)
        assert client.gather(client.map(short, range(12_000))) == [-i for i in range(12_000)]
        assert client.slots() == 2


def test_a_cluster_that_was_shut_down_is_an_error_at_once(programs: Programs) -> None:
    cluster = Cluster(programs, "--allow-shutdown")
    with minidask.Client(cluster.address) as client, minidask.Client(cluster.address) as other:
        client.wait_for_workers(2)
        future = client.submit(time.sleep, 600)
        other.shutdown()
        with pytest.raises(errors.SchedulerLost, match="a client has shut the cluster down"):
            future.result(10)


@pytest.mark.parametrize("name", ["list", "generator", "nested", "shared array", "map", "large results"])
def test_a_call_returns_though_the_node_of_its_own_cluster_was_killed(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    call, expected = CALLS[name]
    with minidask.Client(n_workers=2) as client:
        node = client.scheduler_info()["pid"]
        timer = threading.Timer(0.3, os.kill, (node, signal.SIGKILL))
        timer.start()
        assert call(client) == expected
        timer.join()
        wait_until(lambda: client.scheduler_info()["pid"] != node, "another node was there")
        assert client.submit(neg, 1).result(20) == -1
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


def test_what_is_submitted_and_cancelled_meanwhile_counts(programs: Programs, tmp_path: Path) -> None:
    cluster = Cluster(programs)
    with minidask.Client(cluster.address) as client:
        client.wait_for_workers(2)
        handle = client.scatter(ARRAY)
        done = client.submit(neg, 1)
        assert done.result(20) == -1
        busy = [client.submit(time.sleep, 0.5) for _ in range(2)]
        cancelled = client.submit(Path.touch, tmp_path / "cancelled")
        cluster.kill()
        wait_until(lambda: client.shell.connection.away, "the loss was noticed")
        assert done.result() == -1
        cancelled.cancel()
        later = [client.submit(item, handle, i) for i in (5, 6)]
        array = np.arange(1 << 18, dtype=float)
        copied = client.submit(np.sum, array)
        array[:] = 0  # a task has what was there when it was submitted
        cluster.start()
        assert client.gather(later) == [5.0, 6.0]
        assert copied.result(20) == sum(range(1 << 18))
        assert client.gather(busy) == [None, None] and cancelled.cancelled()
    assert not (tmp_path / "cancelled").exists()


def test_past_the_limit_pending_tasks_fail_and_finished_ones_keep_their_results(
    programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(programs)
    with minidask.Client(cluster.address, reconnect_timeout=0.5) as client:
        client.wait_for_workers(2)
        done, pending = client.submit(neg, 1), client.submit(time.sleep, 60)
        assert done.result(20) == -1
        cluster.kill()
        with pytest.raises(errors.SchedulerLost, match=r"pending.*no scheduler answers"):
            pending.result(20)
        assert done.result() == -1 and client.closed
        with pytest.raises(errors.SchedulerLost, match="make a new one"):
            client.submit(neg, 1)
    assert len(caplog.records) == 1


def test_a_client_can_be_closed_while_it_looks_for_its_scheduler(programs: Programs) -> None:
    cluster = Cluster(programs)
    client = minidask.Client(cluster.address)
    pending = client.submit(time.sleep, 60)
    cluster.kill()
    wait_until(lambda: client.shell.connection.away, "the loss was noticed")
    client.close()
    with pytest.raises(errors.SchedulerLost, match="closed"):
        pending.result(5)
    threads = threading.enumerate
    wait_until(lambda: all(thread.name != "minidask-return" for thread in threads()), "its thread had ended", 12)


def test_ctrl_c_ends_a_call_that_waits_for_its_scheduler(programs: Programs) -> None:
    cluster = Cluster(programs)
    script = programs.script(
        """
import joblib, minidask, sys, time
client = minidask.Client(sys.argv[1])
client.wait_for_workers(2)
print("begins", flush=True)
try:
    with joblib.parallel_config("minidask"):
        joblib.Parallel(n_jobs=2)(joblib.delayed(time.sleep)(60) for _ in range(4))
except KeyboardInterrupt:
    print("interrupted", flush=True)
client.close()
print("over", flush=True)
""",
        cluster.address,
    )
    script.wait_for("begins")
    cluster.kill()
    script.wait_for("connects again")
    script.send(signal.SIGINT)
    assert script.exit_code(20) == 0, script.text
    assert "interrupted" in script.text and "over" in script.text


def kill_the_node() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def test_a_task_that_kills_its_cluster_again_and_again_fails() -> None:
    with minidask.Client(n_workers=1) as client:
        future = client.submit(kill_the_node)
        with pytest.raises(errors.SchedulerLost, match="died 4 times, and no task ended"):
            future.result(30)


def nests_later(folder: Path) -> int:
    (folder / "runs").touch()
    wait_until((folder / "lost").exists, "the scheduler was lost")
    (folder / "nests").touch()
    return nested(1)


def test_a_task_may_begin_to_nest_while_its_scheduler_is_away(programs: Programs, tmp_path: Path) -> None:
    cluster = Cluster(programs)
    with minidask.Client(cluster.address) as client:
        future = client.submit(nests_later, tmp_path)
        wait_until((tmp_path / "runs").exists, "it ran")
        cluster.kill()
        (tmp_path / "lost").touch()
        wait_until((tmp_path / "nests").exists, "it was about to connect")
        time.sleep(0.3)
        cluster.start()
        assert future.result(20) == -4


WAITS_FOR_A_TASK = """
import sys
from pathlib import Path
import minidask
from tests.end_to_end.cluster.test_scheduler_lost import nests_later
with minidask.Client(sys.argv[1]) as client:
    print("result", client.submit(nests_later, Path(sys.argv[2])).result(40), flush=True)
"""


def test_a_task_may_nest_before_its_client_is_back(programs: Programs, tmp_path: Path) -> None:
    """The next scheduler does not know the task yet, and so not whose tasks those within are."""
    scheduler, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "2")
    client = programs.script(WAITS_FOR_A_TASK, address, str(tmp_path), PYTHONPATH=str(ROOT))
    wait_until((tmp_path / "runs").exists, "it ran")
    client.send(signal.SIGSTOP)
    scheduler.send(signal.SIGKILL)
    scheduler.exit_code()
    programs.start(sys.executable, "-m", "minidask.scheduler", "--port", address.rpartition(":")[2])
    wait_until(lambda: worker.text.count("joined the scheduler") == 2, "the worker was back")
    (tmp_path / "lost").touch()
    wait_until((tmp_path / "nests").exists, "it was about to nest")
    time.sleep(0.5)
    client.send(signal.SIGCONT)
    assert client.exit_code(30) == 0, client.text
    assert "result -4" in client.text


# --- a scheduler that hangs ---


def test_a_scheduler_that_stands_still_for_a_while_is_found_as_it_was(
    programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler, address = programs.scheduler("--heartbeat-timeout", "1")
    programs.worker(address, "--nworkers", "2")
    with minidask.Client(address, timeout=1) as client:
        client.wait_for_workers(2)
        running = [client.submit(process_and_sleep, 4) for _ in range(2)]
        wait_until(lambda: client.scheduler_info()["tasks"]["running"] == 2, "they ran")
        scheduler.send(signal.SIGSTOP)
        wait_until(lambda: any("silent" in text for text in caplog.messages), "the silence was noticed")
        scheduler.send(signal.SIGCONT)
        wait_until(lambda: any("answers again" in text for text in caplog.messages), "it was heard again")
        assert all(seconds < 6 for seconds in client.gather(running)), "they were not started again"
        assert not client.shell.connection.away


def process_and_sleep(seconds: float) -> float:
    began = time.monotonic()
    time.sleep(seconds)
    return time.monotonic() - began


def test_a_scheduler_that_hangs_for_good_is_an_error_soon(programs: Programs) -> None:
    scheduler, address = programs.scheduler("--heartbeat-timeout", "1")
    programs.worker(address, "--nworkers", "1")
    with minidask.Client(address, timeout=0.5, reconnect_timeout=1) as client:
        pending = client.submit(time.sleep, 60)
        wait_until(lambda: client.scheduler_info()["tasks"]["running"] == 1, "it ran")
        scheduler.send(signal.SIGSTOP)
        with pytest.raises(errors.SchedulerLost, match=r"was silent.*did not answer within 0.5 seconds"):
            pending.result(20)
    scheduler.send(signal.SIGCONT)


# --- nothing is started again ---


def mark(folder: Path, i: int) -> int:
    with (folder / str(i)).open("a") as file:
        file.write("x")
    time.sleep(1.0)
    return -i


def test_calls_that_run_are_not_started_again_by_the_next_scheduler(programs: Programs, tmp_path: Path) -> None:
    cluster, marks = Cluster(programs), tmp_path / "marks"
    marks.mkdir()
    with minidask.Client(cluster.address) as client, cluster.killed_after(0.5):
        client.wait_for_workers(2)
        assert client.gather(client.map(mark, [marks] * 6, range(6))) == [-i for i in range(6)]
    assert {path.name: path.read_text() for path in marks.iterdir()} == {str(i): "x" for i in range(6)}
