"""What to say when a task's module cannot be imported, or is not what the caller has."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from minidask.errors import SerializationError


def explained(error: BaseException, what: str, worker: str, caller: Mapping[str, Any]) -> BaseException:
    """The same error, told with both Pythons and what to do; any other error as it is.

    Args:
        error: what the call raised, or what unpickling it did.
        what: names the task.
        worker: names the worker and its host.
        caller: the session of the caller.
    """
    cause = error.__cause__ if isinstance(error, SerializationError) else error
    if isinstance(cause, ImportError):
        help_text = _help(cause.name, str(cause), worker, caller)
    elif isinstance(cause, AttributeError) and cause is not error:
        help_text = _help(None, str(cause), worker, caller)
    else:
        return error
    if cause is error:
        error.add_note(f"task {what!r}: {help_text}")
        return error
    told = SerializationError(f"task {what!r} cannot be unpickled: {help_text}")
    told.__cause__ = cause
    return told


def _help(module: str | None, problem: str, worker: str, caller: Mapping[str, Any]) -> str:
    here = f"{sys.executable} (Python {sys.version.split()[0]})"
    there = f"{caller.get('executable')} (Python {caller.get('version')})"
    package = (module or "PACKAGE").partition(".")[0]
    failed = f"module {module!r} cannot be imported" if module else "what it needs is not in the module that is found"
    return (
        f"{failed} on worker {worker}: {problem}. The worker runs {here}, the caller {there}. Install the same version"
        f" there with `{sys.executable} -m pip install {package}`; if it is a module of your own, copy it to where that"
        f" Python finds it, or have it sent along with cloudpickle.register_pickle_by_value({package})"
    )
