"""Imports all modules of workloads, and puts these in the order of the tables.

Sizes are for a machine of 2 cores. `short` runs only show that a workload works.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench import broadcast, data, learning, life, scale, tasks, workload
from bench.workload import Workload

ORDER = [module.__name__ for module in (tasks, data, broadcast, learning, life, scale)]

WORKLOADS = dict(sorted(workload.WORKLOADS.items(), key=lambda item: ORDER.index(item[1].module)))


def chosen(names: list[str]) -> Iterator[Workload]:
    """Yield the workloads of these names; without names, all that are possible in this process.

    Raises:
        SystemExit: there is no such workload.
    """
    for name in names or [name for name, one in WORKLOADS.items() if one.possible()]:
        if name not in WORKLOADS:
            raise SystemExit(f"there is no workload {name!r}; there are: {', '.join(WORKLOADS)}")
        yield WORKLOADS[name]
