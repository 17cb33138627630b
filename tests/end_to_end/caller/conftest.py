"""Clusters of one slot, near the callers' projects and far from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.caller.projects import far_worker
from tests.helpers import Programs


@pytest.fixture
def address(programs: Programs) -> str:
    """That of a scheduler with one slot, so that all tasks come to it, started in a folder of its own."""
    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "1", "--name", "w")
    return address


@pytest.fixture
def far(programs: Programs, tmp_path: Path) -> str:
    """The address of a scheduler whose one slot sees nothing of the folder `callers`."""
    (tmp_path / "callers").mkdir()
    _, address = programs.scheduler()
    far_worker(programs, address, tmp_path / "callers")
    return address
