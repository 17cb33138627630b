"""A scheduler on several networks tells the addresses that others can use, and lives as long as its user expects."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator

import pytest

from bench.hosts import Hosts, ip, possible
from tests.helpers import Programs

needs_hosts = pytest.mark.skipif(not possible(), reason="needs root and iproute2, to make network namespaces")
SCHEDULER = (sys.executable, "-m", "minidask.scheduler", "--port", "0")


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Two hosts with two networks between them; the second network has IPv6 only."""
    with Hosts(2) as made:
        first, second = made.names
        cable = (f"{made.mark}x0", f"{made.mark}x1")
        ip("link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
        for number, (name, end) in enumerate(zip((first, second), cable, strict=True), 1):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "link", "set", end, "name", "e1", "up")
            ip("-n", name, "addr", "add", f"10.199.8.{number}/24", "dev", "e1")
            ip("-n", name, "addr", "add", f"fd99::{number}/64", "dev", "e1", "nodad")
        yield made


@needs_hosts
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--host", "0.0.0.0"], ["10.199.7.1", "10.199.8.1"]),
        (["--host", "::"], ["[fd99::1]"]),
        (["--interface", "e1"], ["10.199.8.1"]),
        (["--host", "fd99::1"], ["[fd99::1]"]),
    ],
)
def test_every_address_that_is_told_can_be_used_from_another_host(
    hosts: Hosts, programs: Programs, options: list[str], expected: list[str]
) -> None:
    scheduler = programs.start(*hosts.on(0, *SCHEDULER, *options))
    text = scheduler.wait_for("minidask.Client(")
    if len(expected) > 1:
        text = scheduler.wait_for("also at")
    assert "0.0.0.0" not in text
    told = dict.fromkeys(re.findall(r"tcp://\S+:\d+", text.replace('"', " ")))
    assert [address.removeprefix("tcp://").rpartition(":")[0] for address in told] == expected
    for address in told:
        worker = programs.start(*hosts.on(1, sys.executable, "-m", "minidask.worker", address, "--nworkers", "1"))
        worker.wait_for("joined the scheduler")


def test_a_scheduler_ends_with_its_terminal_and_says_how_not_to(programs: Programs) -> None:
    scheduler, _ = programs.scheduler()
    scheduler.send(signal.SIGHUP)
    assert scheduler.exit_code() == 0
    assert "got SIGHUP, as its terminal has gone; to go on after a logout: nohup" in scheduler.text


def test_a_scheduler_under_nohup_goes_on_when_its_terminal_has_gone(programs: Programs) -> None:
    scheduler = programs.start("nohup", *SCHEDULER)
    address = scheduler.wait_for("minidask.Client(").split('minidask.Client("')[1].split('"')[0]
    scheduler.send(signal.SIGHUP)
    worker = programs.worker(address, "--nworkers", "1")
    assert scheduler.process.poll() is None
    worker.send(signal.SIGHUP)
    assert worker.exit_code() == 0
