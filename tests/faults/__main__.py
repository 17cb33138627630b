"""Injects each fault while a search runs, and prints what its user saw, and what was left behind.

    python -m tests.faults [--list] [--times 10] [NAME ...]

Most faults hit a grid search over the digits in the middle. The result has to be that of the sequential search. A line
has the fault, what the user saw, the seconds from the fault until the search went on, and what was left behind. The
exit code is 1 if anything is not as docs/faults.md promises.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import sys
import tempfile
from pathlib import Path

import psutil
from joblib import parallel_config

import minidask
from minidask.host.folders import PREFIX, SHARED_MEMORY, sweep
from tests.faults.scene import Scene, Skipped
from tests.faults.search import scores, user_program
from tests.faults.table import FAULTS, Fault
from tests.helpers import RUN, Programs, alive, our_processes, wait_until


def left_behind(programs: Programs, descriptors: int) -> list[str]:
    """What is there that was not there before: a killed program's memory goes when the next program starts."""
    gc.collect()
    sweep()
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not our_processes(), "our processes had ended", 10)
    pids = [os.getpid(), *programs.pids()]
    files = [str(path) for pid in pids for path in SHARED_MEMORY.glob(f"{PREFIX}{pid}-*")]
    now = psutil.Process().num_fds()
    more = [f"{now - descriptors} descriptors"] if now > descriptors else []
    return [*files, *map(str, our_processes()), *(f"process {pid}" for pid in alive(programs.pids())), *more]


def run(fault: Fault, expected: list[float], times: int) -> bool:
    """Inject it, and print a line; whether all was as promised."""
    print(f"{fault.name:23}", end="", flush=True)
    descriptors = psutil.Process().num_fds()
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), expected, times)
        try:
            seen = fault.inject(scene)
        except Skipped as reason:
            print(f"skipped: {reason}")
            return True
        except Exception as error:
            print(f"NOT AS PROMISED ({fault.promised}): {type(error).__name__}: {error}", flush=True)
            return False
        finally:
            scene.programs.end_all()
        left = left_behind(scene.programs, descriptors)
    seconds = "" if seen.seconds is None else f"{seen.seconds:.2f} s"
    print(f"{seen.what:50} {seconds:>7}   {', '.join(left) or 'nothing'}", flush=True)
    if fault.promised not in seen.what:
        print(f"NOT AS PROMISED: {fault.promised}")
    return not left and fault.promised in seen.what


def run_all(faults: list[Fault], times: int) -> bool:
    with tempfile.TemporaryDirectory() as state:
        os.environ.update({RUN: str(os.getpid()), "XDG_STATE_HOME": state})
        for variable in ("MINIDASK_ACCESS_FILE", "MINIDASK_SCHEDULER"):
            os.environ.pop(variable, None)
        logging.getLogger("minidask").setLevel(logging.ERROR)  # that a scheduler is lost is known here
        with parallel_config("sequential"):
            expected = scores(os.devnull)
        with minidask.Client(n_workers=1) as client:
            client.submit(abs, -1).result()  # what opens descriptors once does it now
        print(f"{'fault':23}{'what the user saw':50} {'went on':>7}   left behind")
        outcomes = [run(fault, expected, times) for fault in faults]
    return all(outcomes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="faults, by name; all that are not long unless you say"
    )
    parser.add_argument("--list", action="store_true", help="print the faults, with what is promised")
    parser.add_argument("--times", type=int, default=10, help="how often scheduler-killed-often kills, in one call")
    parser.add_argument("--user", metavar="NOTES", help=argparse.SUPPRESS)
    for name in ("--scheduler", "--resume"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--hang", "--fill"):
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.user:
        user_program(options)
        return 0
    if unknown := set(options.names) - {fault.name for fault in FAULTS}:
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; --list names all")
    faults = [fault for fault in FAULTS if fault.name in options.names or not (options.names or fault.long)]
    if options.list:
        for fault in FAULTS:
            print(f"{fault.name:23}{fault.promised}{' (long)' if fault.long else ''}")
        return 0
    return 0 if run_all(faults, options.times) else 1


if __name__ == "__main__":
    sys.exit(main())
