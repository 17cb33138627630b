"""Programs that end, in any way and at any moment: soon, with their own exit code and words, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from minidask.host.folders import PREFIX, SHARED_MEMORY
from tests.helpers import RUN, Program, wait_until

pytestmark = pytest.mark.timeout(120)

PROGRAM = """
import atexit, os, signal, sys, tempfile, threading, time

moment, way, marks = sys.argv[1:]
tempfile.gettempdir()  # tries a file of its own, which a thread that Python leaves behind would leave

class Own(Exception):
    pass

def fail():
    raise Own

if way == "atexit handler of before raises":
    atexit.register(fail)

import joblib, minidask, psutil
import minidask.local.cluster  # now: a thread that runs text, as a dataclass does, has Python forget Ctrl-C's exit code

if way == "atexit handler raises":
    atexit.register(fail)

def nap(i, seconds=60):
    open(f"{marks}/{i}", "w").close()
    time.sleep(seconds)
    return i

def nest(i):
    with joblib.parallel_config("minidask"):
        joblib.Parallel(n_jobs=2)(joblib.delayed(nap)(f"{i}.{k}") for k in range(2))

def wait_for_marks(number):
    while len(os.listdir(marks)) < number:
        time.sleep(0.005)

def call(function, **options):
    with joblib.parallel_config("minidask"):
        return joblib.Parallel(n_jobs=2, **options)(joblib.delayed(function)(i) for i in range(20))

def in_thread(function, *arguments, **options):
    thread = threading.Thread(target=function, args=arguments, kwargs=options, daemon=True)
    thread.start()
    return thread

def until_lost(function, *arguments):
    try:
        function(*arguments)
    except minidask.errors.SchedulerLost:  # an error reaches whoever waits, also a thread that Python leaves behind
        pass

def end():
    print("the end", flush=True)
    if way == "os._exit":
        os._exit(7)
    if way.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, way))
        time.sleep(60)

def end_later(seconds):
    while seconds >= 0 and not psutil.Process().children():
        time.sleep(0.001)
    time.sleep(max(seconds, 0))
    end()

if moment == "the cluster starts":
    in_thread(end_later, float(os.environ["LATER"]))
    client = minidask.Client(n_workers=2)
    time.sleep(60)
elif moment == "the cluster starts in a thread":
    in_thread(minidask.Client, n_workers=2)
    end_later(float(os.environ["LATER"]))
else:
    client = minidask.Client(n_workers=2, processes=moment != "calls run in threads")
    if moment in ("calls run", "calls run in threads"):
        futures = client.map(nap, range(2))
        wait_for_marks(2)
    elif moment == "futures are pending":
        futures = client.map(nap, range(200))
        wait_for_marks(2)
    elif moment == "a generator is half taken":
        results = call(lambda i: nap(i, 0.02), return_as="generator")
        assert [next(results) for _ in range(3)] == [0, 1, 2]
    elif moment == "a call nests":
        future = client.submit(nest, 0)
        wait_for_marks(2)
    elif moment == "a daemon thread is in Parallel":
        in_thread(until_lost, call, nap)
        wait_for_marks(2)
    elif moment == "daemon threads submit and wait":
        def submit():
            while True:
                client.submit(abs, -1).result()
        threads = [in_thread(until_lost, submit) for _ in range(3)]
        client.submit(nap, 0, 0).result()
    else:
        client.submit(abs, -1).result()
    end()

if way == "sys.exit":
    sys.exit(7)
if way == "sys.exit in a thread":
    in_thread(sys.exit, 7).join()
if way == "raises":
    raise Own
"""

CODES = {
    "returns": 0,
    "sys.exit": 7,
    "sys.exit in a thread": 0,
    "raises": 1,
    "os._exit": 7,
    "SIGKILL": -signal.SIGKILL,
    "SIGTERM": -signal.SIGTERM,
    "SIGINT": -signal.SIGINT,
    "atexit handler raises": 0,
    "atexit handler of before raises": 0,
}
SAYS_OWN = ("raises", "atexit handler raises", "atexit handler of before raises")
AT_ONCE = ("os._exit", "SIGKILL", "SIGTERM", "SIGINT")
MOMENTS = [
    "no call runs",
    "calls run",
    "calls run in threads",
    "futures are pending",
    "a generator is half taken",
    "a call nests",
    "a daemon thread is in Parallel",
    "daemon threads submit and wait",
]


class Ending:
    """A program that ends, with folders and a mark of its own."""

    def __init__(self, folder: Path, moment: str, way: str, later: float) -> None:
        self.way = way
        self.places = [folder / name for name in ("tmp", "run")]
        for place in (*self.places, folder / "marks"):
            place.mkdir()
        (folder / "ends.py").write_text(PROGRAM)
        self.mark = f"{os.environ[RUN]} {folder}"
        self.places_of_its_own = {"TMPDIR": str(self.places[0]), "XDG_RUNTIME_DIR": str(self.places[1])}
        # No process of ours is left that could remove files: the next one does.
        self.is_swept = way in AT_ONCE and (moment == "calls run in threads" or later < 0)
        self.program = Program(
            [sys.executable, str(folder / "ends.py"), moment, way, str(folder / "marks")],
            folder / "log",
            None,
            LATER=str(later),
            **self.places_of_its_own,
            **{RUN: self.mark},
        )

    def check(self) -> None:
        self.program.wait_for("the end")
        assert self.program.exit_code(20) == CODES[self.way], f"{self.way}: {self.program.text}"
        if self.is_swept:
            command = [sys.executable, "-c", "import minidask; minidask.LocalCluster(n_workers=1).close()"]
            subprocess.run(command, env={**os.environ, **self.places_of_its_own}, timeout=60, check=True)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.left(), f"nothing was left after {self.way}", 10)
        assert not self.left(), self.way
        said = self.program.text.partition("the end\n")[2]
        if self.way == "SIGINT":
            assert said.endswith("KeyboardInterrupt\n"), f"{self.way}: {said}"
        elif self.way in SAYS_OWN:
            assert said.rstrip(": \n").endswith("Own") and said.count("Traceback") == 1, f"{self.way}: {said}"
        else:
            assert not said, f"{self.way}: {said}"

    def left(self) -> list[object]:
        """Processes, shared memory and files."""
        found = []
        for process in psutil.process_iter(["environ", "status"]):
            if (process.info["environ"] or {}).get(RUN) == self.mark:
                found.append(process)
        walks = [walk for place in self.places for walk in os.walk(place)]  # which does not mind what goes meanwhile
        files = [Path(folder, name) for folder, folders, names in walks for name in (*folders, *names)]
        return [*found, *SHARED_MEMORY.glob(f"{PREFIX}{self.program.process.pid}-*"), *files]

    def kill(self) -> None:
        for process in self.left():
            if isinstance(process, psutil.Process):
                process.kill()
        self.program.end()


@pytest.fixture
def folder() -> Iterator[Path]:
    """One whose path is short enough for sockets in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


def check_all(folder: Path, moment: str, ways: tuple[str, ...], later: float = 0.0) -> None:
    """Run the programs side by side, as they mostly wait."""
    endings = []
    try:
        for number, way in enumerate(ways):
            place = folder / str(number)
            place.mkdir()
            endings.append(Ending(place, moment, way, later))
        for ending in endings:
            ending.check()
    finally:
        for ending in endings:
            ending.kill()


@pytest.mark.parametrize("moment", MOMENTS)
def test_whatever_way_a_program_ends_it_ends_soon_and_leaves_nothing(moment: str, folder: Path) -> None:
    check_all(folder, moment, tuple(CODES))


@pytest.mark.parametrize("later", [-1.0, 0.0, 0.15])
@pytest.mark.parametrize("moment", ["the cluster starts", "the cluster starts in a thread"])
def test_a_program_may_end_while_its_cluster_starts(moment: str, later: float, folder: Path) -> None:
    ways = AT_ONCE if moment == "the cluster starts" else ("returns", *AT_ONCE)
    check_all(folder, moment, ways, later)
