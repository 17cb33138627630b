"""Opens and closes clusters in one process, and looks whether anything stays: processes, threads, descriptors, files.

    python -m tests.leaks [--clusters 300]

Each cluster does some work: calls through a call queue and as tasks, large data, nested calls, a task that kills its
slot. What there was after the first few clusters counts as there from the start: caches, and what a library opens once.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import gc
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TypeAlias

import numpy as np
import psutil
from joblib import Parallel, delayed, parallel_config

import minidask
from minidask.errors import KilledWorker
from minidask.host.folders import PREFIX, SHARED_MEMORY
from tests.helpers import RUN, our_processes, wait_until

WARM_UP = 5  # each kind once
MARK = "minidask"

Holdings: TypeAlias = collections.Counter[str]


def holdings() -> Holdings:
    """All that this process and its clusters hold: of each kind of thing, how many there are."""
    gc.collect()
    held = Holdings(f"process {process.pid}" for process in our_processes())
    held += Holdings(f"thread {thread.name}" for thread in threading.enumerate())
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            held[f"descriptor of {_kind(os.readlink(f'/proc/self/fd/{number}'))}"] += 1
    places = {SHARED_MEMORY, Path(tempfile.gettempdir()), Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp"))}
    files = {path for place in places for path in place.glob(f"{PREFIX}{os.getpid()}-*")}
    return held + Holdings(f"file {path}" for path in files)


def _kind(target: str) -> str:
    """What a descriptor refers to: a path, or the kind of a thing without a name."""
    return target.partition(":[")[0]


def held_by_us() -> list[str]:
    """Threads, descriptors and files that have our name. What else a process of tests holds may be anybody's."""
    return sorted(what for what in holdings() if MARK in what)


def wait_for_no_more_than(before: Holdings, seconds: float = 10) -> list[str]:
    """Wait until nothing is held that was not held before; returns what is, if that does not come true."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not holdings() - before, "nothing more was held", seconds)
    return sorted((holdings() - before).elements())


# --- a cluster's work ---


def nested(i: int) -> list[int]:
    with parallel_config(MARK):
        found: list[int] = Parallel(n_jobs=2)(delayed(pow)(i, k) for k in range(3))
    return found


def use(number: int) -> None:
    """Open a cluster, use it in many ways, and close it."""
    processes = number % 5 != 4
    with minidask.Client(n_workers=2, processes=processes) as client, parallel_config(MARK, scheduler=client):
        assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(20)) == list(range(20))
        results = Parallel(n_jobs=2, return_as="generator")(delayed(abs)(-i) for i in range(20))
        assert next(results) == 0  # and the rest is not taken
        del results
        array = np.full(1 << 18, float(number))
        assert client.submit(np.sum, array).result(60) == array.sum()
        assert client.submit(np.negative, client.scatter(array)).result(60)[0] == -number
        assert client.submit(nested, 2).result(60) == [1, 2, 4]
        if processes and number % 3 == 0:
            error = client.submit(os._exit, 1).exception(60)
            assert isinstance(error, KilledWorker), error
        if processes and number % 4 == 1:  # a thread cannot be ended
            client.map(time.sleep, [60] * 3)  # which the end of the cluster ends


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", type=int, default=300)
    options = parser.parse_args()
    os.environ[RUN] = str(os.getpid())
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as state:
        os.environ["XDG_STATE_HOME"] = state
        for number in range(WARM_UP):
            use(number)
        before, memory = holdings(), psutil.Process().memory_info().rss
        for number in range(options.clusters):
            use(number)
            if number % 50 == 49:
                print(f"{number + 1} clusters, {time.monotonic() - began:.0f} s", flush=True)
        left = wait_for_no_more_than(before)
    more = (psutil.Process().memory_info().rss - memory) / 2**20
    print(f"{options.clusters} clusters, {time.monotonic() - began:.0f} s, {more:+.1f} MiB of memory")
    print("left behind:", ", ".join(left) or "nothing")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
