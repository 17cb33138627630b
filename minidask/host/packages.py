"""What is installed for this Python: versions of the packages that tasks work with, and whose module a module is.

Versions are read off the names of folders, `numpy-2.1.0.dist-info`, a third of a millisecond in all:
`importlib.metadata` takes eighty. It is asked where an import has failed, and time does not matter.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from typing import NamedTuple

from minidask._version import __version__
from minidask.host.signals import pass_on
from minidask.host.versions import PYTHON

COMPARED = ("numpy", "scipy", "scikit-learn", "joblib", "cloudpickle", "pandas")


def installed() -> dict[str, str]:
    """The versions of those of `COMPARED` that are installed, and of minidask."""
    found: dict[str, str] = {}
    for folder in sys.path:
        try:
            entries = os.listdir(folder or ".")
        except (OSError, TypeError) as error:  # not every entry is a folder, or a text
            pass_on(error)
            continue
        for entry in entries:
            if entry.endswith((".dist-info", ".egg-info")) and entry.count("-") > 1:
                project, version = entry.rpartition(".")[0].split("-")[:2]
                name = project.lower().replace("_", "-")
                if name in COMPARED:
                    found.setdefault(name, version)  # the first on the path is the one that is imported
    return {**{name: found[name] for name in COMPARED if name in found}, "minidask": __version__}


def python_version() -> str:
    """This Python's, as "3.11.7"."""
    return sys.version.split()[0]


def versions() -> dict[str, str]:
    """This Python's version, and those that `installed` tells."""
    return {PYTHON: python_version(), **installed()}


class Distribution(NamedTuple):
    """What is installed under one name; `url` is where it came from, if not from an index."""

    name: str
    version: str
    url: str


@functools.cache
def distribution_of(module: str) -> Distribution | None:
    """What has installed a module, by its name alone; None if nothing has. Slow, the first time."""
    import importlib.metadata  # noqa: PLC0415 - see the module's docstring
    import json  # noqa: PLC0415

    top = module.partition(".")[0]
    for name in importlib.metadata.packages_distributions().get(top, ()):
        found = importlib.metadata.distribution(name)
        direct = found.read_text("direct_url.json")
        return Distribution(name, found.version, str(json.loads(direct).get("url", "")) if direct else "")
    return None


def is_here(module: str) -> bool:
    """Whether this Python finds a module, by the name of its package."""
    top = module.partition(".")[0]
    try:
        return top in sys.modules or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False
