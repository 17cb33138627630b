"""How many file descriptors a daemon may have: it takes all that it can get, and says at once if they are too few.

Each slot costs its daemon five descriptors, so a large machine needs more than the usual 1,024. That is only the soft
limit; a process may raise it up to the hard limit. Without a check at the start, the hundredth slot or a late client
would fail with "Too many open files".
"""

from __future__ import annotations

import contextlib
import resource

from minidask.errors import MinidaskError
from minidask.host.sizes import count

EACH = 6
"""For each slot: its socket, two pipes for its output, one for stops, its count of reads, and its tasks' own client."""
BESIDES = 32
"""For all else: standard streams, event loop, scheduler, clients, the store, and one slot that is being started."""

MOST = 65_536
"""More is never needed, and some programs count up to the limit."""

_original: tuple[int, int] | None = None


def check(slots: int) -> None:
    """Check that the hard limit of descriptors is enough for a daemon with so many slots; none for a scheduler.

    Raises:
        MinidaskError: the limit is too low. The error says how to raise it, and how many slots would do.
    """
    wanted = BESIDES + EACH * slots
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and wanted > hard:
        most = (hard - BESIDES) // EACH
        needs = f"{count(slots, 'worker')} need{'s' if slots == 1 else ''}" if slots else "this program needs"
        raise MinidaskError(
            f"{needs} {wanted} open files, and the limit of this process is {hard}: raise it"
            f" (`ulimit -n {wanted}`, or LimitNOFILE in a systemd unit)"
            + (f", or have at most {most} workers" if most > 0 else "")
        )


def raise_limit() -> None:
    """Raise this process's soft limit of descriptors as far as possible. Child processes inherit it: see `restore`."""
    global _original
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # a sandbox may refuse it, and macOS has a limit beside this one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            _original = soft, hard


def restore(pid: int) -> None:
    """Give a child process the soft limit that was in force before `raise_limit`. Does nothing outside of Linux.

    User code expects the usual limit: `select` fails for descriptors above 1,023.
    """
    if _original is not None and hasattr(resource, "prlimit"):
        with contextlib.suppress(OSError):  # it has ended already, or a sandbox refuses it
            resource.prlimit(pid, resource.RLIMIT_NOFILE, _original)
