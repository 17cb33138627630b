"""The program of an engine's process: it reads names of workloads from standard input, and answers with figures.

    python -m bench.serve ENGINE WORKERS

Each engine has a process of its own, so that engines can be measured by turns and none disturbs another.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable

from bench.engines import ENGINES, FLOOR
from bench.floors import FLOORS
from bench.workload import Setting
from bench.workloads import WORKLOADS


def _runner(engine_name: str, name: str) -> Callable[[Setting], float]:
    return FLOORS[name][1] if engine_name == FLOOR else WORKLOADS[name].run


def main(engine_name: str, workers: int) -> None:
    """Serve requests, a JSON object a line: `{"workload": name, "short": bool}`, answered by `value` or `error`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines print is not an answer
    warnings.simplefilter("ignore")
    engine = next(engine for engine in ENGINES if engine.name == engine_name)
    with engine.open(workers):
        print(json.dumps({"ready": True}), file=answers, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            try:
                setting = Setting(engine_name, workers, request["short"])
                answer = {"value": _runner(engine_name, request["workload"])(setting)}
            except Exception as error:  # noqa: BLE001 - a peer that fails is a figure missing, and the reason told
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
