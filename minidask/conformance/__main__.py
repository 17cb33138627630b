"""`python -m minidask.conformance`: check a worker against docs/protocol.md."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from . import worker
from .checks import FAILED, LEVELS, NOT_RUN, PASSED, run, staged

PROGRAM = "python -m minidask.conformance"
PARTS = {
    "worker": (worker.CHECKS, worker.WorkerStage),
}
EPILOG = """\
In COMMAND, {access} becomes the path of an access file, {address} the scheduler's tcp://host:port, {port} that port.
  worker     it is to join the scheduler at {address}, which this program is. It runs at least one call at once.

exit codes: 0 no check has failed, 1 one has, 2 wrong usage
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the checks that the command line names. Returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    here = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        PROGRAM, description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"{PROGRAM} worker [options] -- COMMAND…",
    )  # fmt: skip
    parser.add_argument("part", choices=PARTS, help="what COMMAND is")
    parser.add_argument("--level", choices=LEVELS, default="minimal", help="default: %(default)s")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this check; may be repeated")
    parser.add_argument("--list", action="store_true", help="tell which checks there are, and end")
    options = parser.parse_args(words[:here])
    command = words[here + 1 :]
    checks, make = PARTS[options.part]
    chosen = checks.of(options.level, options.only)
    if unknown := set(options.only) - {check.name for check in checks}:
        parser.error(f"there is no check {', '.join(sorted(unknown))} of a {options.part}: see --list")
    if options.list:
        for check in chosen:
            print(f"{check.name:32} {check.level:8} {check.heading}: {check.expects}")
        return 0
    if not command:
        parser.error("no COMMAND: put -- and the command of your program at the end")
    counts: Counter[str] = Counter()
    with staged(make, command) as stage:
        for result in run(chosen, stage):
            counts[result.outcome] += 1
            print(result.line(), flush=True)
    print(f"{counts[PASSED]} passed, {counts[FAILED]} failed, {counts[NOT_RUN]} not run")
    return 1 if counts[FAILED] else 0


if __name__ == "__main__":
    sys.exit(main())
