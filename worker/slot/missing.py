"""What to say when a task's module cannot be imported, or is not what the caller has.

Here are the facts that the worker knows. Whose module it is, and what to do about it, the caller knows better, and adds
when the error has come to it: `minidask.client.missing`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from minidask.errors import SerializationError
from minidask.host.packages import distribution_of, python_version

IN_MODULE = re.compile(r"(?:<module '|module ')([\w.]+)'")


def explained(error: BaseException, what: str, worker: str, caller: Mapping[str, Any]) -> BaseException:
    """The same error, told with both Pythons; any other error as it is.

    Args:
        error: what the call raised, or what unpickling it did.
        what: names the task.
        worker: names the worker and its host.
        caller: the session of the caller.
    """
    cause = error.__cause__ if isinstance(error, SerializationError) else error
    if isinstance(cause, ImportError):
        module = cause.name or ""
    elif isinstance(cause, AttributeError) and cause is not error:
        found = IN_MODULE.search(str(cause))
        module = found[1] if found else ""
    else:
        return error
    found_here = distribution_of(module) if module else None
    installed = f"{found_here.name} {found_here.version}" if found_here else ""
    facts = _facts(module, installed, str(cause), worker, caller)
    told = error
    if cause is error:
        error.add_note(f"task {what!r}: {facts}")
    else:
        told = SerializationError(f"task {what!r} cannot be unpickled: {facts}")
        told.__cause__ = cause
    if module:
        told.__dict__["missing_module"] = {"module": module, "python": sys.executable, "installed": installed}
    return told


def _facts(module: str, installed: str, problem: str, worker: str, caller: Mapping[str, Any]) -> str:
    here = f"{sys.executable} (Python {python_version()}{', ' + installed if installed else ''})"
    there = f"{caller.get('executable')} (Python {caller.get('version')})"
    if problem.startswith("No module named"):
        failed = f"module {module!r} cannot be imported"
    else:
        failed = f"what it needs is not in module {module!r} as it is there" if module else "an import has failed"
    return f"{failed} on worker {worker}: {problem}. The worker runs {here}, the caller {there}"
