"""Draws a picture for each workload: engines' medians as bars, rounds as dots. The scheduler alone has one too."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from bench.workloads import WORKLOADS

ALONE = ("minidask",)
LOG_FROM = 20.0  # a log scale where the slowest takes so many times as long as the fastest
OURS, PEERS, DOTS = "#d1495b", "#9db4c0", "#2f3e46"


def draw(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write `WORKLOAD.png` for each row that has figures, and `scheduler.png`; return their paths.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    paths, alone = [], {}
    for name, row in result["figures"].items():
        if WORKLOADS[name].engines == ALONE:
            alone[name] = row
        elif row:
            note = f"{WORKLOADS[name].unit}, less is better; bars are medians, dots are rounds"
            paths.append(_draw(WORKLOADS[name].title, note, row, folder / f"{name}.png"))
    costs = {_short(name): row["minidask"] for name, row in alone.items() if WORKLOADS[name].unit == "us CPU/task"}
    if costs:
        title = "the scheduler process alone, with simulated machines and clients"
        note = "its processor time in us/task; bars are medians, dots are rounds"
        paths.append(_draw(title, note, costs, folder / "scheduler.png", ordered=True))
    return paths


def _short(name: str) -> str:
    return WORKLOADS[name].title.partition("per task, ")[2]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _draw(title: str, note: str, row: dict[str, list[float]], path: Path, ordered: bool = False) -> Path:
    from matplotlib import pyplot

    names = list(row) if ordered else sorted(row, key=lambda name: statistics.median(row[name]))
    medians = [statistics.median(row[name]) for name in names]
    figure, axes = pyplot.subplots(figsize=(7, 0.5 * len(names) + 1.4), layout="constrained")
    axes.barh(names, medians, color=[OURS if name == "minidask" or ordered else PEERS for name in names])
    for position, name in enumerate(names):
        axes.plot(row[name], [position] * len(row[name]), ".", color=DOTS, markersize=4)
        axes.annotate(f" {_figure(medians[position])}", (max(row[name]), position), va="center")
    if min(medians) > 0 and max(medians) > LOG_FROM * min(medians):
        axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.supxlabel(note, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return path
