"""How much memory is left, and how much processes use: from files that a test has written, and from the real ones."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from minidask.host.usage import ProcessGroups, memory_left, used_by

MEMINFO = "MemTotal:  4000 kB\nMemFree:   100 kB\nMemAvailable:   3000 kB\nHugePages_Total:    0\n"
KIB = 1024


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, 3000 * KIB),
        ({"proc/spl/kstat/zfs/arcstats": "1 2 3\nname type data\nc_min 4 1024\nsize 4 3072\n"}, 3002 * KIB),
        (
            {
                "proc/self/cgroup": "0::/a\n",
                "sys/fs/cgroup/a/memory.max": "1000000",
                "sys/fs/cgroup/a/memory.current": "900000",
                "sys/fs/cgroup/a/memory.stat": "anon 500000\nfile 300000\nshmem 100000\nslab_reclaimable 5\n",
            },
            100_000 + 200_000 + 5,
        ),
        (
            {
                "proc/self/cgroup": "9:memory:/a\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1000000",
                "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "900000",
                "sys/fs/cgroup/memory/a/memory.stat": "cache 1\ntotal_cache 300000\ntotal_shmem 100000\n",
            },
            100_000 + 200_000,
        ),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max"}, 3000 * KIB),
    ],
    ids=["machine", "ZFS", "container", "old container", "no limit"],
)
def test_what_is_left_is_what_programs_can_have(files: dict[str, str], left: int, tmp_path: Path) -> None:
    assert memory_left(write(tmp_path, {"proc/meminfo": MEMINFO, **files})) == left


def test_where_nobody_tells_nothing_is_known(tmp_path: Path) -> None:
    assert memory_left(tmp_path) is None
    assert used_by([1], None, int, tmp_path) is None
    assert ProcessGroups(tmp_path).look() == {}


def status(alone: int, shared: int) -> str:
    return f"Name:\tpython\nPid:\t7\nRssAnon:\t  {alone} kB\nRssFile:\t  50 kB\nRssShmem:\t  {shared} kB\n"


def test_children_count_once_for_what_they_share_by_fork(tmp_path: Path) -> None:
    files = {f"proc/{pid}/status": status(400, 0) for pid in (7, 8)}
    files |= {f"proc/{pid}/smaps_rollup": "12-34 ---p 00 [rollup]\nRss: 400 kB\nPss_Anon: 210 kB\n" for pid in (7, 8)}
    root = write(tmp_path, files)
    assert used_by([7, 8, 9], None, int, root) == 800 * KIB, "roughly"
    assert used_by([7, 8, 9], 800 * KIB, int, root) == 800 * KIB
    assert used_by([7, 8, 9], 500 * KIB, int, root) == 420 * KIB
    assert used_by([7], 300 * KIB, int, root) == 400 * KIB


def test_shared_memory_counts_beyond_what_belongs_to_all(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/7/status": status(100, 900), "proc/8/status": status(100, 700)})
    assert used_by([7, 8], 500 * KIB, lambda: 800 * KIB, root) == 300 * KIB
    assert used_by([7, 8], 500 * KIB, lambda: 5000 * KIB, root) == 200 * KIB


def test_each_process_is_asked_once_for_its_group(tmp_path: Path) -> None:
    stat = "{} (a) b (c) S 1 {} 7 0\n"
    root = write(tmp_path, {"proc/7/stat": stat.format(7, 7), "proc/8/stat": stat.format(8, 7), "proc/9/stat": ""})
    groups = ProcessGroups(root)
    assert groups.look() == {7: [7, 8], 0: [9]}
    write(root, {"proc/7/stat": "", "proc/10/stat": stat.format(10, 10)})
    (root / "proc/8/stat").unlink()
    (root / "proc/8").rmdir()
    assert groups.look() == {7: [7], 0: [9], 10: [10]}


def test_the_figures_of_this_process() -> None:
    left, used = memory_left(), used_by([os.getpid()], None, int)
    assert left is not None and 0 < left <= psutil.virtual_memory().total
    assert used is not None and 0 < used <= psutil.Process().memory_info().rss
    assert os.getpid() in ProcessGroups().look()[os.getpgid(0)]
