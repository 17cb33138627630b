"""By which address others reach this machine."""

from __future__ import annotations

import pytest

from minidask.errors import MinidaskError
from minidask.host.networks import Network, address_of_interface, best_host

OWN = [Network("eth0", "10.0.0.5"), Network("eth1", "192.168.1.5"), Network("docker0", "172.17.0.1")]


@pytest.mark.parametrize(
    ("addresses_of_name", "own", "by_default", "expected"),
    [
        (["10.0.0.5"], OWN, "192.168.1.5", "node1"),
        (["127.0.1.1"], OWN, "192.168.1.5", "192.168.1.5"),  # as Debian's /etc/hosts has it
        ([], OWN, "192.168.1.5", "192.168.1.5"),
        ([], OWN, None, "10.0.0.5"),
        ([], OWN, "203.0.113.9", "10.0.0.5"),
        ([], [], None, "node1"),
    ],
)
def test_the_best_host_is_the_name_if_it_leads_here_or_else_an_address(
    addresses_of_name: list[str], own: list[Network], by_default: str | None, expected: str
) -> None:
    assert best_host("node1", addresses_of_name, own, by_default) == expected


def test_an_interface_has_an_address_or_the_error_says_which_ones_have() -> None:
    assert address_of_interface("lo") == "127.0.0.1"
    with pytest.raises(MinidaskError, match="no network interface 'nosuch0'"):
        address_of_interface("nosuch0")
