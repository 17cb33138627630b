"""Memory that predicting by a large forest takes: `python -m bench.ml_memory --dask-ml PYTHON`, as root on Linux.

Each side runs in a control group of its own, with its program, its scheduler and two workers. When all is imported and
the program has the forest, the group's memory is taken as the start. minidask's group may grow by 1.3 × (the forest + 2
chunks a worker) from there, and is killed beyond. The data is ten times that limit, in a file, so it passes through.
`peak` is what memory of processes and shared memory have grown by at most; the page cache does not count. dask-ml
has no limit; it is killed at `--cap`, for the sake of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = 4000
CHUNK = 4096  # rows: about 64 MiB, as by default
WORKERS = 2
MIB = 1 << 20
GROUPS = Path("/sys/fs/cgroup")


class Group:
    """A control group, of version 1 or 2."""

    def __init__(self) -> None:
        old = GROUPS / "memory"
        self.folder = (old if old.exists() else GROUPS) / f"bench-{os.getpid()}-{time.monotonic_ns()}"
        self.folder.mkdir()
        self._limit = self.folder / ("memory.limit_in_bytes" if old.exists() else "memory.max")

    def enter(self) -> None:
        """Put this process into it."""
        (self.folder / "cgroup.procs").write_text("0")

    def limit(self, size: int) -> None:
        self._limit.write_text(str(size))

    def used(self) -> int:
        """Bytes of processes, and of shared memory."""
        found = dict(line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
        return int(found.get("rss", found.get("anon", 0))) + int(found["shmem"])

    def kill(self) -> None:
        """Kill all that is in it."""
        for number in (self.folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)

    def remove(self) -> None:
        """Remove it when its last process has ended, or after a minute give up."""
        for _ in range(600):
            try:
                self.folder.rmdir()
            except OSError:
                time.sleep(0.1)
            else:
                return


def make(path: Path, size: int) -> int:
    """Write so many bytes of rows; return how many rows."""
    rows = size // (4 * COLUMNS) // CHUNK * CHUNK
    part = np.random.default_rng(0).random((CHUNK, COLUMNS), np.float32)
    whole = np.lib.format.open_memmap(path, "w+", np.float32, (rows, COLUMNS))
    for first in range(0, rows, CHUNK):
        whole[first : first + CHUNK] = np.roll(part, first // CHUNK, axis=1)
    whole.flush()
    return rows


def read(path: str, first: int) -> Any:
    """Read the rows of a chunk."""
    return np.array(np.load(path, mmap_mode="r")[first : first + CHUNK])


def forest_of(folder: Path, size: int) -> Any:
    """Return a forest of so many bytes, which each version of scikit-learn makes once."""
    import sklearn
    from sklearn.ensemble import ExtraTreesRegressor

    path = folder / f"forest-{sklearn.__version__}"
    if not path.exists():
        rng, rows = np.random.default_rng(1), size // (40 * 2 * 72)
        forest = ExtraTreesRegressor(40, max_features=1, random_state=0)
        path.write_bytes(pickle.dumps(forest.fit(rng.random((rows, COLUMNS), np.float32), rng.random(rows)), 5))
    return pickle.loads(path.read_bytes())


def ours(folder: Path, forest: Any, ready: Callable[[], None]) -> None:
    import minidask
    from minidask import ml

    with minidask.Client(n_workers=WORKERS):
        data = ml.chunks(folder / "X.npy", rows=CHUNK)
        ml.ParallelPostFit(type(forest)(2).fit(*small())).predict(data[:4])
        ready()
        ml.ParallelPostFit(forest).predict(data)


def dask_ml(folder: Path, forest: Any, ready: Callable[[], None]) -> None:
    import dask
    import dask.array as da
    from dask_ml.wrappers import ParallelPostFit
    from distributed import Client

    with Client(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None):
        rows = len(np.load(folder / "X.npy", mmap_mode="r"))
        parts = [
            da.from_delayed(dask.delayed(read)(str(folder / "X.npy"), first), (CHUNK, COLUMNS), np.float32)
            for first in range(0, rows, CHUNK)
        ]
        X = da.concatenate(parts)
        ParallelPostFit(type(forest)(2).fit(*small())).predict(X[: 4 * CHUNK]).compute()
        ready()
        ParallelPostFit(forest).predict(X).compute()


SIDES = {"minidask": ours, "dask-ml": dask_ml}


def small() -> Any:
    rng = np.random.default_rng(2)
    return rng.random((100, COLUMNS), np.float32), rng.random(100)


def side(name: str, folder: Path, model: int) -> None:
    """Predict, when the parent says so; print the seconds."""

    def ready() -> None:
        nonlocal begun
        print("ready", flush=True)
        sys.stdin.readline()
        begun = time.perf_counter()

    begun = 0.0
    SIDES[name](folder, forest_of(folder, model), ready)
    print(time.perf_counter() - begun, flush=True)


def measure(command: list[str], allowed: int | None, cap: int) -> tuple[float | None, int, int]:
    """Return the seconds, and bytes: at the start, and by how much more at the peak. No seconds: it was killed.

    Args:
        allowed: how many bytes more than at the start it may have, by the group's limit.
        cap: at so many bytes more it is killed, for the sake of the machine.
    """
    group = Group()
    environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=group.enter
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise SystemExit("it did not start")
        start = peak = group.used()
        if allowed is not None:
            group.limit(start + allowed)
        over = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not over.wait(0.02):
                peak = max(peak, group.used())
                if peak - start > cap:
                    group.kill()

        watching = threading.Thread(target=watch)
        watching.start()
        print("go", file=process.stdin, flush=True)
        said = process.stdout.readline()
        over.set()
        watching.join()
        return float(said) if said else None, start, peak - start
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        group.kill()
        group.remove()


def main() -> None:
    """Run all rounds, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dask-ml", metavar="PYTHON", help="a Python that has dask-ml; without, it is left out")
    parser.add_argument("--model", type=int, default=256, help="MiB of the forest")
    parser.add_argument("--cap", type=int, default=4096, help="MiB at which dask-ml is killed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    model = options.model * MIB
    if options.side:
        side(options.side, options.folder, model)
        return
    allowed = int(1.3 * (model + 2 * WORKERS * CHUNK * COLUMNS * 4))
    pythons = {"minidask": sys.executable} | ({"dask-ml": options.dask_ml} if options.dask_ml else {})
    found: dict[str, list[tuple[float | None, int, int]]] = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory() as folder:
        rows = make(Path(folder) / "X.npy", 10 * allowed)
        print(f"{rows} rows, {rows * COLUMNS * 4 / MIB:.0f} MiB; allowed: {allowed / MIB:.0f} MiB", flush=True)
        for _ in range(options.rounds):
            for name, python in pythons.items():
                command = [python, __file__, "--side", name, "--folder", folder, "--model", str(options.model)]
                found[name].append(measure(command, allowed if name == "minidask" else None, options.cap * MIB))
                print(f"  {name}: {found[name][-1]}", flush=True)
    print("| | time | start | peak above it |\n|---|---|---|---|")
    for name, results in found.items():
        start, peak = (statistics.median(result[place] for result in results) / MIB for place in (1, 2))
        times = [seconds for seconds, *_ in results if seconds is not None]
        shown = f"{statistics.median(times):.1f} s" if len(times) == len(results) else "killed"
        print(f"| {name} | {shown} | {start:.0f} MiB | {peak:.0f} MiB |")


if __name__ == "__main__":
    main()
