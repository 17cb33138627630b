"""The same search on clusters that run already, side by side: `python -m bench clusters minidask=ADDRESS dask=ADDRESS`.

Each run is a program of its own, `examples/any_backend.py`, so no engine has anything of another one in its process.
The rounds are interleaved, and the score has to be the same everywhere.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "examples" / "any_backend.py"
RUN_SECONDS = 3600


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench clusters", description=__doc__.partition("\n")[0])
    parser.add_argument("clusters", nargs="+", metavar="BACKEND=ADDRESS", help="minidask, dask, ray; or loky")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--candidates", type=int, default=20, help="of the search (default: %(default)s)")
    return parser.parse_args(arguments)


def _measure(cluster: str, candidates: int) -> tuple[str, float]:
    """Run the search once; returns its score and seconds."""
    name, _, address = cluster.partition("=")
    words = [name, address, str(candidates)]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=RUN_SECONDS)
    found = re.search(r"best score (\S+), (\S+) s", done.stdout)
    if found is None:
        raise SystemExit(f"{cluster}: {done.stderr.strip().rpartition(chr(10))[2] or 'it said nothing'}")
    return found[1], float(found[2])


def main(arguments: list[str]) -> int:
    """Run the program; return its exit code: 1 if the scores differ."""
    options = _parse(arguments)
    seconds: dict[str, list[float]] = {cluster: [] for cluster in options.clusters}
    scores = set()
    for _ in range(options.rounds):
        for cluster, times in seconds.items():
            score, taken = _measure(cluster, options.candidates)
            scores.add(score)
            times.append(taken)
    for cluster, times in sorted(seconds.items(), key=lambda item: statistics.median(item[1])):
        print(f"{cluster:40} {statistics.median(times):7.2f} s   {min(times):.2f} to {max(times):.2f}")
    return 0 if len(scores) == 1 else 1
