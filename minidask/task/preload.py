"""Imports modules in a slot, before the calls that need them come."""

from __future__ import annotations

import importlib


def import_modules(names: list[str]) -> None:
    """Import modules.

    Raises:
        Exception: what the first one raises that cannot be imported.
    """
    for name in names:
        importlib.import_module(name)
