"""Registers the joblib backend without importing joblib: at once if it is loaded, else as soon as it is.

The daemons and slots import `minidask` too, and start three times as fast without joblib and numpy.
"""

from __future__ import annotations

import importlib

from minidask.imports import when_imported


def register_when_joblib_is_imported() -> None:
    """Make `joblib.parallel_backend("minidask")` work, whichever of the two packages is imported first."""
    when_imported("joblib.parallel", _register)


def _register() -> None:
    importlib.import_module("minidask.joblib_backend")  # registers itself, at its end
