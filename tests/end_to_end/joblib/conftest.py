from __future__ import annotations

from collections.abc import Iterator

import joblib
import pytest

import minidask


@pytest.fixture
def on_client(client: minidask.Client) -> Iterator[None]:
    """joblib's calls in the test go through `client`."""
    with joblib.parallel_config("minidask", scheduler=client):
        yield
