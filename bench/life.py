"""What an engine costs beside the work: its start and end, its import, its installed files, and its rest."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from importlib import metadata

import psutil

from bench.engines import ENGINES, Engine
from bench.workload import Setting, workload

REST_SECONDS = 5.0
IMPORTS = 5


def _engine(setting: Setting) -> Engine:
    return next(engine for engine in ENGINES if engine.name == setting.engine)


def _whole_life(setting: Setting) -> tuple[float, float]:
    """Seconds from the start of a fresh process to its first result, and to its end."""
    began = time.monotonic()
    command = [sys.executable, "-m", "bench.first", setting.engine, str(setting.workers)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return float(result.stdout.split()[-1]) - began, time.monotonic() - began


@workload("a fresh process: from its start to its first result", "s")
def first_result(setting: Setting) -> float:
    return _whole_life(setting)[0]


@workload("a fresh process: one task, from its start to its end", "s")
def whole_life(setting: Setting) -> float:
    return _whole_life(setting)[1]


@workload("import, beyond `import joblib`", "ms")
def import_time(setting: Setting) -> float:
    code = (
        "import joblib, time; t = time.perf_counter();"
        f" import {', '.join(_engine(setting).imports)}; print(time.perf_counter() - t)"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(1 if setting.short else IMPORTS)
    ]
    return statistics.median(times) * 1e3


@workload("installed files of the engine and what it requires, those of joblib and scikit-learn aside", "MiB")
def install_size(setting: Setting) -> float:
    needed = _required(_engine(setting).needs) - _required(("joblib", "scikit-learn"))
    return sum(_bytes(name) for name in needed) / 2**20


def _required(names: tuple[str, ...]) -> set[str]:
    """Return those of these distributions that are installed, and all that they require; extras do not count."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another system or Python
            continue
        found.add(name)
        waiting += [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in requirements if "extra ==" not in line]
    return found


def _bytes(name: str) -> int:
    files = metadata.files(name) or []
    return sum(path.stat().st_size for path in (file.locate() for file in files) if path.is_file())  # type: ignore[attr-defined]


@workload(f"at rest: share of one core that all its processes use, over {REST_SECONDS:.0f} s", "%")
def at_rest(setting: Setting) -> float:
    seconds = 0.2 if setting.short else REST_SECONDS
    before = _tree_seconds()
    time.sleep(seconds)
    return (_tree_seconds() - before) / seconds * 100


def _tree_seconds() -> float:
    """Return the processor seconds that this process and its descendants have used, to the nanosecond."""
    this = psutil.Process()
    return sum(processor_seconds(process.pid) for process in (this, *this.children(recursive=True)))


def processor_seconds(pid: int) -> float:
    """Return the processor seconds that a process has used, by the clock of Linux's `clock_getcpuclockid(3)`."""
    return time.clock_gettime((~pid << 3) | 2)
