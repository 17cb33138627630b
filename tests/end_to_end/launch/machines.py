"""Machines that can be reached by ssh: network namespaces, each with a real sshd and a user of its own."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.hosts import Hosts, possible
from tests.helpers import wait_until

ROOT = Path(__file__).parents[3]
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


def have_sshd() -> bool:
    """Whether this machine has what these tests need: root, namespaces, and Debian's openssh-server."""
    return possible() and Path(SSHD).exists()


class SSHMachines:
    """The starter's host, number 0, and machines `node1`, `node2` … with a user each; `config` is for `ssh -F`."""

    def __init__(self, hosts: Hosts, folder: Path, count: int) -> None:
        self.hosts = hosts
        self.config = folder / "ssh_config"
        self.users = [f"md{os.getpid():x}u{number}" for number in range(1, count)]
        self._folder = folder

    def start(self, stack: contextlib.ExitStack) -> None:
        folder = self._folder
        for name in ("key", "host"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        os.makedirs("/run/sshd", exist_ok=True)
        lines = [f"IdentityFile {folder}/key", "UserKnownHostsFile /dev/null", "StrictHostKeyChecking no"]
        lines += ["LogLevel ERROR"]
        for number, user in enumerate(self.users, 1):
            run("useradd", "--create-home", "--password", "*", user)  # a locked account is not let in
            stack.callback(run, "userdel", "--force", "--remove", user, check=False)
            keys = Path(f"~{user}").expanduser() / ".ssh/authorized_keys"
            keys.parent.mkdir(mode=0o755)
            shutil.copy(folder / "key.pub", keys)
            log = folder / f"sshd{number}.log"
            settings = ["StrictModes no", "UsePAM no", "PidFile none"]
            options = [word for setting in settings for word in ("-o", setting)]
            command = [SSHD, "-D", "-f", "/dev/null", "-h", f"{folder}/host", "-E", str(log), *options]
            script = f"{opened_up(folder / f'kept{number}')}\nexec {shlex.join(command)}"
            sshd = subprocess.Popen(self.hosts.on(number, "sh", "-ec", script))
            stack.callback(end, sshd)
            wait_until(lambda log=log: log.exists() and "listening" in log.read_text(), "sshd listened")
            lines += [f"Host node{number}", f"  HostName {self.hosts.address(number)}", f"  User {user}"]
        self.config.write_text("\n".join(lines) + "\n")


def opened_up(kept: Path) -> str:
    """Commands that let any user of a host use this Python and this clone, wherever they are: by mounts of that host.

    A folder on the way that others may not enter gets another one put over it, in which only these are.
    """
    places = {Path(place) for place in (sys.base_prefix, sys.prefix, ROOT, *sys.path) if place and Path(place).is_dir()}
    closed: dict[Path, set[Path]] = {}
    for place in places:
        way = [folder for folder in reversed([place, *place.parents]) if not folder.stat().st_mode & 0o001]
        if way:
            closed.setdefault(way[0], set()).add(place)
    lines = []
    for number, (folder, inside) in enumerate(closed.items()):
        copy = kept / str(number)
        lines += [f"mkdir -p {copy}", f"mount --bind {folder} {copy}", f"mount -t tmpfs -o mode=755 none {folder}"]
        for place in sorted(inside):
            if not any(other in place.parents for other in inside):
                lines += [f"mkdir -p {place}", f"mount --bind {copy / place.relative_to(folder)} {place}"]
    return "\n".join(lines)


def run(*command: str, check: bool = True) -> str:
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=30).stdout


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(10)


@contextlib.contextmanager
def ssh_machines(folder: Path, count: int) -> Iterator[SSHMachines]:
    """So many hosts, the starter's among them."""
    with Hosts(count) as hosts, contextlib.ExitStack() as stack:
        machines = SSHMachines(hosts, folder, count)
        machines.start(stack)
        yield machines
