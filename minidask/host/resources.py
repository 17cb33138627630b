"""How much of the machine this process may use: cores, memory, and threads of numerical libraries.

A container has fewer cores and less memory than its machine, and the usual functions (`os.cpu_count`, `psutil`) tell
those of the machine. A worker that believed them would start too many slots, and be killed for its memory. The true
figures are in the files of the process's control groups. Each group sets a limit, and groups lie in one another, so
the smallest limit counts. All of that is read from files below `root`, so a test can write them.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from minidask.host.signals import pass_on

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
SHARE_VARIABLES = (
    *THREAD_VARIABLES,
    "LOKY_MAX_CPU_COUNT",  # joblib.cpu_count(), by which LightGBM and others size their threads
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",  # libraries in Rust: tokenizers and the like
)


def cpu_count(root: Path = Path("/")) -> int:
    """How many cores this process may use, as `joblib.cpu_count()` counts them; at least 1.

    Affinity, the quotas of containers and the variable `LOKY_MAX_CPU_COUNT` are taken into account.
    """
    counts = [os.cpu_count() or 1, core_count(root)]
    wished = os.environ.get("LOKY_MAX_CPU_COUNT", "")
    if wished.isascii() and wished.removeprefix("-").isdigit() and len(wished) < 20:
        counts.append(int(wished))
    return max(1, min(counts))


def core_count(root: Path = Path("/")) -> int:
    """How many cores this process may use, by affinity and the quotas of containers; at least 1.

    `LOKY_MAX_CPU_COUNT` does not count here: in a slot it is the slot's share.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([affinity, *(max(1, math.ceil(quota)) for quota in _cpu_quotas(root))])


def memory_total(root: Path = Path("/")) -> int:
    """How many bytes of memory this process may use: the machine's memory, or the limit of its container if less."""
    import psutil  # noqa: PLC0415 - slow to load, and not always needed

    try:
        total: int = psutil.virtual_memory().total
    except OSError:  # without /proc; these two know nothing of containers
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([total, *_memory_limits(root)])


def blob_memory(folder: Path) -> int:
    """How many bytes a blob store may take: a quarter of the memory, and at most half of the folder's free space."""
    return min(memory_total() // 4, shutil.disk_usage(folder).free // 2)


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups, from the innermost group to the outermost."""
    base = root / "sys/fs/cgroup"
    for line in read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = base / controller if controllers else base
        group = top / path.lstrip("/")
        while group != top and top in group.parents:
            yield group
            group = group.parent
        yield top


def _cpu_quotas(root: Path) -> Iterator[float]:
    for group in control_groups(root, "cpu"):
        quota, _, period = read(group / "cpu.max").partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            yield int(quota) / int(period)
        quota, period = read(group / "cpu.cfs_quota_us"), read(group / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _memory_limits(root: Path) -> Iterator[int]:
    for group in control_groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = read(group / name)
            if text.isdigit():
                yield int(text)


def read(path: Path) -> str:
    """The text of a file of the kernel's; "" if it cannot be had."""
    try:
        return path.read_text().strip()
    except OSError as error:
        pass_on(error)
        return ""


def thread_limits(slots: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that give each of `slots` processes its share of the cores, for library threads.

    Without them, each of eight processes would start eight threads for a matrix product. Variables that are set in
    `environ` are left out: the user has decided.
    """
    threads = str(max(1, cpu_count() // max(1, slots)))
    wanted = {**dict.fromkeys(SHARE_VARIABLES, threads), "ENABLE_IPC": "1"}  # ENABLE_IPC has TBB pools share cores
    return {name: value for name, value in wanted.items() if name not in environ}
