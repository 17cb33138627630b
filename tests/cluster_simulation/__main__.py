"""Plays one seed and prints its trace, or looks at many."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter

from .simulation import Simulation, failure_of


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="print the trace of this one")
    parser.add_argument("--seeds", type=int, default=1000, help="look at so many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.seed is not None:
        simulation = Simulation(options.seed)
        try:
            simulation.play()
        finally:
            sys.stdout.writelines(f"{line}\n" for line in simulation.lines())
        return 0
    began, met, failed = time.monotonic(), Counter[str](), 0
    with multiprocessing.Pool(options.processes) as pool:
        seeds = range(options.first, options.first + options.seeds)
        for failure, some in pool.imap_unordered(failure_of, seeds, chunksize=20):
            met += some
            if failure:
                failed += 1
                print(failure, flush=True)
    for what, count in sorted(met.items()):
        print(f"{count:10,}  {what}")
    print(f"{options.seeds:,} seeds in {time.monotonic() - began:.0f} s, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
