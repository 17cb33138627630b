"""What `minidask-scheduler` and `minidask-worker` share: options, log lines, the event loop, an end on a signal."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from minidask._version import __version__
from minidask.host.sizes import parse_bytes
from minidask.host.texts import printable


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run a program's main coroutine and return its exit code.

    It runs on uvloop if that is installed, else on asyncio.
    """
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def unpickle_nothing() -> None:
    """Have this process find no class and no function for a pickle any more. There is no way back.

    The daemons pass pickles on, and never look into them. So whoever reaches a daemon runs no code there, not even by a
    fault of ours or of a library.
    """
    sys.addaudithook(_refuse_pickles)


def _refuse_pickles(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class":
        raise RuntimeError(f"this process unpickles nothing, but was given a pickle of {'.'.join(map(str, arguments))}")


def stop_on_signals(stopped: asyncio.Event, log: logging.Logger) -> None:
    """Have SIGTERM, SIGINT and SIGHUP set `stopped`, and log it. To be called in the event loop.

    SIGHUP says that the terminal has gone. Where `nohup` has had it ignored, it still is.
    """

    def stop(name: str) -> None:
        log.info("ending: got %s", name)
        stopped.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        advice = "SIGHUP, as its terminal has gone; to go on after a logout: nohup, or a service (docs/systemd/)"
        loop.add_signal_handler(signal.SIGHUP, stop, advice)


def drain_on_sigterm(drain: Callable[[], None], stopped: asyncio.Event, log: logging.Logger) -> None:
    """Have the first SIGTERM call `drain()`. A second SIGTERM, or SIGINT at any time, sets `stopped`."""
    stop_on_signals(stopped, log)
    signals = []

    def on_sigterm() -> None:  # one handler for both: while a handler is replaced, a signal may find none
        signals.append(True)
        if len(signals) > 1:
            stopped.set()
            return
        log.info("draining: got SIGTERM; this ends when what runs has ended, or at once on another signal")
        drain()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, on_sigterm)


def make_parser(program: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Make an argument parser with the options of both daemons: of the access file, of encryption, of logs."""
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
    for option, text in (
        ("--tls-ca-file", "certificates of an authority of your own, in PEM: the other side's must be signed by it"),
        ("--tls-cert", "this side's certificate, in PEM"),
        ("--tls-key", "the private key of --tls-cert, in PEM, without a password"),
    ):
        parser.add_argument(option, metavar="FILE", help=text)
    parser.add_argument(
        "--no-encryption",
        action="store_true",
        help="do not encrypt TCP connections: whoever is on the network can read and change all that goes over it,"
        " and so run code on the workers",
    )
    parser.add_argument(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help="debug names each message that comes or goes (default: %(default)s)",
    )
    parser.add_argument(
        "--log-format", default="text", choices=["text", "json"], help="json: an object a line (default: %(default)s)"
    )
    return parser


def bytes_option(text: str) -> int | None:
    """Read an option in bytes, as "4GiB"; None for "auto" and for 0.

    Raises:
        argparse.ArgumentTypeError: the text is none of these.
    """
    if text == "auto":
        return None
    try:
        return parse_bytes(text) or None
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def seconds_option(text: str) -> float:
    """Read an option in seconds: 0 or more, or "inf" for no limit.

    Raises:
        argparse.ArgumentTypeError: the text is no such number.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds: 0 or more, or inf")
    return seconds


def port_option(text: str) -> int:
    """Read an option that is a port: 0 to 65535.

    Raises:
        argparse.ArgumentTypeError: the text is no port.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 5) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")
    return int(text)


def start_logging(
    level: str, line: str = "%(asctime)s %(levelname)-7s %(name)s: %(message)s", form: str = "text"
) -> None:
    """Write log lines of this level and above to standard error, each with its time; as JSON if that is the `form`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter(line) if form == "text" else JSONFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


class JSONFormatter(logging.Formatter):
    """Makes a JSON object of each record: `time` (seconds since 1970), `level`, `logger`, `message`, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class PrintableFormatter(logging.Formatter):
    """Makes lines of which each is one: what others have sent can neither control a terminal nor forge a line."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line of a record, without its traceback."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Return the traceback of a record."""
        return printable(super().formatException(ei), keep="\n")


def fail(program: str, error: object) -> int:
    """Print why the program cannot go on, to standard error. Returns its exit code, 1."""
    print(printable(f"{program}: {error}", keep="\n"), file=sys.stderr)
    return 1
