"""Tables of figures: medians with their spread, and how many times longer each engine takes than minidask."""

from __future__ import annotations

import statistics
from typing import Any

from bench.engines import FLOOR
from bench.floors import FLOORS
from bench.workloads import WORKLOADS

OURS = "minidask"


def table(result: dict[str, Any]) -> str:
    """Return the figures of one run as text: a row for each workload, and a column for each engine."""
    figures = result["figures"]
    engines = list(dict.fromkeys(engine for row in figures.values() for engine in row))
    lines = [describe(result["machine"])]
    if result["short"]:
        lines.append("A SHORT RUN: it shows that the workloads work; its figures mean nothing.")
    for engine, reason in result.get("left_out", {}).items():
        lines.append(f"left out: {engine}: {reason}")
    for name, row in figures.items():
        workload = WORKLOADS[name]
        lines.append(f"\n{workload.title} [{workload.unit}]")
        ours = statistics.median(row[OURS]) if row.get(OURS) else None
        for engine in engines:
            if row.get(engine):
                what = f" ({FLOORS[name][0]})" if engine == FLOOR else ""
                lines.append(f"  {engine:12} {_figure(row[engine])}{_ratio(engine, row[engine], ours)}{what}")
            elif engine in result["errors"][name]:
                lines.append(f"  {engine:12} failed: {result['errors'][name][engine]}")
    return "\n".join(lines)


def describe(machine: dict[str, Any]) -> str:
    """Describe the machine and its packages in two lines."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['time']}, {machine['system']}, {machine['cores']} cores, {machine['workers']} workers,"
        f" load {machine['load'][0]} before and {machine['load'][1]} after\nPython {machine['python']}, {versions}"
    )


def compare(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Compare two runs: for each engine that is in both, the medians, and the later divided by the earlier one."""
    lines = [f"before: {describe(before['machine'])}", f"after:  {describe(after['machine'])}"]
    for name, row in after["figures"].items():
        for engine, values in row.items():
            old = before["figures"].get(name, {}).get(engine)
            if old and values:
                before_it = statistics.median(old)
                ratio = f"x {statistics.median(values) / before_it:.2f}" if before_it > 0 else "x ?"
                lines.append(f"{name:24} {engine:12} {_figure(old)} -> {_figure(values)}  {ratio}")
    return "\n".join(lines)


def _figure(values: list[float]) -> str:
    return f"{statistics.median(values):10.3g}  ({min(values):.3g} to {max(values):.3g})"


def _ratio(engine: str, values: list[float], ours: float | None) -> str:
    if engine == OURS or not ours or ours < 0 or min(values) < 0:
        return ""
    return f"   {statistics.median(values) / ours:.2f} x minidask's"
