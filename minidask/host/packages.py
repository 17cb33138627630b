"""What is installed for this Python: the versions of some packages, and the distribution that a module belongs to.

Each program tells its versions when it joins, so reading them must be fast. They are in the names of folders
(`numpy-2.1.0.dist-info`), which takes a third of a millisecond. `importlib.metadata` takes eighty. It is used only
after an import has failed, when time does not matter.
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
    """The versions of minidask and of the packages in `COMPARED`, by name.

    Packages that are not installed are left out.
    """
    found: dict[str, str] = {}
    for folder in sys.path:
        try:
            entries = os.listdir(folder or ".")
        except (OSError, TypeError) as error:  # an entry may be a file, or no text
            pass_on(error)
            continue
        for entry in entries:
            if entry.endswith((".dist-info", ".egg-info")) and entry.count("-") > 1:
                project, version = entry.rpartition(".")[0].split("-")[:2]
                name = project.lower().replace("_", "-")
                if name in COMPARED:
                    found.setdefault(name, version)  # the first one on the path is imported
    return {**{name: found[name] for name in COMPARED if name in found}, "minidask": __version__}


def python_version() -> str:
    """The version of this Python, as "3.11.7"."""
    return sys.version.split()[0]


def versions() -> dict[str, str]:
    """The versions of this Python, of minidask and of the installed packages in `COMPARED`, by name."""
    return {PYTHON: python_version(), **installed()}


class Distribution(NamedTuple):
    """An installed distribution. `url` is where it was installed from; "" for a package index."""

    name: str
    version: str
    url: str


@functools.cache
def distribution_of(module: str) -> Distribution | None:
    """The distribution that has installed a module; None if there is none. The module is not imported.

    Slow at first.
    """
    import importlib.metadata  # noqa: PLC0415 - see the module's docstring
    import json  # noqa: PLC0415

    top = module.partition(".")[0]
    for name in importlib.metadata.packages_distributions().get(top, ()):
        found = importlib.metadata.distribution(name)
        direct = found.read_text("direct_url.json")
        return Distribution(name, found.version, str(json.loads(direct).get("url", "")) if direct else "")
    return None


def is_here(module: str) -> bool:
    """Whether this Python can find the package that a module belongs to."""
    top = module.partition(".")[0]
    try:
        return top in sys.modules or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False
