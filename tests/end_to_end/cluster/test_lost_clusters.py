"""Whoever made a client, or named an address, gets that cluster or an error; and what was given up ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from operator import neg
from pathlib import Path

import joblib
import pytest

import minidask
from minidask import errors
from tests.helpers import Programs, wait_until

LOST = """
import joblib, minidask, os, signal, sys

way, address = sys.argv[1:3]
if way == "client":
    client = minidask.Client(address, reconnect_timeout=0)
options = {"scheduler": address} if way == "option" else {}

def squares(n_jobs):
    with joblib.parallel_config("minidask", reconnect_timeout=0, **options):
        return joblib.Parallel(n_jobs=n_jobs)(joblib.delayed(pow)(i, 2) for i in range(4))

def lost(text, n_jobs=(2, -1)):
    for n in n_jobs:
        try:
            found = squares(n)
        except minidask.errors.SchedulerLost as error:
            assert address in str(error) and text in str(error), error
        else:
            raise AssertionError(f"it ran elsewhere: {found}")

assert squares(2) == [0, 1, 4, 9]
assert [c.address for c in minidask.client.registry.live_clients] == [address]
print("ran", flush=True)
assert input() == "killed"
lost("close()" if way == "client" else "")
lost("close()" if way == "client" else "")
print("lost", flush=True)
assert input() == "again"
if way == "client":
    lost("make a new one")
    client.close()
    assert squares(2) == [0, 1, 4, 9]  # after that, there is nothing that it has to run on
    assert minidask.get_client().address != address
else:
    assert squares(2) == [0, 1, 4, 9]
    assert minidask.get_client().address == address
print("over", flush=True)
"""


LISTENS = """
heard = 0

def input():
    global heard
    import time
    while heard >= len(words := open({!r}).read().split()):
        time.sleep(0.01)
    heard += 1
    return words[heard - 1]
"""


class Talk:
    """A script whose `input()` waits for words of ours."""

    def __init__(self, programs: Programs, text: str, *arguments: str, **environment: str) -> None:
        self._pipe = programs.folder / f"words-{len(arguments)}-{time.monotonic_ns()}"
        self._pipe.touch()
        self._words = self._pipe.open("a")
        self.program = programs.script(LISTENS.format(str(self._pipe)) + text, *arguments, **environment)

    def wait_for(self, text: str) -> None:
        self.program.wait_for(text)

    def say(self, word: str) -> None:
        self._words.write(f"{word}\n")
        self._words.flush()

    def end(self) -> None:
        self._words.close()
        assert self.program.exit_code(50) == 0, self.program.text


@pytest.mark.parametrize("way", ["client", "variable", "option"])
def test_parallel_raises_when_its_cluster_is_lost_and_never_runs_elsewhere(way: str, programs: Programs) -> None:
    scheduler, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "2")
    environment = {"MINIDASK_SCHEDULER": address} if way == "variable" else {}
    talk = Talk(programs, LOST, way, address, **environment)
    talk.wait_for("ran")
    scheduler.send(signal.SIGKILL)
    scheduler.exit_code()
    talk.say("killed")
    talk.wait_for("lost")
    worker.end()
    port = address.rpartition(":")[2]
    programs.start(sys.executable, "-m", "minidask.scheduler", "--port", port).wait_for("listens on")
    programs.worker(address, "--nworkers", "2")
    talk.say("again")
    talk.wait_for("over")
    talk.end()


IMPLICIT = """
import joblib, minidask, os, signal, time

def run():
    with joblib.parallel_config("minidask", n_jobs=2, reconnect_timeout=0):
        assert joblib.Parallel()(joblib.delayed(pow)(i, 2) for i in range(4)) == [0, 1, 4, 9]
    return minidask.get_client()

first = run()
os.kill(first.scheduler_info()["pid"], signal.SIGKILL)
while not first.closed:
    time.sleep(0.01)
second = run()
assert second is not first and second is run()
print("over", flush=True)
"""


def test_a_cluster_that_came_with_a_call_is_made_again(programs: Programs) -> None:
    script = programs.script(IMPLICIT)
    assert script.exit_code(50) == 0, script.text


NAMED = """
import joblib, minidask, os, sys

def pids(**options):
    with joblib.parallel_config("minidask", n_jobs=2, **options):
        return set(joblib.Parallel(batch_size=1)(joblib.delayed(os.getpid)() for _ in range(10)))

own = minidask.Client(n_workers=2) if sys.argv[2] == "client" else None
named = pids(scheduler=sys.argv[1])
print("named", flush=True)
sys.stdin.readline()
unnamed = pids()
assert not named & unnamed, (named, unnamed)
print("over", flush=True)
"""


@pytest.mark.parametrize("own", ["client", "no client"])
def test_a_call_that_names_no_cluster_does_not_run_on_one_that_an_earlier_call_named(
    own: str, programs: Programs
) -> None:
    scheduler, address = programs.scheduler()
    programs.worker(address, "--nworkers", "2")
    talk = Talk(programs, NAMED, address, own)
    talk.wait_for("named")
    scheduler.send(signal.SIGKILL)  # the client that was made for it looks for this scheduler for a minute
    scheduler.exit_code()
    talk.say("killed")
    talk.wait_for("over")
    talk.end()


FORK = """
import joblib, minidask, os, sys, warnings

warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process that has threads
client = minidask.Client(sys.argv[1])

def pids():
    with joblib.parallel_config("minidask"):
        return set(joblib.Parallel(n_jobs=2)(joblib.delayed(os.getppid)() for _ in range(4)))

theirs = pids()
for expected in ("same", "lost"):
    child = os.fork()
    if not child:
        if expected == "same":
            assert pids() == theirs, "it ran elsewhere"
            assert minidask.get_client().address == sys.argv[1]
        else:
            try:
                pids()
            except minidask.errors.SchedulerLost as error:
                assert sys.argv[1] in str(error), error
            else:
                os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    if expected == "same":
        assert pids() == theirs
        print("ran", flush=True)
        assert input() == "killed"
print("over", flush=True)
"""


def test_a_forked_child_uses_its_parents_cluster_or_fails(programs: Programs) -> None:
    scheduler, address = programs.scheduler()
    programs.worker(address, "--nworkers", "2")
    talk = Talk(programs, FORK, address)
    talk.wait_for("ran")
    scheduler.send(signal.SIGKILL)
    scheduler.exit_code()
    talk.say("killed")
    talk.wait_for("over")
    talk.end()


# --- what was given up ---


def test_a_parallel_in_another_thread_raises_when_all_is_cancelled() -> None:
    caught: list[BaseException] = []

    def call() -> None:
        try:
            joblib.Parallel(n_jobs=2, backend="minidask")(joblib.delayed(time.sleep)(60) for _ in range(8))
        except BaseException as error:  # whatever it is, it is looked at below
            caught.append(error)

    with minidask.Client(n_workers=2) as client:
        thread = threading.Thread(target=call)
        thread.start()
        wait_until(lambda: client.scheduler_info()["tasks"]["running"] == 2, "they run")
        client.cancel_all(force=True)
        thread.join(20)
        assert len(caught) == 1 and isinstance(caught[0], errors.MinidaskError), caught
        assert "cancelled" in str(caught[0])
        wait_until(lambda: not any(client.scheduler_info()["tasks"][k] for k in ("queued", "running")), "all ended")
        assert joblib.Parallel(n_jobs=2, backend="minidask")(joblib.delayed(neg)(i) for i in range(3)) == [0, -1, -2]


GATHER = """
import minidask, threading, time

def tell():
    while client.scheduler_info()["tasks"]["queued"] < 36:
        time.sleep(0.01)
    print("queued", flush=True)

with minidask.Client(n_workers=1) as client:
    assert client.submit(abs, -1).result() == 1
    threading.Thread(target=tell).start()
    try:
        client.gather(client.map(time.sleep, [60] * 37))
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("it was not interrupted")
    end = time.monotonic() + 20
    while client.scheduler_info()["tasks"]["queued"]:
        assert time.monotonic() < end, client.scheduler_info()["tasks"]
        time.sleep(0.01)
    client.cancel_all(force=True)  # the one that runs, and that nobody holds
    assert client.submit(abs, -2).result(20) == 2
    print("over", flush=True)
"""


def test_an_interrupted_gather_leaves_nothing_queued(programs: Programs) -> None:
    script = programs.script(GATHER)
    script.wait_for("queued")
    script.send(signal.SIGINT)
    assert script.exit_code(50) == 0, script.text
    assert "over" in script.text


BROKEN = """
import os, sys
if os.path.exists({flag!r}) and any("worker.slot.process" in argument for argument in sys.orig_argv):
    os._exit(7)
"""

WORKERS_THAT_DIE = """
import os, signal, sys, time, minidask

client = minidask.Client(n_workers=2)
pids = set()
while len(pids) < 2:
    pids |= set(client.gather([client.submit(lambda: (time.sleep(0.05), os.getpid())[1]) for _ in range(4)]))
waiting = [client.submit(time.sleep, 60) for _ in range(4)]
open(sys.argv[1], "w").close()
for pid in pids:
    os.kill(pid, signal.SIGKILL)
for future in waiting:
    print("error:", future.exception(60))
print(client)
"""


def test_a_cluster_whose_workers_cannot_start_any_more_ends_and_says_why(programs: Programs, tmp_path: Path) -> None:
    """A package is being upgraded, or the memory is full; and tasks wait."""
    flag = tmp_path / "flag"
    (tmp_path / "sitecustomize.py").write_text(BROKEN.format(flag=str(flag)))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    program = programs.script(WORKERS_THAT_DIE, str(flag), PYTHONPATH=path)
    assert program.exit_code(60) == 0, program.text
    why = "said goodbye: workers die before they are ready, the last one with exit code 7"
    assert [why in line for line in program.text.splitlines() if line.startswith("error:")] == [True] * 4, program.text
    assert f"closed: the scheduler at {program.text.split('scheduler at ')[1].split()[0]} {why}" in program.text
