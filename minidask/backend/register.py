"""Registers the joblib backend as soon as joblib is loaded, and never before; likewise scikit-learn's callbacks.

Daemons and slots import `minidask` too. They start three times as fast without joblib and numpy.
"""

from __future__ import annotations

import functools
import importlib
import warnings

from minidask.host.imports import when_imported

ADDED = {"joblib.parallel": "minidask.backend.backend", "sklearn.callback": "minidask.task.sklearn_callbacks"}
"""By the library's module: the module of minidask that is loaded with it and registers itself."""


def add_to_libraries() -> None:
    """Make `joblib.parallel_backend("minidask")` work, whether joblib or minidask is imported first.

    scikit-learn's callbacks are added in the same way.
    """
    for watched, ours in ADDED.items():
        when_imported(watched, functools.partial(_add, ours, watched))


def _add(ours: str, watched: str) -> None:
    """Load a module of minidask. If it fails, so does what needs it later, and not the import of the library now."""
    try:
        importlib.import_module(ours)
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises
        library = watched.partition(".")[0]
        warnings.warn(
            f"minidask cannot be used through {library}, as {ours} cannot be loaded: {type(error).__name__}: {error}."
            " Install minidask again",
            RuntimeWarning,
            stacklevel=2,
        )
