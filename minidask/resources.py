"""How much of the machine may be used: cores, memory, and library threads."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_UNITS |= {f"{unit}IB": size for unit, size in _UNITS.items() if unit not in ("", "B")}
_UNITS |= {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def cpu_count(root: Path = Path("/")) -> int:
    """The cores that this process may use, as `joblib.cpu_count()` counts them.

    Affinity, container quotas and `LOKY_MAX_CPU_COUNT` are taken into account.
    """
    counts = [os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):
        counts.append(len(os.sched_getaffinity(0)))
    counts += [max(1, math.ceil(quota)) for quota in _cpu_quotas(root)]
    wished = os.environ.get("LOKY_MAX_CPU_COUNT", "")
    if wished.isdigit():
        counts.append(int(wished))
    return max(1, min(counts))


def memory_total(root: Path = Path("/")) -> int:
    """The bytes of memory that this process may use: the machine's, or its container's if that is less."""
    import psutil  # noqa: PLC0415 - slow to load, and not always needed

    total: int = psutil.virtual_memory().total
    return min([total, *_memory_limits(root)])


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
    except OSError:
        return ""


def thread_limits(slots: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that share the cores' library threads out to `slots` processes.

    What the user has set in `environ` is left as it is.
    """
    threads = str(max(1, cpu_count() // slots))
    wanted = {**dict.fromkeys(THREAD_VARIABLES, threads), "ENABLE_IPC": "1"}  # the latter has TBB pools share cores
    return {name: value for name, value in wanted.items() if name not in environ}


def parse_bytes(text: str | int | float) -> int:
    """A number of bytes from 4294967296, "4GiB", "4GB", "512M" or "1e9".

    Raises:
        ValueError: it is none of these.
    """
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([A-Z]*)", str(text).strip(), re.IGNORECASE)
    try:
        if match is None or isinstance(text, bool):
            raise ValueError
        number = float(match[1]) * _UNITS[match[2].upper()]
        if number != 0 and number < 1:
            raise ValueError
        return int(number)
    except (ValueError, KeyError, OverflowError):
        raise ValueError(f"{text!r} is no number of bytes: use forms like 4294967296, 4GiB, 4GB or 512M") from None


def format_bytes(count: int) -> str:
    """A number of bytes for people: "1.5 GiB"."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
