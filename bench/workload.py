"""Defines workloads and keeps the table of all of them; modules of workloads add to it by a decorator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """How a workload runs: the engine, its number of workers, and whether it is `short`, only to see that it works."""

    engine: str
    workers: int
    short: bool


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    Attributes:
        name: as given on the command line.
        title: for people.
        unit: of the figure; less is better.
        run: measures once, and returns the figure.
        engines: those that can run it; empty: all.
        module: where it is defined.
        possible: whether this process may run it. If not, it is left out unless it is asked for by name.
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
    """Return a decorator that adds a function to `WORKLOADS` under its name; the arguments are `Workload`'s."""

    def add(function: Callable[[Setting], float]) -> Callable[[Setting], float]:
        name = function.__name__
        WORKLOADS[name] = Workload(name, title, unit, function, engines, function.__module__, possible)
        return function

    return add
