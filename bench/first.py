"""A whole program's life: start the engine, run one task, end. Prints the clock when the result is there.

python -m bench.first ENGINE WORKERS
"""

from __future__ import annotations

import sys
import time
import warnings
from operator import neg

from joblib import Parallel, delayed

from bench.engines import ENGINES


def main(engine_name: str, workers: int) -> None:
    """Run one task; the clock is the system's monotonic one, so whoever started this process can compare."""
    warnings.simplefilter("ignore")
    engine = next(engine for engine in ENGINES if engine.name == engine_name)
    with engine.open(workers):
        if Parallel()([delayed(neg)(1)]) != [-1]:
            sys.exit("the result is wrong")
        print(time.monotonic(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
