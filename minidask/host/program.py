"""What the programs share: their event loop, log lines, and a clean end on a signal."""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from minidask._version import __version__


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run an asyncio program on uvloop, or on asyncio's own loop where that is not installed; returns its exit code."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def stop_on_signals(stopped: asyncio.Event, log: logging.Logger) -> None:
    """Have SIGTERM and SIGINT set `stopped`."""

    def stop(name: str) -> None:
        log.info("ending: got %s", name)
        stopped.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)


def drain_on_sigterm(drain: Callable[[], None], stopped: asyncio.Event, log: logging.Logger) -> None:
    """Have a first SIGTERM call `drain`; a second one, or SIGINT at any time, sets `stopped`."""
    stop_on_signals(stopped, log)
    signals = []

    def on_sigterm() -> None:  # one for both: where a handler is replaced, a signal may find none
        signals.append(True)
        if len(signals) > 1:
            stopped.set()
            return
        log.info("draining: got SIGTERM; this ends when what runs has ended, or at once on another signal")
        drain()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, on_sigterm)


def make_parser(program: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """An argument parser with what both daemons take."""
    parser = argparse.ArgumentParser(
        program, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"{program} {__version__}")
    parser.add_argument(
        "--access-file",
        metavar="PATH",
        help="the file with the secret that scheduler, workers and clients share"
        " (default: $MINIDASK_ACCESS_FILE, else minidask/access in the user's state directory, ~/.local/state)",
    )
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"], help="default: %(default)s"
    )
    return parser


def seconds_option(text: str) -> float:
    """An option's seconds, 0 or more; "inf" for ever.

    Raises:
        argparse.ArgumentTypeError: these are none.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds: 0 or more, or inf")
    return seconds


def port_option(text: str) -> int:
    """An option's port.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 5) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")
    return int(text)


def start_logging(level: str) -> None:
    """Write log lines to standard error, each with its time."""
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )


def fail(program: str, error: object) -> int:
    """Say why the program cannot go on; returns the exit code."""
    print(f"{program}: {error}", file=sys.stderr)
    return 1
