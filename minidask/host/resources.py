"""How much of the machine may be used: cores, memory, and library threads."""

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
    """The cores that this process may use, as `joblib.cpu_count()` counts them.

    Affinity, container quotas and `LOKY_MAX_CPU_COUNT` are taken into account.
    """
    counts = [os.cpu_count() or 1, core_count(root)]
    wished = os.environ.get("LOKY_MAX_CPU_COUNT", "")
    if wished.isascii() and wished.removeprefix("-").isdigit() and len(wished) < 20:
        counts.append(int(wished))
    return max(1, min(counts))


def core_count(root: Path = Path("/")) -> int:
    """The cores that this process may use, whatever its share of them is to be."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([affinity, *(max(1, math.ceil(quota)) for quota in _cpu_quotas(root))])


def memory_total(root: Path = Path("/")) -> int:
    """The bytes of memory that this process may use: the machine's, or its container's if that is less."""
    import psutil  # noqa: PLC0415 - slow to load, and not always needed

    try:
        total: int = psutil.virtual_memory().total
    except OSError:  # there is no /proc; the kernel tells it too, but for a container always the machine's
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([total, *_memory_limits(root)])


def blob_memory(folder: Path) -> int:
    """The bytes that a blob store in this folder may take: a quarter of the memory, and half of what is free there."""
    return min(memory_total() // 4, shutil.disk_usage(folder).free // 2)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups that this process is in, inner ones first."""
    base = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
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
    for group in _groups(root, "cpu"):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            yield int(quota) / int(period)
        quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _memory_limits(root: Path) -> Iterator[int]:
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(group / name)
            if text.isdigit():
                yield int(text)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        pass_on(error)
        return ""


def thread_limits(slots: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that share the cores' library threads out to `slots` processes.

    What the user has set in `environ` is left as it is.
    """
    threads = str(max(1, cpu_count() // max(1, slots)))
    wanted = {**dict.fromkeys(SHARE_VARIABLES, threads), "ENABLE_IPC": "1"}  # the latter has TBB pools share cores
    return {name: value for name, value in wanted.items() if name not in environ}
