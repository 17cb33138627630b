"""`minidask-watch`: the frames between programs and their scheduler, live."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import logging
import sys
from pathlib import Path

from minidask.errors import MinidaskError
from minidask.host.program import (
    fail,
    make_parser,
    port_option,
    run_loop,
    start_logging,
    stop_on_signals,
    unpickle_nothing,
)
from minidask.net.access import access_for, save_access
from minidask.net.addresses import Address
from minidask.net.credentials import Credentials
from minidask.net.tls_options import tls_of_options

from .owncluster import OwnCluster
from .relay import WatchRelay
from .sequence import CallSequence
from .session import Printer, Watching

PROGRAM = "minidask-watch"
DESCRIPTION = "Print each message between clients, workers and their scheduler, and where docs/protocol.md defines it."
EPILOG = """\
  minidask-watch -- python script.py      a cluster of its own, and the script on it
  minidask-watch node1:8786               prints an address: connect clients and workers there instead

In COMMAND, the words {address} and {access} become the address, and the path of the access file. A program of
minidask's finds both by itself.

It is a relay, as the holder of the access file; what is encrypted stays so on both sides. Calls that would go
by shared memory go in messages here. Nothing is unpickled.

exit codes: that of COMMAND; without one 0 ended by a signal; 1 no scheduler, or it has ended; 2 wrong usage
"""


def _parse(words: list[str]) -> argparse.Namespace:
    here = words.index("--") if "--" in words else len(words)
    parser = make_parser(PROGRAM, DESCRIPTION, EPILOG)
    parser.usage = f"{PROGRAM} [ADDRESS] [options] [-- COMMAND…]"
    parser.set_defaults(log_level="warning")
    parser.add_argument(
        "address", metavar="ADDRESS", nargs="?", help="where the scheduler listens (default: a cluster of its own)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="where programs are to connect (default: %(default)s)")
    parser.add_argument("--port", type=port_option, default=0, help="0 lets the kernel choose (default: %(default)s)")
    parser.add_argument("--nworkers", type=int, default=2, help="of a cluster of its own (default: %(default)s)")
    parser.add_argument("--sequence", metavar="FILE", help="at the end, draw one call as a sequence diagram, in SVG")
    parser.add_argument("--call", type=int, default=1, metavar="N", help="which one: the N-th (default: %(default)s)")
    parser.add_argument(
        "--slow", action="store_true", help="pass each message on when Enter is pressed; for a cluster of its own"
    )
    options = parser.parse_args(words[:here])
    options.command = words[here + 1 :]
    if options.address and options.slow:
        parser.error("--slow would have the scheduler at ADDRESS lose its workers: leave ADDRESS out")
    if not options.address and (options.access_file or options.tls_ca_file or options.tls_cert or options.tls_key):
        parser.error("--access-file and --tls-… are for the cluster at ADDRESS: name it")
    if options.nworkers < 1 or options.call < 1:
        parser.error("--nworkers and --call are 1 or more")
    return options


async def _watch(options: argparse.Namespace, sequence: CallSequence, stack: contextlib.ExitStack) -> int:
    stopped = asyncio.Event()
    stop_on_signals(stopped, logging.getLogger(__name__))
    own, access_file = None, options.access_file
    if options.address:
        scheduler = Address.parse(options.address)
    else:
        own = OwnCluster(*(["--no-encryption"] if options.no_encryption else []))
        stack.callback(own.close)
        scheduler, access_file = await own.start_scheduler(slow=options.slow), own.access_file
    access = access_for(scheduler, access_file)
    relay = WatchRelay(scheduler, Credentials(access, tls_of_options(options)))
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = await relay.start(Address.parse(f"tcp://{host}:{options.port}", port_zero=True))
    if own is not None:
        save_access(access._replace(address=address))  # for programs that find the scheduler by the file
    words = {"{address}": str(address), "{access}": access.source}
    printer, command = Printer(sys.stdout), [words.get(word, word) for word in options.command]
    watching = Watching(
        relay, address, access.source, own, options.nworkers, command, options.slow, printer, sequence, stopped
    )
    return await watching.run()


def main(arguments: list[str] | None = None) -> int:
    """Run `minidask-watch` with these arguments, by default those of the command line. Returns its exit code."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    unpickle_nothing()
    start_logging(options.log_level, form=options.log_format)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may have no arrows
    sequence = CallSequence(options.call)
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(_draw, options.sequence, sequence)
            return run_loop(_watch(options, sequence, stack))
    except (MinidaskError, ValueError, OSError) as error:
        return fail(PROGRAM, error)


def _draw(path: str | None, sequence: CallSequence) -> None:
    if path and sequence.arrows:
        Path(path).write_text(sequence.svg(), encoding="utf-8")
    elif path:
        print(f"{PROGRAM}: no such call was seen, so there is no {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
