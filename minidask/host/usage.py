"""How much memory processes use, and how much is left before the kernel kills one. Linux alone tells.

All of that is read from files below `root`, so a test can write them.

    what                                    file                            told of other systems
    ──────────────────────────────────────  ──────────────────────────────  ─────────────────────
    left on the machine                     proc/meminfo                    None
    left in each of the control groups      limit, usage and stat of each   None
    used by a process alone, and shared     proc/PID/status                 psutil's figure
    the same without what forks share       proc/PID/smaps_rollup           as above
    the processes that a slot has started   proc/PID/stat: their group      none
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .resources import control_groups, read

ROOT = Path("/")


def memory_left(root: Path = ROOT) -> int | None:
    """How many bytes this machine, or its container, has left for programs; None if nobody tells.

    What the kernel keeps of files counts as left: it gives that up when programs need it.
    """
    machine = _fields(root / "proc/meminfo").get("MemAvailable")
    left = [] if machine is None else [machine + _zfs_cache(root)]
    for group in control_groups(root, "memory"):
        for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            most, used = read(group / limit), read(group / usage)
            if most.isdigit() and used.isdigit():
                left.append(int(most) - int(used) + _given_up_when_needed(group))
    return min(left, default=None)


def _given_up_when_needed(group: Path) -> int:
    """Bytes of files that the kernel keeps in memory for a control group, without shared memory, which it must keep."""
    stat = {name: int(number) for name, number in _pairs(read(group / "memory.stat"))}
    if "total_cache" in stat:
        return stat["total_cache"] - stat.get("total_shmem", 0)
    return stat.get("file", 0) - stat.get("shmem", 0) + stat.get("slab_reclaimable", 0)


def _zfs_cache(root: Path) -> int:
    """Bytes that ZFS keeps of files, beyond its minimum: the kernel counts them as used."""
    lines = read(root / "proc/spl/kstat/zfs/arcstats").splitlines()
    size = {words[0]: int(words[2]) for words in map(str.split, lines) if len(words) == 3 and words[2].isdigit()}
    return max(0, size.get("size", 0) - size.get("c_min", 0))


class ProcessGroups:
    """Which processes are in which group. Each process is asked once, as a look at all of them takes milliseconds."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._group: dict[int, int] = {}

    def look(self) -> dict[int, list[int]]:
        """The processes of each process group; none where the system does not tell.

        Raises:
            OSError: this process has no descriptor to spare.
        """
        folder = self._root / "proc"
        there = {int(name) for name in os.listdir(folder) if name.isdigit()} if folder.is_dir() else set()
        known = self._group
        self._group = {pid: known[pid] if pid in known else _group_of(folder / str(pid)) for pid in there}
        found: dict[int, list[int]] = {}
        for pid, group in sorted(self._group.items()):
            found.setdefault(group, []).append(pid)
        return found


def _group_of(process: Path) -> int:
    """The process group of a process; 0 if it has ended."""
    fields = read(process / "stat").rpartition(")")[2].split()  # its name, in brackets, may hold anything
    return int(fields[2]) if len(fields) > 2 else 0


def used_by(pids: Sequence[int], most: int | None, of_all: Callable[[], int], root: Path = ROOT) -> int | None:
    """How many bytes of memory these processes use that nobody else does; None if nobody tells.

    Args:
        pids: processes that were forked from one another, or that have nothing to do with each other.
        most: what they may use. Exact figures take long to read, and are read only if rough ones are above that.
        of_all: called for how much of the shared memory that they may use is everybody's.
        root: where the files are.
    """
    rough = {pid: fields for pid in pids if "RssAnon" in (fields := _fields(root / f"proc/{pid}/status"))}
    if not rough:
        return None
    alone = sum(fields["RssAnon"] for fields in rough.values())
    shared = max(fields.get("RssShmem", 0) for fields in rough.values())  # by all of them, most likely
    if most is None or alone + shared <= most:
        return alone
    if len(rough) > 1:
        alone = sum(_fields(root / f"proc/{pid}/smaps_rollup").get("Pss_Anon", rough[pid]["RssAnon"]) for pid in rough)
    return alone + max(0, shared - of_all())


def _fields(file: Path) -> dict[str, int]:
    """The fields of a file that has lines as `Name: 12 kB`, in bytes."""
    pairs = _pairs(read(file).replace(" kB", "").replace(":", " "))
    return {name: 1024 * int(number) for name, number in pairs}


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[1].isdigit():
            yield words[0], words[1]
