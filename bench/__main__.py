"""`python -m bench`: measure minidask and its peers; `python -m bench compare A.json B.json`: what a change did;
`python -m bench clusters minidask=ADDRESS dask=ADDRESS`: clusters that run already."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench import clusters
from bench.engines import ENGINES, Engine
from bench.report import OURS, compare, table
from bench.run import run
from bench.workloads import WORKLOADS, chosen


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench",
        description="Measure minidask and its peers. `python -m bench compare A.json B.json` compares two runs.",
        epilog=f"workloads: {', '.join(WORKLOADS)}. Peers are installed with: pip install --editable '.[bench]'",
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help="which to run (default: all)")
    parser.add_argument("--engines", default=",".join(e.name for e in ENGINES), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="of every engine (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw a picture for each workload there")
    parser.add_argument("--short", action="store_true", help="tiny sizes, one round: only to see that all works")
    return parser.parse_args(arguments)


def _engines(names: str) -> tuple[list[Engine], dict[str, str]]:
    """Return the engines to measure, and why others of these names are left out."""
    found, left_out = [], {}
    for name in names.split(","):
        engine = next((engine for engine in ENGINES if engine.name == name), None)
        if engine is None:
            raise SystemExit(f"there is no engine {name!r}; there are: {', '.join(e.name for e in ENGINES)}")
        reason = engine.unusable()
        if reason and name == OURS:
            raise SystemExit(f"minidask cannot be measured: {reason}. In a clone: pip install --editable '.[bench]'")
        if reason:
            left_out[name] = reason
        else:
            found.append(engine)
    return found, left_out


def _read(path: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(Path(path).read_text())
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit code: 1 if an engine has failed or returned a wrong result."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["clusters"]:
        return clusters.main(arguments[1:])
    if arguments[:1] == ["compare"]:
        if len(arguments) != 3:
            raise SystemExit("usage: python -m bench compare BEFORE.json AFTER.json")
        print(compare(_read(arguments[1]), _read(arguments[2])))
        return 0
    options = _parse(arguments)
    rounds = 1 if options.short else options.rounds
    engines, left_out = _engines(options.engines)
    result = run(engines, list(chosen(options.workloads)), rounds, options.workers, options.short)
    result["left_out"] = left_out
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    if options.pictures:
        from bench.pictures import draw

        print("\n".join(str(path) for path in draw(result, options.pictures)), file=sys.stderr)
    return int(any(result["errors"].values()))


if __name__ == "__main__":
    sys.exit(main())
