"""`minidask-launch`: the command line of the engines. It reads options, and holds a cluster until a signal comes."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from minidask._version import __version__
from minidask.errors import MinidaskError
from minidask.host.networks import host_for_others
from minidask.host.program import fail, port_option, start_logging
from minidask.launch.batch import SYSTEMS, BatchCluster, BatchEngine
from minidask.launch.cluster import LaunchedCluster
from minidask.launch.engine import Plan
from minidask.launch.shown import manifests, template, unit
from minidask.launch.ssh import SSH, SSHCluster, SSHEngine
from minidask.net.access import default_access_file

PROGRAM = "minidask-launch"
DESCRIPTION = "Start a scheduler here and workers elsewhere, by an engine that you have. Ctrl-C ends them all."
EPILOG = """\
What follows -- is for minidask-worker: minidask-launch ssh node2 node3 -- --nworkers 4

exit codes: 0 ended by a signal, 1 could not start, 2 wrong usage
"""


def _parse(arguments: list[str]) -> argparse.Namespace:
    own, _, workers = _split(arguments)
    parser = argparse.ArgumentParser(
        PROGRAM, description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    engines = parser.add_subparsers(dest="engine", required=True, metavar="ENGINE")
    ssh = engines.add_parser("ssh", help="a worker on each host, by your own ssh", epilog=EPILOG)
    ssh.add_argument("hosts", nargs="+", metavar="HOST", help="as ssh takes it: a name, user@host, or of ~/.ssh/config")
    ssh.add_argument("--ssh-option", action="append", default=[], metavar="OPTION", help="for ssh, as -p2222")
    ssh.set_defaults(start=_ssh, show=_show_ssh)
    _add_common(ssh)
    for name in SYSTEMS:
        batch = engines.add_parser(name, help=f"a job of {name} for each worker", epilog=EPILOG)
        _add_batch(batch)
        _add_common(batch)
    systemd = engines.add_parser("systemd", help="units for the two daemons; they are only shown")
    systemd.add_argument("daemon", choices=["scheduler", "worker"])
    systemd.add_argument("--python", metavar="PATH", help="of the environment that has minidask")
    systemd.add_argument("--reach", metavar="ADDRESS", help="the scheduler's, for a worker (default: node1:8786)")
    systemd.set_defaults(show=lambda options: unit(options.daemon, options.python, options.reach))
    kubernetes = engines.add_parser("kubernetes", help="manifests, with a new secret, for kubectl; only shown")
    kubernetes.add_argument("--image", default="minidask", help="default: %(default)s")
    kubernetes.add_argument("--replicas", type=int, default=2, help="workers (default: %(default)s)")
    kubernetes.add_argument("--cores", type=int, default=2, help="of each worker (default: %(default)s)")
    kubernetes.add_argument("--memory", default="4Gi", help="of each worker (default: %(default)s)")
    kubernetes.set_defaults(show=lambda o: manifests(o.image, o.replicas, o.cores, o.memory))
    for name in ("compose", "dockerfile"):
        file = engines.add_parser(name, help="a file for containers; only shown")
        file.set_defaults(show=lambda options: template(options.engine))
    for shown_only in (systemd, kubernetes, engines.choices["compose"], engines.choices["dockerfile"]):
        shown_only.add_argument("--print", action="store_true", required=True, help="show it")
    options = parser.parse_args(own)
    options.worker_options = workers
    return options


def _split(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], "--", arguments[at + 1 :]


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--print", action="store_true", help="show what would be run, and run nothing")
    parser.add_argument("--python", metavar="PATH", help="the machines' Python that has minidask (default: this one's)")
    parser.add_argument("--host", default="0.0.0.0", help="where the scheduler listens (default: %(default)s)")
    parser.add_argument("--interface", metavar="NAME", help="listen on this network interface only")
    parser.add_argument("--port", type=port_option, default=8786, help="the same (default: %(default)s)")
    parser.add_argument("--reach", metavar="HOST", help="the address of this machine that others use")
    parser.add_argument("--access-file", metavar="FILE", help="of the cluster (default: the usual place)")


def _add_batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--adapt", type=int, nargs=2, metavar=("MIN", "MAX"), help="as many as there is work for")
    parser.add_argument("--cores", type=int, default=1, metavar="N", help="of a job (default: %(default)s)")
    parser.add_argument("--minutes", type=int, default=60, metavar="N", help="of a job at most (default: %(default)s)")
    parser.add_argument("--line", action="append", default=[], help="a further option, as --line=--partition=long")
    parser.add_argument("--before", action="append", default=[], metavar="LINE", help="of shell, before the worker")
    parser.set_defaults(start=_batch, show=_show_batch)


def _batch(options: argparse.Namespace) -> LaunchedCluster:
    common = {**_common(options), "access_file": None}  # each cluster has one of its own, where the jobs find it
    batch = {name: getattr(options, name) for name in ("cores", "minutes", "before")}
    cluster = BatchCluster(options.engine, lines=options.line, **batch, **common)
    try:
        if options.adapt:
            cluster.adapt(*options.adapt)
        else:
            cluster.scale(options.jobs)
    except BaseException:
        cluster.close()
        raise
    return cluster


def _show_batch(options: argparse.Namespace) -> str:
    plan = _plan(options)
    if plan.address.startswith(":"):
        plan = dataclasses.replace(plan, address=f"{host_for_others()}{plan.address}")
    batch = (options.cores, options.minutes)
    return BatchEngine(options.engine, plan, *batch, lines=options.line, before=options.before).describe()


def _common(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "python": options.python,
        "host": options.host,
        "port": options.port,
        "reach": options.reach,
        "access_file": options.access_file or default_access_file().expanduser(),
        "worker_options": options.worker_options,
        "scheduler_options": ("--interface", options.interface) if options.interface else (),
    }


def _plan(options: argparse.Namespace) -> Plan:
    access = str(options.access_file or default_access_file())
    reach = f"{options.reach or ''}:{options.port}"
    return Plan(reach, access, options.python or sys.executable, tuple(options.worker_options))


def _ssh(options: argparse.Namespace) -> LaunchedCluster:
    return SSHCluster(options.hosts, options=options.ssh_option, **_common(options))


def _show_ssh(options: argparse.Namespace) -> str:
    return SSHEngine(options.hosts, _plan(options), (*SSH, *options.ssh_option)).describe()


def _hold(start: Callable[[], LaunchedCluster]) -> None:
    with start() as cluster:
        print(
            f"{PROGRAM} {__version__}: {cluster!r}\n"
            f"  access file  {cluster.access_file}\n"
            f"  logs         {cluster.folder}\n"
            f'  clients      minidask.Client(access_file="{cluster.access_file}")\n'
            f"  ends         with this program: Ctrl-C",
            flush=True,
        )
        threading.Event().wait()


def _end_on_signals() -> None:
    """Have the first SIGTERM, SIGINT or SIGHUP raise KeyboardInterrupt. Later ones do nothing: the end is under way."""
    come: list[int] = []

    def end(number: int, _: object) -> None:
        come.append(number)
        if len(come) == 1:
            raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)


def main(arguments: list[str] | None = None) -> int:
    """Run `minidask-launch` with these arguments, by default those of the command line. Returns its exit code."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    start_logging("info", "%(message)s")
    try:
        if options.print:
            print(options.show(options).removesuffix("\n"))
            return 0
        _end_on_signals()
        _hold(lambda: options.start(options))
    except KeyboardInterrupt:
        pass
    except (MinidaskError, ValueError, OSError) as error:
        return fail(PROGRAM, error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
