"""The fixture of most tests of stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from minidask.data.store import BlobStore
from tests.data.stores import KIB, new_store


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    """A store of 100 KiB in the test's own folder."""
    return new_store(tmp_path, 100 * KIB)
