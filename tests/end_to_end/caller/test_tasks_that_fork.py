"""A task that forks: the child ends where the task does, as a program's would, and the slot is not its own."""

from __future__ import annotations

import os
import sys
from operator import neg

import pytest

import minidask


def fork_and(end: str) -> int:
    """The exit code of a child that ends the task in this way."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if end == "raise":
        raise KeyError("the child's own")
    if end == "exit":
        sys.exit(7)
    return -1


@pytest.mark.parametrize(("end", "code"), [("return", 0), ("raise", 1), ("exit", 7)])
@pytest.mark.parametrize("processes", [True, False])
def test_a_forked_child_ends_with_the_task_and_speaks_for_nobody(end: str, code: int, processes: bool) -> None:
    with minidask.Client(n_workers=1, processes=processes) as client:
        for _ in range(3):
            future = client.submit(fork_and, end)
            others = client.map(neg, range(20))
            assert future.result(20) == code
            assert [other.result(20) for other in others] == [-i for i in range(20)]
