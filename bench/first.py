"""A whole program with an engine: it starts the engine, runs one task, and ends. `life.py` times it.

    python -m bench.first ENGINE WORKERS

It prints the clock when the result is there, so that the end of the program can be timed too.
"""

from __future__ import annotations

import sys
import time
import warnings
from operator import neg

from joblib import Parallel, delayed

from bench.engines import ENGINES


def main(engine_name: str, workers: int) -> None:
    """Run one task, and print the system's monotonic clock, which the process that started this one can compare."""
    warnings.simplefilter("ignore")
    engine = next(engine for engine in ENGINES if engine.name == engine_name)
    with engine.open(workers):
        if Parallel()([delayed(neg)(1)]) != [-1]:
            sys.exit("the result is wrong")
        print(time.monotonic(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
