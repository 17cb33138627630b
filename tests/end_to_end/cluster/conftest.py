"""What several tests of daemons need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.relay import Relay


@pytest.fixture
def relays() -> Iterator[list[Relay]]:
    made: list[Relay] = []
    yield made
    for relay in made:
        relay.close()
