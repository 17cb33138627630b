"""scikit-learn's own tests with minidask as joblib's default backend, beside the same run on loky.

    python -m tests.foreign.sklearn_suite                                # all modules; takes an hour or two
    python -m tests.foreign.sklearn_suite multioutput pipeline           # some
    python -m tests.foreign.sklearn_suite --backend minidask ensemble    # one backend; what is known of the other stays
    python -m tests.foreign.sklearn_suite -k test_search model_selection # some of a module's tests
    python -m tests.foreign.sklearn_suite --compare OLD NEW              # what changed on minidask between two runs

Results are kept in a folder: `results.json`, and pytest's output for each module and backend. Another run
with the same folder replaces those of the modules and backends that it runs.

What n_jobs=None means is the same for both backends, here all workers: so nearly all of scikit-learn's parallel code
runs on them. joblib's own backends take it to mean 1, and some tests rely on that: they fail on both. With
`--n-jobs 1` only those calls run on the backends that ask for it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import sklearn

from minidask.host.resources import THREAD_VARIABLES

MODULES = (
    "multioutput",
    "multiclass",
    "compose",
    "pipeline",
    "feature_selection",
    "inspection",
    "decomposition",
    "neighbors",
    "cluster",
    "model_selection",
    "ensemble",
    "linear_model",
)
BACKENDS = ("loky", "minidask")
PACKAGE = Path(sklearn.__file__).parent
ROOT = Path(__file__).parents[2]
CRASHED = "(the run itself)"
DIED = "died"
TOO_LONG = -1000  # in the place of an exit code

Outcomes = dict[str, tuple[str, float]]
Results = dict[str, dict[str, Outcomes]]  # module, backend


def find_tests(module: str) -> Path:
    """Where scikit-learn keeps the tests of one of its modules.

    Raises:
        ValueError: there are none.
    """
    for path in (PACKAGE / module / "tests", PACKAGE / "tests" / f"test_{module}.py"):
        if path.exists():
            return path
    raise ValueError(f"scikit-learn {sklearn.__version__} has no tests of a module {module!r}")


def run_module(
    module: str, backend: str, folder: Path, *, n_jobs: int, timeout: float, limit: float, keyword: str
) -> Outcomes:
    """Run a module's tests in a process of their own.

    Args:
        n_jobs: what n_jobs=None means.
        timeout: seconds for each test.
        limit: seconds for all.
        keyword: pytest's -k.
    """
    log, lines = folder / f"{module}-{backend}.log", folder / f"{module}-{backend}.jsonl"
    lines.write_text("")
    command = [sys.executable, "-m", "pytest", str(find_tests(module)), "-p", "tests.foreign.backend_plugin"]
    command += ["-k", keyword, "--joblib-backend", backend, "--default-n-jobs", str(n_jobs), "--outcomes", str(lines)]
    command += ["--timeout", f"{timeout:g}"]
    command += ["-c", os.devnull, "--rootdir", str(PACKAGE.parent), "-p", "no:cacheprovider", "-v", "--tb=long"]
    with log.open("w") as output:
        try:
            status = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": str(ROOT), **dict.fromkeys(THREAD_VARIABLES, "1")},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=limit,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = TOO_LONG
    found = (json.loads(line) for line in lines.read_text().splitlines())
    outcomes: Outcomes = {test: (outcome, seconds) for test, outcome, seconds in found}
    lines.unlink()
    if status not in (0, 1):  # neither all passed, nor some failed
        print(f"{module} on {backend} ended early: exit code {status}, or too long if that is {TOO_LONG}; see {log}")
        outcomes[CRASHED] = (DIED, 0.0)
    return outcomes


# --- what is told ---


def count(outcomes: Outcomes) -> str:
    found = Counter(outcome for outcome, _ in outcomes.values())
    numbers = " / ".join(str(found[outcome]) for outcome in ("passed", "failed", "skipped"))
    return numbers + (f", {DIED}" if CRASHED in outcomes else "")


def table(results: Results) -> str:
    """Passed, failed and skipped for each module and backend, with the seconds that the tests took."""
    head = f"{'module':18}" + "".join(f"{backend + ': passed / failed / skipped':>42}" for backend in BACKENDS)
    lines = [head]
    for module, runs in results.items():
        cells = (f"{count(runs[b])} in {seconds(runs[b]):.0f} s" if b in runs else "-" for b in BACKENDS)
        lines.append(f"{module:18}" + "".join(f"{cell:>42}" for cell in cells))
    return "\n".join(lines)


def seconds(outcomes: Outcomes) -> float:
    return sum(taken for _, taken in outcomes.values())


def differing(results: Results) -> list[str]:
    """The tests with another outcome on minidask than on loky, each with both."""
    found = []
    for module, runs in results.items():
        if all(backend in runs for backend in BACKENDS):
            found += changes(runs["loky"], runs["minidask"], module, BACKENDS)
    return found


def changes(before: Outcomes, after: Outcomes, module: str, names: tuple[str, str]) -> list[str]:
    found = []
    for test in {**before, **after}:
        old, new = (outcomes.get(test, ("not run", 0.0))[0] for outcomes in (before, after))
        if old != new:
            found.append(f"{module}: {test}: {old} on {names[0]}, {new} on {names[1]}")
    return found


def compare(old: Results, new: Results) -> list[str]:
    """What changed on minidask between two runs, of the modules that are in both."""
    found = []
    for module in old.keys() & new.keys():
        before, after = old[module].get("minidask"), new[module].get("minidask")
        if before is not None and after is not None:
            found += changes(before, after, module, ("old", "new"))
    return sorted(found)


def load(folder: Path) -> Results:
    path = folder / "results.json"
    results: Results = json.loads(path.read_text()) if path.exists() else {}
    return results


def save(results: Results, folder: Path) -> None:
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def main() -> int:
    """Run and print; the exit code is 1 if a test passes on loky and not on minidask."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.foreign.sklearn_suite", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("modules", nargs="*", default=MODULES, metavar="module", help=f"default: {' '.join(MODULES)}")
    parser.add_argument("--backend", choices=[*BACKENDS, "both"], default="both")
    parser.add_argument(
        "--output", type=Path, default=Path("build/sklearn_suite"), help="folder (default: %(default)s)"
    )
    parser.add_argument("--n-jobs", type=int, default=-1, help="what n_jobs=None means on both (default: %(default)d)")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for each test (default: %(default)g)")
    parser.add_argument("--limit", type=float, default=3600, help="seconds for a module (default: %(default)g)")
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="only these tests, as pytest's -k")
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar=("OLD", "NEW"), help="compare the results in two folders"
    )
    options = parser.parse_args()
    if options.compare:
        old, new = options.compare
        print(*compare(load(old), load(new)), sep="\n")
        return 0
    folder = options.output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    results = load(folder)
    for module in options.modules:
        for backend in BACKENDS if options.backend == "both" else [options.backend]:
            began = time.monotonic()
            outcomes = run_module(
                module,
                backend,
                folder,
                n_jobs=options.n_jobs,
                timeout=options.timeout,
                limit=options.limit,
                keyword=options.k,
            )
            results.setdefault(module, {})[backend] = outcomes
            save(results, folder)
            print(f"{module} on {backend}: {count(outcomes)} in {time.monotonic() - began:.0f} s", flush=True)
    print(table(results), *(found := differing(results)), sep="\n")
    return int(any(": passed on loky" in line for line in found))


if __name__ == "__main__":
    sys.exit(main())
