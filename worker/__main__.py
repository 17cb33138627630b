"""`minidask-worker`: the command line of the worker program.

It reads options, and joins store, shell and connection.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

from minidask._version import __version__
from minidask.data.store import BlobStore
from minidask.errors import MinidaskError
from minidask.host import descriptors
from minidask.host.checks import MOST_WORKERS, is_module_name, resources_in
from minidask.host.program import (
    bytes_option,
    drain_on_sigterm,
    fail,
    make_parser,
    port_option,
    run_loop,
    seconds_option,
    start_logging,
    unpickle_nothing,
)
from minidask.host.resources import cpu_count, memory_total
from minidask.host.sizes import count, format_bytes
from minidask.host.systemd import Systemd
from minidask.net.access import default_access_file, load_access
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials
from minidask.net.tls_options import PLAIN_WARNING, tls_of_options, to_text
from minidask.task.context import SlotConfig

from .memory import MemoryLimits
from .reconnector import Reconnector
from .shell import WorkerShell
from .slotpool import ProcessSlot

PROGRAM = "minidask-worker"
DESCRIPTION = "Run tasks of the scheduler at ADDRESS on this machine, each in a process of its own."
EPILOG = """\
ADDRESS is host:port, tcp://host:port, unix:///path, or with IPv6 [host]:port; the port is 8786 if left out.

One such program is enough for a machine, whatever its number of cores. The client's own modules come with its tasks;
what is installed is imported here: install the same packages, and the same Python version, as where the client runs.

SIGTERM has it take nothing new and end when what runs has ended: what waits here goes back and runs elsewhere.
A second signal, or Ctrl-C (SIGINT), ends it now; what ran is run again elsewhere.

exit codes: 0 ended by a signal or a client, 1 could not start or lost the scheduler, 2 wrong usage
"""

log = logging.getLogger("minidask.worker")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = make_parser(PROGRAM, DESCRIPTION, EPILOG)
    parser.add_argument(
        "address",
        metavar="ADDRESS",
        type=_address,
        nargs="?",
        help="where the scheduler listens (default: what the access file says)",
    )
    parser.add_argument(
        "--nworkers",
        default="auto",
        type=_workers,
        metavar="N",
        help="tasks to run at once (default: the usable cores)",
    )
    parser.add_argument(
        "--resources",
        default={},
        type=_resources,
        metavar="NAME=AMOUNT,...",
        help="what this machine has beside those, as gpu=1,big=1: a task that needs some, submit(resources={'gpu': 1}),"
        " holds it while it runs; the names are yours",
    )
    parser.add_argument(
        "--memory-limit",
        default="auto",
        type=bytes_option,
        metavar="BYTES",
        help="what each of them may use, as 4GiB or 500M; 0: no limit; auto: only the machine's memory as a whole"
        " is guarded (default: auto)",
    )
    parser.add_argument(
        "--name", default=socket.gethostname(), help="what logs and output call it (default: %(default)s)"
    )
    parser.add_argument(
        "--blob-memory",
        type=bytes_option,
        default="auto",
        metavar="BYTES",
        help='shared memory for large data, in bytes or as "4GiB"; auto: a quarter of all (default: %(default)s)',
    )
    parser.add_argument(
        "--local-directory",
        type=_folder,
        metavar="FOLDER",
        help="where large data goes that finds no room in shared memory (default: the temporary folder)",
    )
    parser.add_argument(
        "--port",
        type=port_option,
        default=0,
        help="where other workers fetch large data, on the network of the scheduler (default: the kernel chooses)",
    )
    parser.add_argument(
        "--fresh-slots",
        action="store_true",
        help="replace a process that has worked for one client before it works for another, which takes a moment:"
        " what one has changed in a library, the other does not see",
    )
    parser.add_argument(
        "--preload",
        type=_module,
        action="append",
        default=[],
        metavar="MODULE",
        help="a module that each process imports when it starts, as sklearn.ensemble, so that no first call waits for"
        " that; may be given several times",
    )
    parser.add_argument(
        "--death-timeout",
        type=seconds_option,
        default=60.0,
        metavar="SECONDS",
        help="end after so long without a scheduler (default: %(default)g)",
    )
    return parser.parse_args(arguments)


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _address_in(access_file: str | None) -> Address:
    access = load_access(Path(access_file) if access_file else default_access_file())
    if access.address is None:
        raise MinidaskError(
            f"the access file {access.source} has no address: name the scheduler's, minidask-worker ADDRESS"
        )
    return access.address


def _workers(text: str) -> int:
    if text == "auto":
        return cpu_count()
    if not (text.isascii() and text.isdigit() and len(text) <= 9) or not 1 <= int(text) <= MOST_WORKERS:
        most = f"whole number above 0 and at most {MOST_WORKERS}"
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a {most}")
    return int(text)


def _module(text: str) -> str:
    if not is_module_name(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a module, as sklearn.ensemble is")
    return text


def _resources(text: str) -> dict[str, float]:
    try:
        return resources_in(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _folder(text: str) -> Path:
    folder = Path(text)
    if not text or not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder: make it first")
    return folder


async def _work(options: argparse.Namespace) -> int:
    systemd = Systemd(os.environ)  # before the slots take over the environment
    tls = tls_of_options(options)
    options.address = options.address or _address_in(options.access_file)
    credentials = Credentials.of(options.address, options.access_file, tls)
    if credentials.are_plain(options.address):
        log.warning(PLAIN_WARNING, options.address)
    limits = MemoryLimits(options.memory_limit, memory_total())
    store = BlobStore.make(options.local_directory, options.blob_memory)
    access_file, uid = str(options.access_file or ""), os.urandom(16).hex()
    preload = " ".join(options.preload)
    slot_config = SlotConfig(str(store.folder), str(options.address), access_file, to_text(tls), uid, preload)
    shell = WorkerShell(
        options.name, options.nworkers, ProcessSlot, limits, slot_config, store, credentials, options.fresh_slots,
        resources=options.resources,
    )  # fmt: skip
    await shell.listen(options.address, options.port)
    reconnector = Reconnector(shell, options.address, credentials, options.death_timeout)
    drain_on_sigterm(reconnector.drain, reconnector.stopped, log)  # before a word is printed: who reads it may send one
    limit = "the machine's" if limits.slot is None else f"{format_bytes(limits.slot)} each"
    has = "".join(f", {name}={amount:.15g}" for name, amount in options.resources.items())
    print(
        f"{PROGRAM} {__version__} {options.name!r}, process {os.getpid()}\n"
        f"  scheduler    {options.address}\n"
        f"  runs         {count(options.nworkers, 'task')} at once, memory: {limit}{has}",
        flush=True,
    )
    systemd.ready()
    try:
        await reconnector.run()
    finally:
        systemd.stopping()
        store.remove()
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run `minidask-worker` with these arguments, by default those of the command line. Returns its exit code."""
    options = _parse(arguments)
    unpickle_nothing()
    start_logging(options.log_level, form=options.log_format)
    try:
        descriptors.check(options.nworkers)  # first: without them an event loop cannot even say what it lacks
        descriptors.raise_limit()
        return run_loop(_work(options))
    except (MinidaskError, ValueError, OSError) as error:
        return fail(PROGRAM, error)


if __name__ == "__main__":
    sys.exit(main())
