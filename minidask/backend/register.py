"""Loads what we add to a library as soon as that is loaded, and never before: the joblib backend, above all.

The daemons and slots import `minidask` too, and start three times as fast without joblib and numpy.
"""

from __future__ import annotations

import functools
import importlib

from minidask.host.imports import when_imported

ADDED = {"joblib.parallel": "minidask.backend.backend", "sklearn.callback": "minidask.task.sklearn_callbacks"}
"""By module: the one of ours that is loaded with it, and does the rest itself."""


def add_to_libraries() -> None:
    """Make `joblib.parallel_backend("minidask")` work, whichever of the two is imported first, and the like."""
    for watched, ours in ADDED.items():
        when_imported(watched, functools.partial(importlib.import_module, ours))
