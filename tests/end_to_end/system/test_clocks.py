"""Clocks that jump by a year, in all programs, while calls run: nobody is declared dead, and nothing runs twice."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.helpers import Programs

JUMPS = """
import time

_time, _time_ns, _clock_gettime = time.time, time.time_ns, time.clock_gettime

def _jump():
    with open({clock!r}) as file:
        return int(file.read() or 0)

time.time = lambda: _time() + _jump()
time.time_ns = lambda: _time_ns() + _jump() * 10**9
time.clock_gettime = lambda which: _clock_gettime(which) + _jump() * (which == time.CLOCK_REALTIME)
"""

CALLS = """
import os, sys, threading, time, joblib, minidask

address, clock, marks = sys.argv[1:]
YEAR = 366 * 24 * 3600
over = threading.Event()
jumps = 0

def jump():
    global jumps
    while not over.wait(0.3):
        jumps += 1
        os.replace(write(clock + ".new", YEAR * (0, 1, -1)[jumps % 3]), clock)

def write(path, number):
    with open(path, "w") as file:
        file.write(str(number))
    return path

def call(i):
    with open(f"{marks}/{i}", "a") as file:
        file.write("x")
    time.sleep(0.04)
    return -i

place = {"address": address} if address else {"n_workers": 2}
with minidask.Client(**place) as client:
    client.wait_for_workers(2)
    thread = threading.Thread(target=jump)
    thread.start()
    now = time.time()
    began = time.monotonic()
    for way in ("list", "generator", "generator_unordered"):
        options = {"scheduler": client, "task_timeout": 20, "progress": True}
        with joblib.parallel_config("minidask", **options):
            numbers = range(jumps * 1000, jumps * 1000 + 80)
            found = list(joblib.Parallel(return_as=way)(joblib.delayed(call)(i) for i in numbers))
        assert sorted(found) == sorted(-i for i in numbers), found
    waiting = client.submit(time.sleep, 4, timeout=20)
    assert waiting.result(20) is None
    assert time.monotonic() - began > 8 and jumps > 20
    over.set()
    thread.join()
assert all(os.path.getsize(f"{marks}/{name}") == 1 for name in os.listdir(marks)), "a call ran twice"
print("all was right", len(os.listdir(marks)), flush=True)
"""


@pytest.mark.parametrize("place", ["a cluster of its own", "daemons"])
def test_a_clock_that_jumps_by_a_year_declares_nobody_dead(place: str, programs: Programs, tmp_path: Path) -> None:
    clock, marks, site = tmp_path / "clock", tmp_path / "marks", tmp_path / "site"
    clock.write_text("0")
    marks.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(JUMPS.format(clock=str(clock)))
    path = {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    daemons, address = [], ""
    if place == "daemons":
        options = ("--port", "0", "--heartbeat-timeout", "5")
        daemons.append(programs.start(sys.executable, "-m", "minidask.scheduler", *options, **path))
        address = daemons[0].wait_for("minidask.Client(").split('minidask.Client("')[1].split('"')[0]
        for _ in range(2):
            worker = programs.start(sys.executable, "-m", "minidask.worker", address, "--nworkers", "1", **path)
            worker.wait_for("joined the scheduler")
            daemons.append(worker)
    before = [len(daemon.text.splitlines()) for daemon in daemons]
    program = programs.script(CALLS, address, str(clock), str(marks), **path)
    assert program.exit_code(60) == 0, program.text
    assert "all was right 240" in program.text
    assert program.text.count(" running]") >= 9, f"the bar stood still: {program.text}"
    for word in ("Traceback", "lost", "silent", "WARNING"):
        assert word not in program.text, program.text
    for daemon, lines in zip(daemons, before, strict=True):
        said = daemon.text.splitlines()[lines:]
        assert not [line for line in said if "WARNING" in line or "silent" in line], said
