"""A module that is missing: what people are told when a task, or its result, needs one that cannot be imported.

Neither end knows enough alone. The worker knows which import failed, and both Pythons. The caller has the module, so it
knows the package and the version to install:

    slot: explained ─► the facts, as text, and `missing_module` on the exception ─► caller: advised ─► what to do

A result may need a module that the caller lacks: `lacking_here`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from minidask.errors import SerializationError
from minidask.host.packages import distribution_of, is_here, python_version

IN_MODULE = re.compile(r"(?:<module '|module ')([\w.]+)'")


# --- in the slot ---


def explained(error: BaseException, what: str, worker: str, caller: Mapping[str, Any]) -> BaseException:
    """Return an error that names both Pythons, if an import has failed; any other error as it is.

    Args:
        error: what the call raised, or what unpickling it raised.
        what: names the task.
        worker: names the worker and its host.
        caller: the session of the caller.
    """
    cause = error.__cause__ if isinstance(error, SerializationError) else error
    if isinstance(cause, ImportError):
        module = cause.name or ""
    elif isinstance(cause, AttributeError) and cause is not error:
        in_text = IN_MODULE.search(str(cause))
        module = in_text[1] if in_text else ""
    else:
        return error
    package = distribution_of(module) if module else None
    installed = f"{package.name} {package.version}" if package else ""
    facts = _facts(module, installed, str(cause), worker, caller)
    explanation = error
    if cause is error:
        error.add_note(f"task {what!r}: {facts}")
    else:
        explanation = SerializationError(f"task {what!r} cannot be unpickled: {facts}")
        explanation.__cause__ = cause
    if module:
        missing = {"module": module, "python": sys.executable, "installed": installed}
        explanation.__dict__["missing_module"] = missing
    return explanation


def _facts(module: str, installed: str, problem: str, worker: str, caller: Mapping[str, Any]) -> str:
    here = _this_python(installed)
    there = f"{caller.get('executable')} (Python {caller.get('version')})"
    if problem.startswith("No module named"):
        failed = f"module {module!r} cannot be imported"
    else:
        failed = f"what it needs is not in module {module!r} as it is there" if module else "an import has failed"
    return f"{failed} on worker {worker}: {problem}. The worker runs {here}, the caller {there}"


# --- in the caller's process ---


def advised(error: BaseException) -> BaseException:
    """Return the same error; if `explained` has marked it in the slot, with advice what to install."""
    missing = error.__dict__.pop("missing_module", None)
    if isinstance(missing, dict) and isinstance(missing.get("module"), str):
        text = _advice(missing["module"], str(missing.get("python")), missing.get("installed"))
        if isinstance(error, SerializationError):
            error.args = (f"{error}. {text}",)
        else:
            error.add_note(text)
    return error


def lacking_here(error: SerializationError, worker: str) -> SerializationError:
    """Return the same error; with advice what to install here, if a result of this worker needs a module."""
    if isinstance(error.__cause__, ImportError):
        text = f"Worker {worker} has what the result needs: install the same version here, for {_this_python()}"
        error.args = (f"{error}. {text}",)
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


def _this_python(package: str = "") -> str:
    """This interpreter and its version, with a package that it has, if one is named."""
    return f"{sys.executable} (Python {python_version()}{', ' + package if package else ''})"
