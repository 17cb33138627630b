"""Runs workloads on engines, interleaved round by round, so that the machine's drift hits all alike."""

from __future__ import annotations

import json
import os
import platform
import select
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

from bench.engines import FLOOR, Engine
from bench.floors import FLOORS
from bench.workload import Workload

ANSWER_SECONDS = 180.0


class EngineProcess:
    """An engine in a process of its own, which `serve.py` is the program of."""

    def __init__(self, engine: Engine, workers: int) -> None:
        self.engine = engine
        self.error = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.serve", engine.name, str(workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        self._answer()

    def measure(self, workload: Workload, short: bool) -> float | None:
        """Run a workload once; return its figure, or None if the engine fails. `error` then says how."""
        if self._process.poll() is not None:
            return None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"workload": workload.name, "short": short}) + "\n")
        answer = self._answer()
        self.error = answer.get("error", "")
        return answer.get("value")

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            self._process.kill()
            return {"error": "it ended" if ready else f"no answer within {ANSWER_SECONDS:.0f} seconds"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the engine's process, and kill it if it does not end by itself."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def run(engines: list[Engine], workloads: list[Workload], rounds: int, workers: int, short: bool) -> dict[str, Any]:
    """Measure workloads; return the content of the JSON file: the machine, and each figure of each round."""
    figures: dict[str, dict[str, list[float]]] = {w.name: {} for w in workloads}
    errors: dict[str, dict[str, str]] = {w.name: {} for w in workloads}
    load_before = os.getloadavg()[0]
    processes = [EngineProcess(engine, workers) for engine in engines]
    try:
        for number in range(rounds):
            for workload in workloads:
                print(f"round {number + 1} of {rounds}: {workload.name}", file=sys.stderr)
                turn = number % len(processes)
                for process in processes[turn:] + processes[:turn]:
                    if not _applies(workload, process.engine):
                        continue
                    value = process.measure(workload, short)
                    if value is None:
                        errors[workload.name][process.engine.name] = process.error
                    else:
                        figures[workload.name].setdefault(process.engine.name, []).append(value)
    finally:
        for process in processes:
            process.close()
    return {"machine": machine(workers, load_before), "short": short, "figures": figures, "errors": errors}


def _applies(workload: Workload, engine: Engine) -> bool:
    """Whether an engine can run a workload, or whether there is a floor for it."""
    if engine.name == FLOOR:
        return workload.name in FLOORS
    return not workload.engines or engine.name in workload.engines


def machine(workers: int, load_before: float) -> dict[str, Any]:
    """Describe the machine, the time, and the versions of the packages that were measured."""
    packages = ("minidask", "joblib", "loky", "dask", "ray", "ipyparallel", "scikit-learn", "numpy", "uvloop")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "workers": workers,
        "load": [round(load_before, 2), round(os.getloadavg()[0], 2)],
        "versions": versions,
    }
