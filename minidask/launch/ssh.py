"""Machines by ssh: the system's own `ssh`, with its keys, agents and configuration, and one connection for each."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from minidask.launch.cluster import LaunchedCluster
from minidask.launch.engine import ALIVE, Plan
from minidask.launch.tethered import Tethered

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "-o", "ConnectTimeout=30")


class SSHEngine:
    """Holds a worker on each host by an ssh connection.

    Args:
        hosts: as `ssh` takes them; one that is there twice gets two workers.
        plan: for the workers.
        ssh: the command, without the host.
    """

    def __init__(self, hosts: Sequence[str], plan: Plan, ssh: Sequence[str] = SSH) -> None:
        self._plan = plan
        self._ssh = tuple(ssh)
        self._hosts = {h if k == 0 else f"{h}-{k + 1}": h for i, h in enumerate(hosts) for k in [hosts[:i].count(h)]}
        self._held: dict[str, Tethered] = {}

    def start(self, n: int) -> list[str]:
        """Start workers on `n` hosts that have none."""
        free = [name for name in self._hosts if name not in self._held or not self._held[name].is_alive()][:n]
        access = Path(self._plan.access_file).read_bytes()
        for name in free:
            log = Path(self._plan.folder or ".", f"{name.replace('/', '_')}.log")
            self._held[name] = Tethered(self._command(name), access, log)
        return free

    def stop(self, ids: Collection[str]) -> None:
        """Let go of the connections: the other ends have their workers drain."""
        for name in ids:
            self._held[name].let_go()

    def alive(self, ids: Iterable[str]) -> dict[str, str]:
        """Look at the connections. Why one has ended is the last line that it, or its worker, has printed."""
        return {name: ALIVE if self._held[name].is_alive() else self._held[name].last_words for name in ids}

    def describe(self) -> str:
        """The commands, one for each host."""
        access = shlex.quote(self._plan.access_file)
        return "\n".join(f"(cat {access}; cat) | {shlex.join(self._command(name))}" for name in self._hosts)

    def abandon(self) -> None:
        """Close a forked child's copies of the connections."""
        for held in self._held.values():
            held.let_go()

    def _command(self, name: str) -> list[str]:
        return [*self._ssh, self._hosts[name], shlex.join(self._plan.on_tether(name))]


class SSHCluster(LaunchedCluster):
    """A scheduler here, and a worker on each of some hosts.

        with minidask.SSHCluster(["node2", "node3"]) as cluster, minidask.Client(cluster) as client: ...

    Hosts that fail are logged with why, and are in `failed`; the others work.

    Args:
        hosts: as `ssh` takes them: names, addresses, user@host, or what ~/.ssh/config calls them.
        python: the Python there that has minidask; None: the path of this one.
        reach: the name or address of this machine by which the hosts reach it; None: where their ssh connections come
            from.
        options: for ssh, such as ["-p", "2222"].
        worker_options: for `minidask-worker`, such as ["--nworkers", "4"].
        host: where the scheduler listens.
        port: the same; 0 lets the kernel choose.
        access_file, scheduler_options: as in `LaunchedCluster`.

    Raises:
        MinidaskError: no host works. The error says why, for each.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        python: str | None = None,
        reach: str | None = None,
        options: Sequence[str] = (),
        worker_options: Sequence[str] = (),
        host: str = "0.0.0.0",
        port: int = 0,
        access_file: str | Path | None = None,
        scheduler_options: Sequence[str] = ("--allow-shutdown",),
    ) -> None:
        if isinstance(hosts, str) or not hosts:
            raise ValueError(f"hosts must be a list with a host or more, got {hosts!r}")
        if dashed := [host for host in hosts if host.startswith("-")]:
            raise ValueError(f"a host cannot begin with a dash, as {dashed[0]!r} does: ssh would take it for an option")
        super().__init__(
            lambda plan: SSHEngine(hosts, plan, (*SSH, *options)),
            host=host,
            port=port,
            access_file=access_file,
            reach=reach or "",
            python=python,
            worker_options=worker_options,
            scheduler_options=scheduler_options,
        )
        try:
            self.start(len(hosts))
            self.wait_for_machines()
        except BaseException:
            self.close()
            raise
