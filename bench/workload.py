"""What a workload is, and the table of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """What a workload runs in: on which engine, with how many workers, and whether only to prove that it works."""

    engine: str
    workers: int
    short: bool


@dataclass(frozen=True)
class Workload:
    """One row of the table. `run` returns the figure, in `unit`; less is better. `engines` empty: all."""

    name: str
    title: str
    unit: str
    run: Callable[[Setting], float]
    engines: tuple[str, ...] = ()
    module: str = ""


WORKLOADS: dict[str, Workload] = {}


def workload(
    title: str, unit: str, engines: tuple[str, ...] = ()
) -> Callable[[Callable[[Setting], float]], Callable[[Setting], float]]:
    """Add a function to `WORKLOADS` under its name."""

    def add(function: Callable[[Setting], float]) -> Callable[[Setting], float]:
        WORKLOADS[function.__name__] = Workload(function.__name__, title, unit, function, engines, function.__module__)
        return function

    return add
