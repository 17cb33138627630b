"""`minidask-launch`: the command line of the engines. It reads options, and holds a cluster until a signal comes."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from minidask._version import __version__
from minidask.errors import MinidaskError
from minidask.host.program import fail, port_option, start_logging
from minidask.launch.cluster import LaunchedCluster
from minidask.launch.engine import Plan
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
    for command in (ssh,):
        _add_common(command)
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
            f"  logs         {cluster.folder}\n"
            f'  clients      minidask.Client("{cluster.scheduler_address}")\n'
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
            print(options.show(options))
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
