"""Where a worker on a tether finds its scheduler."""

from __future__ import annotations

import pytest

from minidask.launch.tether import found


@pytest.mark.parametrize(
    ("address", "connection", "expected"),
    [
        (":8786", "10.0.0.1 50122 10.0.0.2 22", "tcp://10.0.0.1:8786"),
        (":8786", "fd00::1 50122 fd00::2 22", "tcp://[fd00::1]:8786"),
        ("tcp://node1:8786", "10.0.0.1 50122 10.0.0.2 22", "tcp://node1:8786"),
        ("node1:8786", "", "node1:8786"),
    ],
)
def test_the_address_is_the_one_that_ssh_came_from_unless_it_has_a_host(
    address: str, connection: str, expected: str
) -> None:
    assert found(address, connection) == expected


def test_without_either_there_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="must have a host"):
        found(":8786", "")
