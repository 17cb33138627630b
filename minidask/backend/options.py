"""Checks the options that users give to the backend and to `joblib.Parallel`, where they give them.

joblib accepts any keyword, so a misspelt option would else have no effect and raise nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from minidask.client.client import Client
from minidask.client.shell import NONE
from minidask.host import checks
from minidask.net.addresses import Address
from minidask.pickling.payload import PRIVATE, SHARED


class CallOptions(NamedTuple):
    """What is to be done about calls of a `Parallel` that hang or fail, or that were made before.

    Attributes:
        task_timeout: seconds that a call may run, all its tries together; None: no limit.
        on_error: "raise", or "return" to have the exception of a call in the place of its result.
        retries: how many times a call is tried again if it raises.
        retry_on: the classes of exceptions that are worth another try.
        resume: the file that keeps the results; None: they are not kept.
        resources: what a call needs of its machine and holds while it runs, by name.
    """

    task_timeout: float | None = None
    on_error: str = "raise"
    retries: int = 0
    retry_on: tuple[type[Exception], ...] = (Exception,)
    resume: Path | None = None
    resources: dict[str, float] = NONE

    def changed(self, **given: Any) -> CallOptions:
        """Return these options with others in their place.

        Args:
            given: options by name; None stands for one that was not given.

        Raises:
            TypeError, ValueError: an option makes no sense.
        """
        checked: dict[str, Any] = {
            name: _CHECKS[name](name, value) for name, value in given.items() if value is not None
        }
        return self._replace(**checked)

    @property
    def each_alone(self) -> bool:
        """Whether each call has to be a batch of its own: all of these are about one call."""
        return self._replace(resources=NONE) != CallOptions()

    @property
    def on_cluster(self) -> bool:
        """Whether the calls have to run on the cluster, even if that is one worker: in the caller these do nothing."""
        return self != CallOptions()


_CHECKS = {
    "task_timeout": checks.time_limit,
    "on_error": lambda name, value: checks.choice(name, value, ("raise", "return")),
    "retries": lambda name, value: checks.whole(name, value, 0),
    "retry_on": checks.exceptions,
    "resume": checks.outcomes,
    "resources": checks.resources,
}


def check_config(scheduler: object, scatter: object, unknown: Iterable[str]) -> None:
    """Check what `parallel_config("minidask", …)` was given.

    Args:
        unknown: names of options that the backend does not have.

    Raises:
        TypeError: there is an unknown option, or one has the wrong type.
        ValueError: `scheduler` is no address.
    """
    if unknown := sorted(unknown):
        raise TypeError(
            f"the minidask backend has no option {', '.join(unknown)}; it takes scheduler, scatter,"
            " wait_for_workers_timeout, reconnect_timeout, progress, initializer, initargs, task_timeout, on_error,"
            " retries, retry_on, resume, trace, resources, n_jobs and inner_max_num_threads"
        )
    if scatter is not None and not isinstance(scatter, list | tuple):
        raise TypeError(f"scatter must be a list or tuple of objects, got {type(scatter).__name__}")
    if not isinstance(scheduler, str | Client | None):
        raise TypeError(f"scheduler must be an address or a minidask.Client, got {type(scheduler).__name__}")
    if isinstance(scheduler, str):
        Address.parse(scheduler)


def refuse_unknown(options: Iterable[str], of_joblib: Iterable[str]) -> None:
    """Refuse an option of `Parallel` that neither joblib nor this backend has.

    joblib passes on all options that it does not know, so a misspelt one would have no effect.

    Args:
        options: the names that were passed on.
        of_joblib: the names of `parallel_config`'s options.

    Raises:
        TypeError: there is such an option.
    """
    known = {*of_joblib, "context", "idle_worker_timeout"}  # the last two are for joblib's own backends
    if unknown := sorted(set(options) - known):
        raise TypeError(
            f"Parallel has no option {', '.join(unknown)}, nor has the minidask backend, which takes initializer,"
            " initargs, task_timeout, on_error, retries, retry_on, resume and resources here; what else it takes is for"
            " parallel_config"
        )


def large_data(max_nbytes: int | None, mmap_mode: str | None) -> tuple[int | None, bytes]:
    """Translate joblib's two options for memory maps.

    Returns:
        The size in bytes from which on a buffer is sent once and shared by all tasks, None for never; and how tasks see
        it, `SHARED` or `PRIVATE`.

    Raises:
        TypeError, ValueError: `max_nbytes` is no size, or `mmap_mode` would have tasks write to data that others see.
    """
    if mmap_mode not in (None, "r", "c"):
        raise ValueError(
            f"mmap_mode={mmap_mode!r} has tasks write to data that other tasks see, which minidask does not do;"
            ' choose "r" (read-only), "c" (each task has a copy of its own, made as it writes) or None (no sharing)'
        )
    if max_nbytes == math.inf:
        max_nbytes = None
    if max_nbytes is not None:
        whole = isinstance(max_nbytes, float) and math.isfinite(max_nbytes)
        max_nbytes = checks.whole("max_nbytes", int(max_nbytes) if whole else max_nbytes, 0)
    return (None if mmap_mode is None else max_nbytes), (PRIVATE if mmap_mode == "c" else SHARED)
