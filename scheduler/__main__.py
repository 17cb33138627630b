"""`minidask-scheduler`: the command line of the scheduler program. It reads options, and joins core and server."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import math
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from minidask._version import __version__
from minidask.errors import MinidaskError
from minidask.host import descriptors, logs
from minidask.host.folders import sweep
from minidask.host.networks import address_of_interface, host_for_others, networks_of
from minidask.host.packages import installed, python_version
from minidask.host.program import (
    bytes_option,
    fail,
    make_parser,
    port_option,
    run_loop,
    seconds_option,
    start_logging,
    stop_on_signals,
    unpickle_nothing,
)
from minidask.host.resources import memory_total
from minidask.host.systemd import Systemd
from minidask.net.access import Access, default_access_file, load_or_create_access, new_secret, save_access
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials
from minidask.net.tls_options import PLAIN_WARNING, tls_of_options

from . import metrics
from .core import HEARTBEAT_TIMEOUT, NO_WORKERS_SECONDS, SchedulerCore
from .server import SchedulerServer

PROGRAM = "minidask-scheduler"
ALL_NETWORKS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # each with where who is on this machine finds the scheduler then
DESCRIPTION = "Decide which task runs where: workers and clients connect to this program."
EPILOG = """\
a cluster of several machines, in one step: minidask-launch ssh node2 node3
or in three:
  1. here:                  minidask-scheduler --host 0.0.0.0
  2. for each machine:      give it the access file, by the command that step 1 prints; there: minidask-worker
  3. in your program:       client = minidask.Client("THIS_HOST:8786")

To go on after you log out, start it with nohup, or as a service: docs/systemd/ has one.

Whoever holds the access file may run code on every worker: keep it to yourself. TCP connections are
encrypted, by certificates that are made from the access file's secret, or by your own.

exit codes: 0 ended by a signal or a client, 1 could not start, 2 wrong usage
"""

log = logging.getLogger("minidask.scheduler")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = make_parser(PROGRAM, DESCRIPTION, EPILOG)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="where to listen: a host name or IP, 0.0.0.0 for all networks, or unix:///path (default: %(default)s)",
    )
    parser.add_argument("--interface", metavar="NAME", help="listen on this network interface only, in place of --host")
    parser.add_argument(
        "--port", type=port_option, default=8786, help="0 lets the kernel choose (default: %(default)s)"
    )
    parser.add_argument(
        "--new-secret",
        action="store_true",
        help="write a new secret into the access file, and end. A scheduler that runs takes it within a second,"
        " and ends all connections: who has the old one is not let in any more",
    )
    parser.add_argument(
        "--no-workers-timeout",
        type=seconds_option,
        default=NO_WORKERS_SECONDS,
        metavar="SECONDS",
        help="how long tasks wait while there is no worker at all, before they fail (default: %(default)g)",
    )
    parser.add_argument(
        "--heartbeat-timeout",
        type=heartbeat_option,
        default=HEARTBEAT_TIMEOUT,
        metavar="SECONDS",
        help="after how many seconds of silence a worker is lost, and a client asks whether the scheduler still"
        " answers; 1 or more (default: %(default)g)",
    )
    parser.add_argument(
        "--memory-limit",
        type=bytes_option,
        default="auto",
        metavar="BYTES",
        help="what the tasks and data of all clients may take here, as 4GiB: a client that has sent too much gets an"
        " error; auto: half of the memory (default: auto)",
    )
    parser.add_argument(
        "--allow-shutdown",
        action="store_true",
        help="let any client, and any task, end the whole cluster with Client.shutdown()",
    )
    parser.add_argument(
        "--metrics-port",
        type=port_option,
        metavar="PORT",
        help="have a process beside this one serve figures for Prometheus at http://127.0.0.1:PORT/metrics, to anybody"
        " who reaches it; 0 lets the kernel choose",
    )
    parser.add_argument(
        "--metrics-host",
        default="127.0.0.1",
        metavar="HOST",
        help="where it listens: a host name or IP, 0.0.0.0 for all networks (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def heartbeat_option(text: str) -> float:
    """Read a time limit for heartbeats, in seconds.

    Raises:
        argparse.ArgumentTypeError: it is less than a second, or no number.
    """
    seconds = seconds_option(text)
    if not 1 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 1 on")
    return seconds


async def _serve(
    address: Address, access_file: Path, options: argparse.Namespace, page: metrics.MetricsPage | None
) -> int:
    access, tls = load_or_create_access(access_file), tls_of_options(options)
    if address.scheme == "tcp":
        access = access._replace(encrypted=tls is not False)
        save_access(access)  # before anybody can connect
    credentials = Credentials(access, tls)
    if credentials.are_plain(address):
        log.warning(PLAIN_WARNING, "this scheduler")
    info = {"version": __version__, "pid": os.getpid(), "python": python_version(), "packages": installed()}
    limit = options.memory_limit or memory_total() // 2
    core = SchedulerCore(info, options.no_workers_timeout, options.heartbeat_timeout, options.allow_shutdown, limit)
    core.answers.logs.own = logs.kept.last
    server = SchedulerServer(core, credentials)
    stop_on_signals(server.stopped, log)  # before a word is printed: who reads it may send one
    try:
        address = await server.listen(address)
    except OSError as error:
        reason = error.strerror or error
        return fail(
            PROGRAM, f"cannot listen on {address}: {reason}. Choose another --port or --host, or end what listens there"
        )
    listens_on = address
    address = _as_others_see_it(address)
    everywhere = " and all other networks" if address != listens_on else ""
    print(f"{PROGRAM} {__version__} listens on {address}{everywhere}")
    if address.scheme == "tcp":
        access = access._replace(address=address)
        save_access(access)
    _tell_how_to_join(access, address)
    _tell_other_addresses(listens_on, address)
    if page is not None:
        here = dataclasses.replace(listens_on, host=ALL_NETWORKS.get(listens_on.host, listens_on.host))
        page.start(str(here), _options_of_client(access, options))
        print(f"  metrics      {page.link}", flush=True)
    systemd = Systemd(os.environ)
    systemd.ready()
    await server.stopped.wait()
    systemd.stopping()
    # Without a word if a signal has ended it: as after a crash, another one may soon be started in its place.
    await server.close("a client has shut the cluster down" if core.stopping else "")
    return 0


def _options_of_client(access: Access, options: argparse.Namespace) -> Iterator[str]:
    """How a program on this machine connects to this scheduler."""
    yield from ("--access-file", access.source)
    for option in ("tls_ca_file", "tls_cert", "tls_key"):
        if getattr(options, option) is not None:
            yield from (f"--{option.replace('_', '-')}", getattr(options, option))
    if options.no_encryption:
        yield "--no-encryption"


def _as_others_see_it(address: Address) -> Address:
    if address.host not in ALL_NETWORKS:
        return address
    return dataclasses.replace(address, host=host_for_others(":" in address.host))


def _tell_other_addresses(listens_on: Address, address: Address) -> None:
    """Of a machine with several networks, some machines may reach one address, and others another one."""
    if listens_on.host in ALL_NETWORKS:
        for network in networks_of(":" in listens_on.host):
            other = dataclasses.replace(address, host=network.address)
            if other != address:
                print(f"  also at      {other} ({network.interface})", flush=True)


def _tell_how_to_join(access: Access, address: Address) -> None:
    print(f"  access file  {access.source}")
    if address.scheme == "tcp":
        print(f"  give it to a machine:\n    {give_command(access)}")
    print(f'  workers      minidask-worker {address}\n  clients      minidask.Client("{address}")', flush=True)


def give_command(access: Access, machine: str = "ssh NODE") -> str:
    """The one command that gives an access file to another machine: into its usual place there.

    Args:
        access: what is in the file.
        machine: runs a command there.
    """
    there = "~/.local/state/minidask"
    command = f"umask 077; mkdir -p {there}; cat > {there}/access"
    return f"{machine} {shlex.quote(command)} < {shlex.quote(access.source)}"


def _renew(access_file: Path) -> int:
    access = load_or_create_access(access_file)._replace(secret=new_secret())
    save_access(access)
    print(f"{access.source} has a new secret. Give it to each machine again:\n  {give_command(access)}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run `minidask-scheduler` with these arguments, by default those of the command line. Returns its exit code."""
    options = _parse(arguments)
    unpickle_nothing()
    start_logging(options.log_level, form=options.log_format)
    sweep()
    access_file = Path(options.access_file) if options.access_file else default_access_file()
    try:
        if options.new_secret:
            return _renew(access_file)
        if options.host.startswith("unix:"):
            address = Address.parse(options.host)
        else:
            host = address_of_interface(options.interface) if options.interface else options.host
            host = f"[{host}]" if ":" in host else host
            address = Address.parse(f"tcp://{host}:{options.port}", port_zero=True)
        descriptors.check(0)  # first: without them an event loop cannot even say what it lacks
        descriptors.raise_limit()
        with contextlib.ExitStack() as stack:
            page = None
            if options.metrics_port is not None:
                page = stack.enter_context(
                    contextlib.closing(metrics.MetricsPage(options.metrics_host, options.metrics_port))
                )
            return run_loop(_serve(address, access_file, options, page))
    except (MinidaskError, ValueError, OSError) as error:
        return fail(PROGRAM, error)


if __name__ == "__main__":
    sys.exit(main())
