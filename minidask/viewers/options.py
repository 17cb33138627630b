"""What all programs that show a cluster have in common: where it is, and how they connect."""

from __future__ import annotations

import argparse

from minidask._version import __version__
from minidask.client.client import Client
from minidask.client.places import address_in, address_of_environment
from minidask.host.program import make_parser
from minidask.net.access import default_access_file
from minidask.net.tls_options import tls_of_options


def viewer_parser(program: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Make an argument parser for a program that shows the cluster at ADDRESS."""
    parser = make_parser(program, description, epilog)
    parser.add_argument(
        "address",
        metavar="ADDRESS",
        nargs="?",
        help="where the scheduler listens (default: $MINIDASK_SCHEDULER, else what the access file says)",
    )
    parser.set_defaults(log_level="warning")
    return parser


def connected(program: str, options: argparse.Namespace) -> Client:
    """Connect to the cluster that the options name.

    Raises:
        ValueError: an option makes no sense.
        MinidaskError: there is no scheduler, or it refuses.
    """
    access_file = options.access_file
    address = options.address or address_of_environment() or address_in(access_file or default_access_file())
    name = f"{program} {__version__}"
    return Client(address, access_file=access_file, tls=tls_of_options(options), name=name, forward_output=False)
