"""A client asks real daemons what runs where, who has which data, and what has become of a task."""

from __future__ import annotations

import html
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import pytest

import minidask
from minidask import errors
from tests.helpers import DEADLINE, Program, Programs, wait_until


def wait_for_file(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.01)


def crash_once(path: str) -> str:
    if not os.path.exists(path):
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def of_a_task() -> int:
    return len(minidask.get_client().logs())


def nbytes(data: np.ndarray) -> int:
    return data.nbytes


@pytest.fixture
def room(programs: Programs) -> Iterator[tuple[minidask.Client, Program, Program]]:
    """A client of a cluster of two machines of one worker each: m1 and m2."""
    _, address = programs.scheduler()
    m1, m2 = (programs.worker(address, "--nworkers", "1", "--name", name) for name in ("m1", "m2"))
    with minidask.Client(address) as client:
        client.wait_for_workers(2)
        yield client, m1, m2


def addresses(client: minidask.Client) -> dict[str, str]:
    """The address of each machine, by its name."""
    return {machine["name"]: machine["address"] for machine in client.scheduler_info()["machines"]}


# --- what runs where ---


def test_what_runs_on_each_machine(room: tuple[minidask.Client, Program, Program], tmp_path: Path) -> None:
    client, _, _ = room
    go = str(tmp_path / "go")
    at = addresses(client)
    assert client.processing() == {at["m1"]: [], at["m2"]: []}
    futures = [client.submit(wait_for_file, go) for _ in range(3)]
    both = {at["m1"]: ["wait_for_file"], at["m2"]: ["wait_for_file"]}
    wait_until(lambda: client.processing() == both, "both worked, and the third task waited")
    assert client.processing("m1") == client.processing(at["m1"]) == {at["m1"]: ["wait_for_file"]}
    assert client.processing(["m2", at["m1"]]) == both
    with minidask.Client(client.address) as other:
        assert other.processing() == both, "of all clients"
    Path(go).touch()
    client.gather(futures)
    wait_until(lambda: not any(client.processing().values()), "nothing ran")


def test_calls_of_parallel_are_among_what_runs(tmp_path: Path) -> None:
    go = str(tmp_path / "go")

    def run() -> None:
        with joblib.parallel_config("minidask"):
            joblib.Parallel(n_jobs=2)(joblib.delayed(wait_for_file)(go) for _ in range(2))

    with minidask.Client(n_workers=2) as client:
        thread = threading.Thread(target=run)
        thread.start()
        try:
            wait_until(lambda: [*client.processing().values()] == [["wait_for_file"] * 2], "both ran")
        finally:
            Path(go).touch()
            thread.join()


def test_a_machine_that_does_not_answer_is_left_out(room: tuple[minidask.Client, Program, Program]) -> None:
    client, m1, _ = room
    at = addresses(client)
    m1.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert client.processing() == {at["m2"]: []}
        client._repr_html_()
        assert time.monotonic() - began < DEADLINE / 2
    finally:
        m1.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("workers", "error", "text"),
    [
        ("m3", ValueError, r"no machine 'm3'; those that are there: m1, m2"),
        (3, TypeError, "addresses or names of machines, got 3"),
        ([3], TypeError, "addresses or names"),
    ],
)
def test_machines_that_are_not_there_are_told(
    room: tuple[minidask.Client, Program, Program], workers: object, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        room[0].processing(workers)  # type: ignore[arg-type]


# --- who has which data ---


def test_which_machines_have_scattered_data(room: tuple[minidask.Client, Program, Program]) -> None:
    client, _, _ = room
    at = addresses(client)
    large, small = client.scatter(np.ones(1 << 18)), client.scatter("small")
    assert client.who_has(large) == {large: []}
    futures = client.run(nbytes, large)
    assert set(futures.values()) == {1 << 21}
    wait_until(lambda: sorted(client.who_has(large)[large]) == sorted(at.values()), "both had it")
    client.run(len, small)
    assert {handle: sorted(has) for handle, has in client.who_has([large, small]).items()} == {
        large: sorted(at.values()),
        small: sorted(at.values()),
    }
    (piece,) = large.refers_to
    has = client.who_has()[piece.hex()]
    assert sorted(has) == sorted(at.values()), "all large data, by its id"
    with minidask.Client(client.address) as other:
        assert other.who_has() == client.who_has()
        with pytest.raises(ValueError, match="another client's"):
            other.who_has(large)
    large.release()
    with pytest.raises(ValueError, match="was released"):
        client.who_has(large)
    wait_until(lambda: piece.hex() not in client.who_has(), "it was gone")


def test_the_machine_of_a_local_cluster_has_all_from_the_start() -> None:
    with minidask.Client(n_workers=1) as client:
        handle = client.scatter(np.ones(1 << 18))
        assert client.who_has(handle) == {handle: list(client.nthreads())}


def test_results_are_on_no_machine(client: minidask.Client) -> None:
    with pytest.raises(TypeError, match="what scatter\\(\\) has returned, not Future"):
        client.who_has(client.submit(abs, 1))  # type: ignore[arg-type]


# --- the story of a task ---


def test_the_story_of_a_task_that_died_once_from_its_submission_to_its_end(
    room: tuple[minidask.Client, Program, Program], tmp_path: Path
) -> None:
    client, _, _ = room
    began = time.time()
    future = client.submit(crash_once, str(tmp_path / "crashed"))
    assert future.result(DEADLINE) == "done"
    story = client.story(future)
    assert (story.name, story.state, story.how) == ("crash_once", "done", "done")
    first, second = {"m1", "m2"} - {story.machine}, story.machine
    assert second == future.worker
    assert [(what, text) for _, what, text in story.steps] == [
        ("submitted", ""),
        ("attempt 1 sent to", *first),
        ("attempt ended: died", story.steps[2][2]),
        ("attempt 2 sent to", second),
        ("done", ""),
    ]
    assert re.search(r"on m\d its process ended with SIGKILL", story.steps[2][2])
    times = [when for when, _, _ in story.steps]
    assert times == sorted(times) and began <= times[0] and times[-1] <= time.time()
    with minidask.Client(client.address) as other:
        theirs = other.story(story.number)
        assert [what for _, what, _ in theirs.steps] == ["attempt 1 sent to", "attempt ended: died"]


def test_the_story_of_a_task_while_it_waits_and_runs(client: minidask.Client, tmp_path: Path) -> None:
    go = str(tmp_path / "go")
    futures = [client.submit(wait_for_file, go) for _ in range(client.slots() + 1)]
    wait_until(lambda: client.story(futures[0]).state == "running", "it ran")
    waits = client.story(futures[-1])
    assert (waits.state, len(waits.steps)) == ("waiting", 1)
    Path(go).touch()
    client.gather(futures)


def test_the_story_of_tasks_that_raise_are_cancelled_or_unknown(client: minidask.Client, tmp_path: Path) -> None:
    raises = client.submit(divmod, 1, 0)
    assert raises.exception(DEADLINE) is not None
    story = client.story(raises)
    assert (story.state, story.how, story.text) == (
        "failed", "raised", "ZeroDivisionError: integer division or modulo by zero",
    )  # fmt: skip
    assert raises.duration is not None and story.seconds == raises.duration
    go = str(tmp_path / "go")
    cancelled = [client.submit(wait_for_file, go) for _ in range(client.slots() + 1)][-1]
    cancelled.cancel()
    Path(go).touch()
    assert client.story(cancelled).state == "cancelled"
    assert client.story(2**62).state == "unknown" and not client.story(2**62).steps


def test_a_story_controls_no_terminal(client: minidask.Client) -> None:
    def odd() -> None:
        raise ValueError("\x1b[2J")

    odd.__name__ = odd.__qualname__ = "odd\x1b[2J"
    future = client.submit(odd)
    future.exception(DEADLINE)
    text = str(client.story(future))
    assert "odd" in text and "ValueError" in text and "\x1b" not in text


def test_a_story_is_of_a_future_of_this_client(client: minidask.Client) -> None:
    with minidask.Client(client.address, access_file=client.access_file) as other:
        future = other.submit(abs, 1)
        with pytest.raises(ValueError, match="story\\(\\) takes futures of its own client"):
            client.story(future)


# --- logs ---


def test_the_daemons_last_log_lines_are_read_over_the_wire(room: tuple[minidask.Client, Program, Program]) -> None:
    client, m1, _ = room
    at = addresses(client)
    found = client.logs()
    assert set(found) == {"scheduler", *at.values()}
    assert any("worker m1 joined from" in line for line in found["scheduler"])
    assert any("joined the scheduler" in line for line in found[at["m1"]])
    assert set(client.logs("m2")) == {at["m2"]} == set(client.logs([at["m2"]]))
    (last,) = client.logs("m1", n=1)[at["m1"]]
    assert last in m1.text, "as in its own output"
    assert client.run(of_a_task) == {at["m1"]: 3, at["m2"]: 3}, "tasks may ask too"


def test_a_log_has_why_a_process_died_and_forges_no_line(
    room: tuple[minidask.Client, Program, Program], tmp_path: Path
) -> None:
    client, _, _ = room

    def odd(path: str) -> str:
        return crash_once(path)

    odd.__name__ = odd.__qualname__ = "odd\x1b[2J\nforged"
    client.submit(odd, str(tmp_path / "crashed")).result(DEADLINE)
    (line,) = [line for line in client.logs()["scheduler"] if "has lost its worker process" in line]
    assert "\x1b" not in line and "\n" not in line and "forged" in line and "SIGKILL" in line


def test_a_machine_that_does_not_answer_is_named_in_time(room: tuple[minidask.Client, Program, Program]) -> None:
    client, m1, _ = room
    at = addresses(client)
    with minidask.Client(client.address, timeout=1.0) as hasty:
        m1.process.send_signal(signal.SIGSTOP)
        try:
            found = hasty.logs()
            assert found[at["m1"]] == ["(the log cannot be read: there was no answer within 1 seconds)"]
            assert found[at["m2"]] and found["scheduler"]
            with pytest.raises(errors.MinidaskError, match="cannot be read: there was no answer"):
                hasty.logs("m1")
        finally:
            m1.process.send_signal(signal.SIGCONT)


def test_a_node_has_one_log_and_threads_have_none(client: minidask.Client) -> None:
    with minidask.Client(n_workers=1) as local:
        (machine,) = local.nthreads()
        assert any("joined from" in line for line in local.logs()[machine])
    with minidask.Client(processes=False) as threads:
        assert set(map(len, threads.logs().values())) == {0}


@pytest.mark.parametrize("n", [0, -1, 1001, 1.5, "x", None, True])
def test_how_many_lines_is_a_number(client: minidask.Client, n: object) -> None:
    with pytest.raises((TypeError, ValueError), match="n must be"):
        client.logs(n=n)  # type: ignore[arg-type]


# --- in a notebook ---


def test_a_notebook_shows_machines_and_what_runs(
    room: tuple[minidask.Client, Program, Program], tmp_path: Path
) -> None:
    client, _, _ = room
    go = str(tmp_path / "go")
    future = client.submit(wait_for_file, go)
    wait_until(lambda: any(client.processing().values()), "it ran")
    shown = client._repr_html_()
    rows = re.findall(r"<tr>(.*?)</tr>", shown)[1:]
    cells = sorted(tuple(html.unescape(cell) for cell in re.findall("<td>(.*?)</td>", row)) for row in rows)
    assert [cell[0] for cell in cells] == ["m1", "m2"]
    assert sorted(re.sub(r"[\d.]+ s", "N s", cell[4]) for cell in cells) == ["1 idle", "wait_for_file N s"]
    Path(go).touch()
    future.result(DEADLINE)


def test_a_notebook_shows_names_as_text(client: minidask.Client, tmp_path: Path) -> None:
    def odd(path: str) -> None:
        wait_for_file(path)

    odd.__name__ = odd.__qualname__ = "<script>\x1b[2J"
    go = tmp_path / "go"
    future = client.submit(odd, str(go))
    wait_until(lambda: "script" in client._repr_html_(), "it was shown")
    shown = client._repr_html_()
    assert "<script>" not in shown and "\x1b" not in shown and "&lt;script&gt;" in shown
    go.touch()
    future.result(DEADLINE)


def test_a_client_whose_connection_ended_is_shown_too(client: minidask.Client) -> None:
    with minidask.Client(client.address, access_file=client.access_file) as other:
        pass
    assert "closed" in other._repr_html_()
