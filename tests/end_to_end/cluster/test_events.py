"""Who looks at a cluster of real daemons sees what happens there: by events, by `why`, by `minidask-top`, in logs."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import joblib
import pytest

import minidask
from minidask.client.eventreader import EventReader
from tests.helpers import DEADLINE, Program, Programs, wait_until

TOP = [sys.executable, "-m", "minidask.viewers.top"]


def sleep_and_return(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def wait_for_file(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.01)


def begin_and_wait_for_file(begun: str, path: str) -> None:
    Path(begun).touch()
    wait_for_file(path)


def fail(text: str) -> None:
    raise ValueError(text)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Seen:
    """What was read of the events of a client."""

    def __init__(self, reader: EventReader) -> None:
        self.reader = reader
        self.events: list[minidask.ClusterEvent] = []

    def find(self, kind: str, **fields: object) -> list[minidask.ClusterEvent]:
        """Read what has come; return all events so far with these fields."""
        self.events += self.reader.get(0)
        return [
            event
            for event in self.events
            if event.kind == kind and all(getattr(event, name) == value for name, value in fields.items())
        ]

    def wait_for(self, kind: str, count: int = 1, **fields: object) -> list[minidask.ClusterEvent]:
        wait_until(lambda: len(self.find(kind, **fields)) >= count, f"{count} times {kind} {fields} had come")
        return self.find(kind, **fields)


@pytest.fixture
def room(programs: Programs) -> Iterator[tuple[Program, str, minidask.Client]]:
    """A scheduler, its address, and a client of it."""
    scheduler, address = programs.scheduler("--heartbeat-timeout", "2")
    with minidask.Client(address, name="sarah") as client:
        yield scheduler, address, client


@pytest.fixture
def room_with_a_worker(room: tuple[Program, str, minidask.Client], programs: Programs) -> tuple[str, minidask.Client]:
    """The address of a scheduler with one worker, and a client of it."""
    _, address, client = room
    programs.worker(address, "--nworkers", "1")
    client.wait_for_workers(1)
    return address, client


@contextlib.contextmanager
def looking(client: minidask.Client) -> Iterator[Seen]:
    with client.events() as reader:
        seen = Seen(reader)
        seen.wait_for("snapshot")
        yield seen


# --- events ---


def test_a_task_is_seen_on_its_way_with_times_machine_worker_and_cost(
    room: tuple[Program, str, minidask.Client], programs: Programs
) -> None:
    _, address, client = room
    programs.worker(address, "--nworkers", "1", "--name", "m1")
    client.wait_for_workers(1)
    client.submit(sleep_and_return, 0.0).result(DEADLINE)  # the first one imports what it needs
    with looking(client) as seen:
        began = time.time()
        assert client.submit(sleep_and_return, 0.3).result(DEADLINE) == 0.3
        (call,) = seen.wait_for("call", name="sleep_and_return")
        (submitted,), (started,), (ended,) = (
            seen.wait_for(kind, name="sleep_and_return") for kind in ("submitted", "started", "ended")
        )
        assert submitted.task == started.task == ended.task == call.task
        for event in (submitted, started, ended):
            assert began <= event.time <= time.time(), "neither before it was submitted, nor before it was told"
        assert started.machine == ended.machine == call.machine == next(iter(client.nthreads()))
        assert ended.how == call.how == "done" and 0.3 <= ended.seconds <= DEADLINE
        assert call.worker == 0 and 0 <= call.cpu < 0.25 < 0.3 <= call.seconds and call.memory > 1 << 20
        assert began - 0.1 <= call.time <= time.time(), "two clocks of this machine are compared"
        assert {"cpu", "memory", "memory_total", "store"} <= set(seen.wait_for("usage")[0].info)
        with pytest.raises(ValueError, match="no luck"):
            client.submit(fail, "no luck").result(DEADLINE)
        (failed,) = seen.wait_for("ended", how="raised")
        assert failed.text == "ValueError: no luck"


def test_what_runs_is_seen_while_it_runs_and_began_before_anybody_looked(
    room_with_a_worker: tuple[str, minidask.Client], tmp_path: Path
) -> None:
    _, client = room_with_a_worker
    future = client.submit(begin_and_wait_for_file, str(tmp_path / "begun"), str(tmp_path / "go"))
    wait_until((tmp_path / "begun").exists, "the task ran")
    began = time.monotonic()
    with looking(client) as seen:
        (started,) = seen.find("started")
        assert started.name == "begin_and_wait_for_file" and started.time == 0, "nobody has noted when"
        looks = time.monotonic()
        running = seen.wait_for("running", 2, name="begin_and_wait_for_file")[1]
        assert looks - began <= running.seconds < 2 * DEADLINE and running.task == started.task
        (tmp_path / "go").touch()
        future.result(DEADLINE)
        wait_until(lambda: seen.find("running")[-1].info["idle"], "the worker was idle")


def test_a_machine_that_is_killed_leaves_and_its_task_runs_elsewhere(
    room: tuple[Program, str, minidask.Client], programs: Programs, tmp_path: Path
) -> None:
    scheduler, address, client = room
    first = programs.worker(address, "--nworkers", "1", "--name", "first")
    client.wait_for_workers(1)
    with looking(client) as seen:
        future = client.submit(wait_for_file, str(tmp_path / "go"))
        seen.wait_for("started")
        programs.worker(address, "--nworkers", "1", "--name", "second")
        seen.wait_for("machine", name="second")
        first.send(signal.SIGKILL)
        (left,) = seen.wait_for("machine-left", name="first")
        assert left.text and left.size == 1
        (again,) = seen.wait_for("again", how="lost")
        assert again.machine == left.machine
        assert seen.wait_for("started", 2)[1].machine != left.machine
        (tmp_path / "go").touch()
        future.result(DEADLINE)
    scheduler.wait_for("machine first is lost")


def test_a_task_whose_process_dies_is_told_each_time_in_events_and_log(
    room: tuple[Program, str, minidask.Client], programs: Programs
) -> None:
    scheduler, address, client = room
    programs.worker(address, "--nworkers", "1", "--name", "m1")
    client.wait_for_workers(1)
    with looking(client) as seen:
        with pytest.raises(minidask.errors.KilledWorker):
            client.submit(crash).result(DEADLINE)
        assert all("SIGKILL" in event.text for event in seen.wait_for("again", 3, how="died"))
        (ended,) = seen.wait_for("ended", how="died")
        assert "tried 3 times" in ended.text
    for death in (1, 2, 3):
        scheduler.wait_for(f"task 'crash' of client sarah has lost its worker process, death {death}: on m1 ")
    scheduler.wait_for("task 'crash' of client sarah is lost: it was tried 3 times")


def test_a_machine_that_stands_still_is_told_why_and_so_is_the_log(
    room: tuple[Program, str, minidask.Client], programs: Programs
) -> None:
    scheduler, address, client = room
    worker = programs.worker(address, "--nworkers", "1", "--name", "m1")
    client.wait_for_workers(1)
    with looking(client) as seen:
        worker.send(signal.SIGSTOP)
        try:
            (left,) = seen.wait_for("machine-left")
            assert left.text == "it was silent for 2 seconds"
            text = scheduler.wait_for("the connection to worker m1 is gone: it was told goodbye")
            assert "gone: it was told goodbye, as this machine was silent for 2 seconds" in text
            assert "worker m1 is gone: it closed" not in text
        finally:
            worker.send(signal.SIGCONT)


def test_each_call_of_parallel_is_seen_though_none_passes_through_the_scheduler(
    clusters: Callable[..., minidask.Client],
) -> None:
    client = clusters(2)
    with looking(client) as seen:
        with joblib.parallel_config("minidask"):
            results = joblib.Parallel(n_jobs=2, batch_size=1)(joblib.delayed(sleep_and_return)(0.02) for _ in range(40))
        assert results == [0.02] * 40
        calls = seen.wait_for("call", 40, name="sleep_and_return")
        assert len(calls) == 40 and len({call.call for call in calls}) == 40
        assert all(call.seconds >= 0.02 and call.how == "done" for call in calls)
        assert {call.worker for call in calls} == {0, 1}
        assert not seen.find("submitted", name="sleep_and_return"), "those are leases"


def test_threads_are_seen_too(thread_client: minidask.Client) -> None:
    with looking(thread_client) as seen:
        thread_client.submit(sleep_and_return, 0.01).result(DEADLINE)
        (call,) = seen.wait_for("call", name="sleep_and_return")
        assert call.seconds >= 0.01


def test_another_client_sees_the_same_and_a_lost_viewer_is_forgotten(
    room_with_a_worker: tuple[str, minidask.Client], programs: Programs
) -> None:
    address, client = room_with_a_worker
    viewer = programs.script(
        "import minidask, sys\n"
        "client = minidask.Client(sys.argv[1], name='viewer')\n"
        "for event in client.events():\n    print(event.kind, event.name, flush=True)\n",
        address,
    )
    viewer.wait_for("snapshot")
    client.submit(sleep_and_return, 0.0).result(DEADLINE)
    viewer.wait_for("ended sleep_and_return")
    viewer.send(signal.SIGKILL)
    wait_until(lambda: len(client.scheduler_info()["clients"]) == 1, "the viewer was gone")
    assert client.submit(sleep_and_return, 0.0).result(DEADLINE) == 0.0


def test_a_viewer_that_stands_still_holds_up_nobody(
    room_with_a_worker: tuple[str, minidask.Client], programs: Programs
) -> None:
    address, client = room_with_a_worker
    viewer = programs.script(
        "import minidask, sys\n"
        "for event in minidask.Client(sys.argv[1]).events():\n    print(event.kind, flush=True)\n",
        address,
    )
    viewer.wait_for("snapshot")
    viewer.send(signal.SIGSTOP)
    try:
        assert client.gather(client.map(sleep_and_return, [0.0] * 2000)) == [0.0] * 2000
    finally:
        viewer.send(signal.SIGCONT)
    viewer.wait_for("counts")


def test_after_another_scheduler_has_begun_there_is_a_snapshot_again(programs: Programs, tmp_path: Path) -> None:
    scheduler, address = programs.scheduler()
    port = address.rpartition(":")[2]
    programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as client, looking(client) as seen:
        scheduler.send(signal.SIGKILL)
        scheduler.exit_code()
        programs.start(sys.executable, "-m", "minidask.scheduler", "--port", port).wait_for("listens on")
        seen.wait_for("snapshot", 2)
        assert client.submit(sleep_and_return, 0.0).result(DEADLINE) == 0.0
        seen.wait_for("call", name="sleep_and_return")


def test_an_iteration_ends_when_its_client_is_closed(client: minidask.Client) -> None:
    with minidask.Client(client.address, access_file=client.access_file) as other:
        events = other.events()
        assert next(events).kind == "snapshot"
    assert all(isinstance(event, minidask.ClusterEvent) for event in events), "what had come, and then the end"
    assert next(events, None) is None


# --- why ---


def test_why_a_task_waits_and_where_it_runs(
    room: tuple[Program, str, minidask.Client], programs: Programs, tmp_path: Path
) -> None:
    _, address, client = room
    first = client.submit(wait_for_file, str(tmp_path / "go"))
    assert client.explain(first) == "it waits: there is no worker in the cluster; start some with minidask-worker"
    programs.worker(address, "--nworkers", "1", "--name", "m1")
    wait_until(lambda: client.explain(first) == "it runs on machine m1, attempt 1", "it ran")
    second = client.submit(sleep_and_return, 0.0)
    assert client.explain(second) == "it waits: the only worker is busy; it is the next one"
    with minidask.Client(address) as other, looking(other) as seen:
        (task,) = [event.task for event in seen.find("started")]
        assert other.explain(task) == "it runs on machine m1, attempt 1"
        with pytest.raises(ValueError, match="futures of its own client"):
            other.explain(second)
    (tmp_path / "go").touch()
    second.result(DEADLINE)
    assert client.explain(second) == "it is over: its future has the outcome"


@pytest.mark.parametrize("task", ["x", None, 0, -1, 1.5, 2**70, object()])
def test_why_takes_futures_and_numbers(client: minidask.Client, task: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        client.explain(task)  # type: ignore[arg-type]


# --- minidask-top ---


def test_top_prints_one_table_or_json(
    room: tuple[Program, str, minidask.Client], programs: Programs, tmp_path: Path
) -> None:
    _, address, client = room
    programs.worker(address, "--nworkers", "2", "--name", "m1")
    programs.worker(address, "--nworkers", "1", "--name", "m2")
    client.wait_for_workers(3)
    futures = client.map(wait_for_file, [str(tmp_path / "go")] * 5)
    wait_until(lambda: client.scheduler_info()["tasks"]["running"] == 3, "three ran")
    text = programs.start(*TOP, address, "--once")
    assert text.exit_code() == 0
    assert "2 machines, 3 of 3 workers busy, 2 waiting" in text.text
    assert re.search(r"^m1 +2/2 ", text.text, re.MULTILINE) and re.search(r"^m2 +1/1 ", text.text, re.MULTILINE)
    assert len(re.findall(r"^m[12] .* wait_for_file *$", text.text, re.MULTILINE)) == 3
    assert re.search(r"^sarah +2 +3 +0 +0 ", text.text, re.MULTILINE)
    plain = programs.start(*TOP, address, "--json")
    assert plain.exit_code() == 0
    told = json.loads(plain.text)
    assert sorted((machine["name"], machine["size"]) for machine in told["machines"]) == [("m1", 2), ("m2", 1)]
    assert told["tasks"]["queued"] == 2
    workers = [worker for machine in told["machines"] for worker in machine["workers"]]
    assert [worker["name"] for worker in workers] == ["wait_for_file"] * 3
    (tmp_path / "go").touch()
    client.gather(futures)


def test_top_shows_a_live_table_until_ctrl_c(
    room: tuple[Program, str, minidask.Client], programs: Programs, tmp_path: Path
) -> None:
    _, address, client = room
    programs.worker(address, "--nworkers", "1", "--name", "m1")
    client.wait_for_workers(1)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*TOP, address], stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "COLUMNS": "120", "LINES": "40"}
    )
    os.close(theirs)
    shown = ""
    try:
        future = client.submit(wait_for_file, str(tmp_path / "go"))
        end = time.monotonic() + DEADLINE
        while not ("1 of 1 worker busy" in shown and "wait_for_file" in shown):
            assert time.monotonic() < end, shown
            if select.select([ours], [], [], 0.1)[0]:
                shown += os.read(ours, 1 << 16).decode()
        (tmp_path / "go").touch()
        future.result(DEADLINE)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the end of the terminal
            while select.select([ours], [], [], DEADLINE)[0] and (data := os.read(ours, 1 << 16)):
                shown += data.decode()
        assert process.wait(DEADLINE) == 0
        assert "Traceback" not in shown
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_top_says_what_is_wrong(programs: Programs, tmp_path: Path) -> None:
    nobody = programs.start(*TOP, "127.0.0.1:1", "--once")
    assert nobody.exit_code() == 1
    assert nobody.text.startswith("minidask-top: ") and "Traceback" not in nobody.text
    nowhere = programs.start(*TOP, "--once", "--access-file", str(tmp_path / "none"))
    assert nowhere.exit_code() == 1 and "Traceback" not in nowhere.text
    wrong = programs.start(*TOP, "--never")
    assert wrong.exit_code() == 2


def test_top_without_rich_says_what_to_install_and_has_json(programs: Programs) -> None:
    _, address = programs.scheduler()
    code = "import sys; sys.modules['rich'] = None; from minidask.viewers.top import main; sys.exit(main(sys.argv[1:]))"
    table = programs.start(sys.executable, "-c", code, address, "--once")
    assert table.exit_code() == 1 and "pip install 'minidask[top]'" in table.text
    plain = programs.start(sys.executable, "-c", code, address, "--json")
    assert plain.exit_code() == 0 and json.loads(plain.text)["machines"] == []


# --- logs ---


def test_a_worker_without_a_scheduler_says_so_after_some_seconds(programs: Programs) -> None:
    scheduler, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "1")
    scheduler.send(signal.SIGKILL)
    assert "trying again" in worker.wait_for("no scheduler for ")


def test_whoever_shuts_the_cluster_down_is_named(programs: Programs) -> None:
    scheduler, address = programs.scheduler("--allow-shutdown")
    with minidask.Client(address, name="sarah") as client:
        client.shutdown()
    scheduler.wait_for("client sarah shuts the cluster down")
    assert scheduler.exit_code() == 0


def test_logs_as_json_and_with_each_message(programs: Programs) -> None:
    scheduler, address = programs.scheduler("--log-format", "json", "--log-level", "debug")
    programs.worker(address, "--nworkers", "1", "--name", "m1", "--log-format", "json")
    with minidask.Client(address, name="odd\n\x1b[2Jname") as client:
        assert client.submit(sleep_and_return, 0.0).result(DEADLINE) == 0.0
    text = scheduler.wait_for("it closed the connection")
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    told = [line["message"] for line in lines]
    assert any(line.startswith("worker m1 joined from") for line in told)
    assert any(re.fullmatch(r"worker m1 is sent Run", line) for line in told)
    assert any(re.fullmatch(r"worker m1 has sent .*Done.*", line) for line in told)


def test_a_client_is_named_by_its_user_machine_program_and_process(client: minidask.Client) -> None:
    with minidask.Client(client.address, access_file=client.access_file) as other:
        assert re.fullmatch(rf"\S+@{re.escape(os.uname().nodename)} .+ {os.getpid()}", other.name)
