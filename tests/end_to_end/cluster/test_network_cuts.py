"""Networks that are cut both ways, and processes that stand still, with hosts in network namespaces."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import minidask
from tests.helpers import Program, Programs, at_rest, wait_until
from tests.network import CLIENT, FIRST, Network, possible

ROOT = Path(__file__).parents[3]
LIMIT = 2.0
"""Seconds of silence: `--heartbeat-timeout`."""
CUT = 3 * LIMIT
FOR_EVER = 600.0

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def network(programs: Programs) -> Iterator[Network]:
    if not possible():
        pytest.skip("network namespaces need root, and Debian's iproute2")
    with Network(programs, LIMIT, death_timeout=30) as made:
        yield made


def runs(folder: Path, name: str) -> list[str]:
    """The machines that have begun a task, in that order."""
    path = folder / name
    return path.read_text().split() if path.exists() else []


def task(folder: Path, name: str, first: float, again: float) -> str:
    """A task that notes where it begins. It takes so many seconds, and others when it runs again."""
    seconds = again if runs(folder, name) else first
    with (folder / name).open("a") as file:
        file.write(os.environ["MINIDASK_WORKER"] + "\n")
    time.sleep(seconds)
    return name


USER = """
import json, sys
from pathlib import Path
import minidask
from tests.end_to_end.cluster.test_network_cuts import task
address, folder, reconnect_timeout = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
with minidask.Client(address, name="user", reconnect_timeout=reconnect_timeout, timeout=5) as client:
    client.wait_for_workers(2)
    tasks = [client.submit(task, folder, *each) for each in json.loads(sys.argv[4])]
    print("result", client.gather(tasks), flush=True)
"""


class Scene:
    """A user's program on the client's host, and the files of its tasks."""

    def __init__(self, programs: Programs, network: Network, folder: Path) -> None:
        self._programs = programs
        self._network = network
        self.folder = folder

    def user(self, *tasks: tuple[str, float, float], reconnect_timeout: float = 60.0) -> Program:
        """Start the program, and wait until its tasks run that two slots can run."""
        import json

        script = self.folder / "user.py"
        script.write_text(USER)
        arguments = (self._network.address, str(self.folder), str(reconnect_timeout), json.dumps(tasks))
        program = self._programs.start(
            *self._network.on(CLIENT), sys.executable, str(script), *arguments, PYTHONPATH=str(ROOT)
        )
        wait_until(lambda: len([name for name, *_ in tasks if runs(self.folder, name)]) == 2, "two tasks ran")
        return program

    def on_first(self, *names: str) -> str:
        """The one of these tasks that runs on the first machine."""
        (found,) = [name for name in names if runs(self.folder, name)[0] == "first"]
        return found


@pytest.fixture
def scene(programs: Programs, network: Network, tmp_path: Path) -> Scene:
    return Scene(programs, network, tmp_path)


def result_of(user: Program) -> str:
    assert user.exit_code(60) == 0, user.text
    return user.text.split("result ")[1].splitlines()[0]


# --- a machine ---


@pytest.mark.parametrize("seconds", [LIMIT / 4, 2 * LIMIT])
def test_an_outcome_of_a_machine_that_was_cut_off_counts_when_it_is_back(
    scene: Scene, network: Network, seconds: float
) -> None:
    """Its task runs again elsewhere, and would for ever. The outcome is sent in vain, or comes after the silence."""
    began = time.monotonic()
    user = scene.user(("a", 1 + seconds, FOR_EVER), ("b", 1 + seconds, FOR_EVER))
    with network.a_cut(FIRST):
        network.scheduler.wait_for("machine first is lost: it was silent for 2 seconds; to be run elsewhere: 1 task")
        cut_off = scene.on_first("a", "b")
        wait_until(lambda: runs(scene.folder, cut_off) == ["first", "second"], "it ran elsewhere")
        wait_until(lambda: time.monotonic() > began + CUT, "the cut was long enough")
    assert result_of(user) == "['a', 'b']"
    log = network.workers[0].text
    assert "was silent for 2 seconds; asking whether it answers" in log
    assert log.count("joined the scheduler") == 2
    assert "connects again" not in user.text


def test_a_task_that_still_runs_on_a_machine_that_was_cut_off_is_stopped_there_if_it_runs_elsewhere(
    scene: Scene, network: Network
) -> None:
    user = scene.user(("a", FOR_EVER, 3 * LIMIT), ("b", 1, 1))
    # whichever machine runs "a" is cut off
    host = FIRST if runs(scene.folder, "a") == ["first"] else FIRST + 1
    with network.a_cut(host):
        wait_until(lambda: len(runs(scene.folder, "a")) == 2, "it ran elsewhere")
    network.scheduler.wait_for("is back; stopped there, as it runs elsewhere: 1 task")
    assert result_of(user) == "['a', 'b']"
    assert len(runs(scene.folder, "a")) == 2


def test_what_runs_on_a_machine_that_is_gone_goes_elsewhere_and_the_machine_ends(
    programs: Programs, tmp_path: Path
) -> None:
    if not possible():
        pytest.skip("network namespaces need root, and Debian's iproute2")
    with Network(programs, LIMIT, death_timeout=2 * LIMIT) as network:
        scene = Scene(programs, network, tmp_path)
        user = scene.user(("a", CUT, 0.1), ("b", CUT, 0.1))
        network.cut(FIRST)
        assert result_of(user) == "['a', 'b']"
        assert (
            "machine first is lost: it was silent for 2 seconds; to be run elsewhere: 1 task" in network.scheduler.text
        )
        assert network.workers[0].exit_code() == 1
        assert "gave up after 4 seconds" in network.workers[0].text


# --- a client ---


def test_tasks_of_a_client_that_was_cut_off_go_on_and_it_gets_their_results(scene: Scene, network: Network) -> None:
    """One of them ends while it is away, one when it is back, and one has not begun before."""
    tasks = [("a", CUT + 1, FOR_EVER), ("b", 2 * CUT + 2, FOR_EVER), ("c", 0.1, 0.1)]
    user = scene.user(*tasks)
    with network.a_cut(CLIENT):
        began = time.monotonic()
        said = "tasks that go on for 60 seconds at most: 2, that are cancelled: 1"
        network.scheduler.wait_for(f"client user is cut off, as its machine has not answered for 2 seconds; {said}")
        wait_until(lambda: time.monotonic() > began + CUT + 3, "the cut was long enough")
    assert result_of(user) == "['a', 'b', 'c']"
    assert [len(runs(scene.folder, name)) for name, *_ in tasks] == [1, 1, 1], "nothing was started again"
    assert "the scheduler was silent for 2 seconds; the client asks whether it answers" in user.text
    assert "it was silent for 2 seconds; the client connects again" in user.text
    assert "the client is connected again" in user.text


def test_a_client_that_is_gone_for_good_is_told_so_and_its_tasks_end(
    scene: Scene, network: Network, programs: Programs
) -> None:
    user = scene.user(("a", FOR_EVER, 0), ("b", FOR_EVER, 0), ("c", FOR_EVER, 0), reconnect_timeout=2 * LIMIT)
    network.cut(CLIENT)
    assert user.exit_code(60) == 1
    assert "SchedulerLost" in user.text and "it was silent for 2 seconds, and" in user.text
    said = "tasks that go on for 4 seconds at most: 2, that are cancelled: 1"
    network.scheduler.wait_for(f"client user is cut off, as its machine has not answered for 2 seconds; {said}")
    look = f"""
import minidask
from tests.helpers import at_rest, wait_until
from pathlib import Path
with minidask.Client({network.address!r}) as client:
    wait_until(lambda: at_rest(client), "its tasks had ended")
    assert client.submit(abs, -1).result(20) == 1
"""
    path = scene.folder / "look.py"
    path.write_text(look)
    other = programs.start(*network.on(FIRST), sys.executable, str(path), PYTHONPATH=str(ROOT))
    assert other.exit_code(60) == 0, other.text
    assert not runs(scene.folder, "c")


# --- a scheduler that stands still ---


def test_a_machine_finds_a_scheduler_that_stood_still_and_goes_on(programs: Programs, tmp_path: Path) -> None:
    scheduler, address = programs.scheduler("--heartbeat-timeout", str(LIMIT))
    worker = programs.worker(address, "--nworkers", "2")
    with minidask.Client(address, timeout=1) as client:
        client.wait_for_workers(2)
        tasks = [client.submit(task, tmp_path, name, 2 * CUT, 0.1) for name in "ab"]
        wait_until(lambda: all(runs(tmp_path, name) for name in "ab"), "they ran")
        stood_still(scheduler, worker)
        worker.wait_for("is heard again")
        assert client.gather(tasks) == ["a", "b"]
        assert all(len(runs(tmp_path, name)) == 1 for name in "ab"), "they were not started again"
        assert at_rest(client)
    assert worker.text.count("joined the scheduler") == 1
    assert "lost" not in scheduler.text


def stood_still(scheduler: Program, worker: Program) -> None:
    began = time.monotonic()
    scheduler.send(signal.SIGSTOP)
    worker.wait_for("was silent for 2 seconds; asking whether it answers")
    wait_until(lambda: time.monotonic() > began + CUT, "it had stood still for long enough")
    scheduler.send(signal.SIGCONT)


def test_what_a_machine_tells_a_scheduler_that_hangs_and_is_killed_counts_at_the_next_one(
    programs: Programs, tmp_path: Path
) -> None:
    scheduler, address = programs.scheduler("--heartbeat-timeout", str(LIMIT))
    worker = programs.worker(address, "--nworkers", "1")
    with minidask.Client(address, timeout=1) as client:
        client.wait_for_workers(1)
        future = client.submit(task, tmp_path, "a", LIMIT, FOR_EVER)
        wait_until(lambda: runs(tmp_path, "a"), "it ran")
        scheduler.send(signal.SIGSTOP)
        worker.wait_for("asking whether it answers")
        began = time.monotonic()
        wait_until(lambda: time.monotonic() > began + LIMIT, "the outcome was sent")
        scheduler.send(signal.SIGKILL)
        scheduler.exit_code()
        port = address.rpartition(":")[2]
        programs.start(sys.executable, "-m", "minidask.scheduler", "--port", port).wait_for("listens on")
        assert future.result(60) == "a"
    assert len(runs(tmp_path, "a")) == 1
