"""`python -m tests.fuzz`: liars talk to a core, and to the daemons of a cluster, for as long as one likes."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.cluster import Siege
from tests.fuzz.core import talk
from tests.helpers import RUN, Programs

WORDS = 3000


def _tell(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    """Run the fuzzer; returns 1 if it has found something."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=1.0, help="half for the core, half for a cluster (%(default)g)"
    )
    parser.add_argument("--seed", type=int, default=None, help="of the first talk; each one has the next")
    parser.add_argument("--only", choices=["core", "cluster"])
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    share = 60 * options.minutes / (1 if options.only else 2)
    os.environ.setdefault(RUN, str(os.getpid()))
    if options.only != "cluster":
        began, words, refused, next_seed = time.monotonic(), 0, 0, seed
        while time.monotonic() < began + share:
            said = talk(next_seed, WORDS, _tell)
            words, refused, next_seed = words + said[0], refused + said[1], next_seed + 1
        _tell(
            f"core: seeds {seed} to {next_seed - 1}, {words} words, {refused} refused, {time.monotonic() - began:.0f} s"
        )
    if options.only != "core":
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_STATE_HOME"] = folder
            programs = Programs(Path(folder))
            try:
                siege = Siege(programs, seed)
                siege.go_on(share, _tell)
            finally:
                programs.end_all()
        _tell(f"cluster: seed {seed}, {siege.words} words over {siege.connections} connections, {share:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
