"""The networks of this machine: by which addresses others reach it."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable
from typing import NamedTuple

from minidask.errors import MinidaskError

TEST_NET = ("192.0.2.1", "2001:db8::1")  # for documents: nobody is there, and nothing is sent


class Network(NamedTuple):
    """An interface that is up, and an address of this machine there."""

    interface: str
    address: str


def networks() -> list[Network]:
    """Return the networks that others may be on, IPv4 first: not those within this machine, nor without a router."""
    import psutil  # noqa: PLC0415 - loaded when it is needed

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    families = {socket.AF_INET: 4, socket.AF_INET6: 6}
    found = [
        (families[entry.family], Network(name, entry.address))
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if name in up and entry.family in families and _is_of_others(entry.address)
    ]
    return [network for _, network in sorted(found, key=lambda pair: pair[0])]


def _is_of_others(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return not (parsed.is_loopback or parsed.is_link_local)


def address_of_interface(name: str) -> str:
    """Return this machine's address on an interface, IPv4 if it has one.

    Raises:
        MinidaskError: there is no such interface, or it has no address. The error names those that have.
    """
    import psutil  # noqa: PLC0415 - loaded when it is needed

    found = {entry.family: entry.address for entry in reversed(psutil.net_if_addrs().get(name, []))}
    for family in (socket.AF_INET, socket.AF_INET6):
        if family in found:
            return found[family]
    others = ", ".join(f"{network.interface} ({network.address})" for network in networks()) or "none"
    raise MinidaskError(f"there is no network interface {name!r} with an address; those that have one: {others}")


def best_host(name: str, addresses_of_name: Iterable[str], own: Iterable[Network], by_default: str | None) -> str:
    """Choose by what others best reach this machine. Pure.

    Args:
        name: of this machine.
        addresses_of_name: what the name leads to here. If that is none of its networks, others cannot use the name.
        own: its networks.
        by_default: its address on the way to anywhere; None if there is no such way.
    """
    addresses = [network.address for network in own]
    if set(addresses) & set(addresses_of_name):
        return name
    if by_default in addresses:
        return str(by_default)
    return addresses[0] if addresses else name


def host_for_others(ipv6: bool = False) -> str:
    """The name or address by which others best reach this machine, by the one or the other protocol."""
    name, family, there = socket.gethostname(), *((socket.AF_INET, TEST_NET[0]), (socket.AF_INET6, TEST_NET[1]))[ipv6]
    known: set[str] = set()
    with contextlib.suppress(OSError):
        known = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None, family)}
    return best_host(name, known, networks_of(ipv6), _address_by_default(family, there))


def networks_of(ipv6: bool) -> list[Network]:
    """Return the networks of one of the two protocols."""
    return [network for network in networks() if (":" in network.address) == ipv6]


def _address_by_default(family: int, there: str) -> str | None:
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((there, 9))
        return str(sock.getsockname()[0])
    return None
