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
    """One row of the table. `run` returns the figure, in `unit`; less is better. `engines` empty: all.

    `possible` tells whether this process may run it at all; those that it may not are left out unless asked for.
    """

    name: str
    title: str
    unit: str
    run: Callable[[Setting], float]
    engines: tuple[str, ...] = ()
    module: str = ""
    possible: Callable[[], bool] = lambda: True


WORKLOADS: dict[str, Workload] = {}


def workload(
    title: str, unit: str, engines: tuple[str, ...] = (), possible: Callable[[], bool] = lambda: True
) -> Callable[[Callable[[Setting], float]], Callable[[Setting], float]]:
    """Add a function to `WORKLOADS` under its name."""

    def add(function: Callable[[Setting], float]) -> Callable[[Setting], float]:
        name = function.__name__
        WORKLOADS[name] = Workload(name, title, unit, function, engines, function.__module__, possible)
        return function

    return add
