"""How things end: a user's process, by any means, leaves nothing behind; and where users start from."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers import Programs, alive, wait_until

SEARCH = """
import numpy as np, joblib, minidask
from sklearn.datasets import load_digits
from sklearn.model_selection import RandomizedSearchCV
from sklearn.svm import SVC

client = minidask.Client(n_workers=2)

class Marked(SVC):
    '''A class of __main__.'''

def square(x):
    return x * x

digits = load_digits()
X, y = digits.data[:300], digits.target[:300]
search = RandomizedSearchCV(Marked(), {"C": np.logspace(-6, 6, 13)}, cv=3, n_iter=4, verbose=10, random_state=0)

with joblib.parallel_backend("minidask"):
    _ = search.fit(X, y)
    squares = joblib.Parallel()(joblib.delayed(square)(i) for i in range(5))

print("best", type(search.best_estimator_).__name__, search.best_score_, squares, flush=True)
"""

SLEEPER = """
import sys, time, pathlib, joblib, minidask

def nap(mark):
    pathlib.Path(mark).touch()
    {what}

client = minidask.Client(n_workers=2{options})
print("started", flush=True)
with joblib.parallel_backend("minidask"):
    joblib.Parallel()(joblib.delayed(nap)(f"{{sys.argv[1]}}/{{i}}") for i in range(2))
"""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def check_search(output: str) -> None:
    assert "best Marked 0." in output
    assert "[0, 1, 4, 9, 16]" in output
    assert "[CV 1/3; 1/4] END" in output


def test_from_a_script_without_a_guard(programs: Programs) -> None:
    script = programs.script(SEARCH)
    assert script.exit_code(60) == 0, script.text
    check_search(script.text)


@pytest.mark.parametrize("options", [["-"], ["-i"]])
def test_from_standard_input_and_from_a_repl(options: list[str], tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, *options], input=SEARCH, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
    )
    assert result.returncode == 0, result.stderr
    check_search(result.stdout)


def test_without_a_client_a_cluster_is_started_kept_and_ended(programs: Programs) -> None:
    script = programs.script(
        """
import os, joblib, minidask
def where(_): return os.getppid()
nodes = set()
for _ in range(3):
    with joblib.parallel_backend("minidask"):
        nodes |= set(joblib.Parallel(n_jobs=2)(joblib.delayed(where)(i) for i in range(4)))
print("nodes", len(nodes), minidask.get_client().slots(), flush=True)
"""
    )
    assert script.exit_code(60) == 0, script.text
    assert f"nodes 1 {len(os.sched_getaffinity(0))}" in script.text


def test_without_a_client_the_environment_names_the_scheduler(programs: Programs) -> None:
    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "2", "--name", "named")
    script = programs.script(
        """
import joblib, minidask
with joblib.parallel_config("minidask"):
    print(joblib.Parallel()(joblib.delayed(abs)(-i) for i in range(3)), minidask.get_client().address, flush=True)
""",
        MINIDASK_SCHEDULER=address,
    )
    assert script.exit_code(60) == 0, script.text
    assert f"[0, 1, 2] {address}" in script.text


def started_sleeper(programs: Programs, tmp_path: Path, what: str = "time.sleep(60)", options: str = "") -> list[int]:
    """A script whose two tasks run now; returns the processes that it has started, itself first."""
    marks = tmp_path / "marks"
    marks.mkdir()
    script = programs.script(SLEEPER.format(what=what, options=options), str(marks))
    wait_until(lambda: len(list(marks.iterdir())) == 2, "both tasks ran")
    script_process = psutil.Process(script.process.pid)
    return [script_process.pid, *(child.pid for child in script_process.children(recursive=True))]


BUSY = ["time.sleep(60)", "\n    while True: pass", "sum(range(10**12))"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("what", BUSY)
def test_the_end_of_the_users_process_is_the_end_of_all(
    number: signal.Signals, what: str, programs: Programs, tmp_path: Path
) -> None:
    pids = started_sleeper(programs, tmp_path, what)
    assert len(pids) == 4  # the script, the node and two slots
    os.kill(pids[0], number)
    wait_until(lambda: not alive(pids[1:]), f"all had ended after {number.name}", 3)
    programs.end_all()


@pytest.mark.alone(reason="it measures milliseconds")
def test_ctrl_c_stops_the_tasks_within_a_second_and_shows_a_keyboard_interrupt(
    programs: Programs, tmp_path: Path
) -> None:
    script = programs.script(
        SLEEPER.format(what="\n    while True: pass", options="")
        .replace("with joblib", "import signal\ntry:\n  with joblib")
        .replace("    joblib.Parallel", "     joblib.Parallel")
        + """
except KeyboardInterrupt:
    began = time.monotonic()
    while client.scheduler_info()["tasks"]["running"]:
        time.sleep(0.01)
    print("stopped in time", time.monotonic() - began < 1, client.submit(abs, -1).result(10), flush=True)
""",
        str(tmp_path),
    )
    wait_until(lambda: len(list(tmp_path.glob("[01]"))) == 2, "both tasks ran")
    script.send(signal.SIGINT)
    assert script.exit_code(20) == 0, script.text
    assert "stopped in time True 1" in script.text


def test_the_death_of_the_node_is_an_error_and_no_hang(programs: Programs, tmp_path: Path) -> None:
    pids = started_sleeper(programs, tmp_path, options=", reconnect_timeout=0")
    os.kill(pids[1], signal.SIGKILL)
    wait_until(lambda: not alive(pids), "all had ended", 5)
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert "SchedulerLost" in logs


def test_threads_end_with_their_process_too(programs: Programs, tmp_path: Path) -> None:
    pids = started_sleeper(programs, tmp_path, options=", processes=False")
    assert len(pids) == 1
    os.kill(pids[0], signal.SIGTERM)
    wait_until(lambda: not alive(pids), "it had ended", 3)


def test_the_folder_of_a_dead_cluster_is_swept_out(programs: Programs, short_folder: Path) -> None:
    runtime = short_folder
    script = "import minidask, os, signal; c = minidask.Client(n_workers=1); print('up', flush=True); {}"
    kill_all = "os.kill(c.scheduler_info()['pid'], 9); os.kill(os.getpid(), 9)"
    first = programs.script(script.format(kill_all), XDG_RUNTIME_DIR=str(runtime))
    assert first.exit_code() == -signal.SIGKILL
    assert len(list(runtime.iterdir())) == 1
    second = programs.script(script.format("c.close()"), XDG_RUNTIME_DIR=str(runtime))
    assert second.exit_code() == 0, second.text
    assert list(runtime.iterdir()) == []
