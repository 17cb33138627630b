"""One picture for each workload: the engines' medians as bars, every round as a dot."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from bench.workloads import WORKLOADS

LOG_FROM = 20.0  # a log scale where the slowest takes so many times as long as the fastest


def draw(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write `WORKLOAD.png` for each row that has figures; returns their paths.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    return [_draw_one(name, row, folder / f"{name}.png") for name, row in result["figures"].items() if row]


def _draw_one(name: str, row: dict[str, list[float]], path: Path) -> Path:
    from matplotlib import pyplot

    engines = sorted(row, key=lambda engine: statistics.median(row[engine]))
    medians = [statistics.median(row[engine]) for engine in engines]
    figure, axes = pyplot.subplots(figsize=(7, 0.5 * len(engines) + 1.4), layout="constrained")
    colours = ["#d1495b" if engine == "minidask" else "#9db4c0" for engine in engines]
    axes.barh(engines, medians, color=colours)
    for position, engine in enumerate(engines):
        axes.plot(row[engine], [position] * len(row[engine]), ".", color="#2f3e46", markersize=4)
        axes.annotate(f" {medians[position]:.3g}", (max(row[engine]), position), va="center")
    if min(medians) > 0 and max(medians) > LOG_FROM * min(medians):
        axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set_title(WORKLOADS[name].title, loc="left")
    axes.set_xlabel(f"{WORKLOADS[name].unit}, less is better; bars are medians, dots are rounds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
