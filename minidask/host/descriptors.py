"""How many descriptors a process may have: a daemon takes what it may, and says at once if that is too little.

There are two limits: a soft one that counts, often 1,024, and a hard one up to which anybody may raise the other.
"""

from __future__ import annotations

import contextlib
import resource

from minidask.errors import MinidaskError

EACH = 5
"""For each slot: its socket, two pipes for its output, one for stops, and the connection of its tasks' own client."""
BESIDES = 32
"""For all else: standard streams, event loop, scheduler, clients, the store, and one slot that is being started."""

MOST = 65_536
"""More is never needed, and some programs count up to the limit."""

_original: tuple[int, int] | None = None


def check(slots: int) -> None:
    """See that a daemon may have enough descriptors for so many slots.

    Raises:
        MinidaskError: it may not.
    """
    wanted = BESIDES + EACH * slots
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and wanted > hard:
        most = (hard - BESIDES) // EACH
        raise MinidaskError(
            f"{slots} workers need {wanted} open files, and the limit of this process is {hard}: raise it"
            f" (`ulimit -n {wanted}`, or LimitNOFILE in a systemd unit)"
            + (f", or have at most {most} workers" if most > 0 else "")
        )


def raise_limit() -> None:
    """Raise this process's limit of descriptors. Processes that it starts get the former limit back by `restore`."""
    global _original
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # a sandbox may refuse it, and macOS has a limit beside this one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            _original = soft, hard


def restore(pid: int) -> None:
    """Give a child process the limit that this one had before `raise_limit`, for which programs are made (Linux)."""
    if _original is not None and hasattr(resource, "prlimit"):
        with contextlib.suppress(OSError):  # it has ended already, or a sandbox refuses it
            resource.prlimit(pid, resource.RLIMIT_NOFILE, _original)
