"""What the caller knows of a module that a worker could not import: whose it is, and in which version."""

from __future__ import annotations

import sys

from minidask.errors import SerializationError
from minidask.host.packages import distribution_of, is_here, python_version


def advised(error: BaseException) -> BaseException:
    """The same error, with what to do about it, if it is one that `minidask.worker.slot.missing` has explained."""
    missing = error.__dict__.pop("missing_module", None)
    if isinstance(missing, dict) and isinstance(missing.get("module"), str):
        text = _advice(missing["module"], str(missing.get("python")), missing.get("installed"))
        if isinstance(error, SerializationError):
            error.args = (f"{error}. {text}",)
        else:
            error.add_note(text)
    return error


def told_here(error: SerializationError, worker: str) -> SerializationError:
    """The same error, told with what to do if a result needs a module that is not here."""
    if isinstance(error.__cause__, ImportError):
        here = f"{sys.executable} (Python {python_version()})"
        error.args = (f"{error}. Worker {worker} has what the result needs: install the same version here, for {here}",)
    return error


def _advice(module: str, python: str, installed: object) -> str:
    """What to do on the worker, whose Python is at `python` and has this package `installed`, if any."""
    top = module.partition(".")[0]
    own = distribution_of(top)
    if own is not None:
        there = f"the worker has {installed}" if installed else "the worker has none"
        where = f"from {own.url}" if own.url else f"with `{python} -m pip install {own.name}=={own.version}`"
        return (
            f"{top!r} is of {own.name}: the caller has version {own.version}, {there}. Install the same there, {where}"
        )
    if top in sys.stdlib_module_names:
        return (
            f"{top!r} is of the standard library of the caller's Python {python_version()}: use the same on the worker"
        )
    if is_here(top):
        return (
            f"{top!r} is a module of the caller's own, which no package has installed. Such modules are sent along with"
            " tasks, but for compiled or very large ones: put one of those where the worker's Python finds it"
        )
    return f"the caller does not have {top!r} either"
