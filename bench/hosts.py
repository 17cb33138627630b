"""Several hosts on one machine, made of network namespaces, for measurements and tests of what crosses a network.

Each host has a card with a rate of its own. So a transfer takes as long as between real machines.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess

_numbers = itertools.count()


def possible() -> bool:
    """Whether this process may make namespaces: it takes root, and Debian's iproute2."""
    return os.getuid() == 0 and shutil.which("ip") is not None


class Hosts:
    """Some hosts, each with an address and a network card; a context manager.

    Args:
        count: how many.
        rate: what each one's card sends at most, as `tc` has it, such as "1gbit"; empty: what the machine can.
    """

    def __init__(self, count: int, rate: str = "") -> None:
        self.mark = f"md{os.getpid():x}-{next(_numbers)}"  # a namespace ends some time after its deletion
        self.names = [f"{self.mark}h{number}" for number in range(count)]
        self._bridge = f"{self.mark}b"
        self._rate = rate

    def __enter__(self) -> Hosts:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def _start(self) -> None:
        ip("link", "add", self._bridge, "type", "bridge")
        ip("link", "set", self._bridge, "up")
        for number, name in enumerate(self.names):
            cable = f"{self.mark}v{number}"
            ip("netns", "add", name)
            ip("link", "add", cable, "type", "veth", "peer", "name", "e0", "netns", name)
            ip("link", "set", cable, "master", self._bridge, "up")
            ip("-n", name, "addr", "add", f"{self.address(number)}/24", "dev", "e0")
            for device in ("e0", "lo"):
                ip("-n", name, "link", "set", device, "up")
            if self._rate:
                limit = ("tbf", "rate", self._rate, "burst", "256kb", "latency", "50ms")
                subprocess.run(self.on(number, "tc", "qdisc", "add", "dev", "e0", "root", *limit), check=True)

    def _end(self) -> None:
        for name in self.names:
            ip("netns", "del", name, check=False)
        ip("link", "del", self._bridge, check=False)

    def address(self, number: int) -> str:
        """Return a host's address; hosts are numbered from 0."""
        return f"10.199.7.{number + 1}"

    def on(self, number: int, *command: str) -> list[str]:
        """Return the command that runs `command` on a host."""
        return ["ip", "netns", "exec", self.names[number], *command]

    def sent(self, number: int) -> int:
        """Return how many bytes a host has sent."""
        counter = "/sys/class/net/e0/statistics/tx_bytes"
        return int(subprocess.run(self.on(number, "cat", counter), capture_output=True, text=True, check=True).stdout)


def ip(*arguments: str, check: bool = True) -> None:
    """Run the program `ip` with these arguments.

    Raises:
        CalledProcessError: with `check`, it failed.
    """
    subprocess.run(["ip", *arguments], check=check, capture_output=True, timeout=30)
