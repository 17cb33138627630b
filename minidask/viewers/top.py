"""`minidask-top`: what a cluster does, in a terminal.

    Client.events() ─► ClusterState ─► screen ─► rich: each half second on the screen; once with `--once`, as JSON

Names and errors of others are shown as they are, never as markup, and can control no terminal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from minidask.client.eventreader import EventReader
from minidask.client.events import ClusterEvent
from minidask.client.glance import doing
from minidask.client.state import ClusterState
from minidask.errors import MinidaskError
from minidask.host.program import fail
from minidask.host.sizes import count, format_bytes
from minidask.host.texts import printable

from .options import connected, viewer_parser

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PROGRAM = "minidask-top"
DESCRIPTION = "Show what the cluster at ADDRESS does: its machines, what runs in each worker, what waits, what failed."
EPILOG = """\
ADDRESS is host:port, tcp://host:port or unix:///path. Ctrl-C ends it. The cluster does not notice: nothing is slower.

exit codes: 0 ended, 1 no scheduler answers or the connection was lost, 2 wrong usage
"""
REFRESH_SECONDS = 0.5
GATHER_SECONDS = 3.0
"""How long one table waits until each machine has told what it does, twice."""
MOST_FAILURES = 5
NO_RICH = "the table needs the package rich: pip install 'minidask[top]', or use --json"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = viewer_parser(PROGRAM, DESCRIPTION, EPILOG)
    parser.add_argument("--once", action="store_true", help="print one table, and end")
    parser.add_argument("--json", action="store_true", help="print one JSON object, and end")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run `minidask-top` with these arguments, by default those of the command line. Returns its exit code."""
    options = _parse(arguments)
    try:
        with connected(PROGRAM, options) as client, client.events() as events:
            state = ClusterState()
            if options.json:
                gather(state, events)
                print(json.dumps(state.as_dict(), indent=2, default=str))
            elif options.once or not sys.stdout.isatty():
                gather(state, events)
                _console().print(screen(state, client.address, time.time(), rows=None))
            else:
                _live(state, events, client.address)
            return 0 if not client.closed else fail(PROGRAM, client.shell.core.why_closed)
    except KeyboardInterrupt:
        return 0
    except ImportError:
        return fail(PROGRAM, NO_RICH)
    except (MinidaskError, ValueError, OSError) as error:
        return fail(PROGRAM, error)


def gather(state: ClusterState, events: EventReader, seconds: float = GATHER_SECONDS) -> None:
    """Take events until each machine has told what it does, twice; for so many seconds at most."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for event in events.get(left):
            state.take(event)
        if state.info and all(machine.rate is not None for machine in state.machines.values()):
            return


def _console() -> Console:
    from rich.console import Console  # noqa: PLC0415 - an extra

    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def _live(state: ClusterState, events: EventReader, address: str) -> None:
    from rich.live import Live  # noqa: PLC0415 - an extra

    console = _console()
    with Live(console=console, screen=True, auto_refresh=False) as live, contextlib.suppress(KeyboardInterrupt):
        shown = 0.0
        while True:
            batch = events.get(REFRESH_SECONDS)
            for event in batch:
                state.take(event)
            if time.monotonic() >= shown + REFRESH_SECONDS:
                shown = time.monotonic()
                live.update(screen(state, address, time.time(), rows=console.size.height), refresh=True)
            if not batch and events.closed:
                return


# --- what is shown ---


def screen(state: ClusterState, address: str, now: float, rows: int | None) -> RenderableType:
    """Return what is shown.

    Args:
        address: of the scheduler.
        now: the time.
        rows: how many lines there are; None: as many as it takes.
    """
    from rich.console import Group  # noqa: PLC0415 - an extra
    from rich.text import Text  # noqa: PLC0415

    failures = list(state.failures)[-MOST_FAILURES:]
    left = None if rows is None else rows - len(failures) - len(state.machines) - len(state.clients) - 16
    parts: list[RenderableType] = [Text(_title(state, address)), _machines(state), _workers(state, left)]
    if state.clients:
        parts.append(_clients(state))
    if failures:
        parts.append(_failures(state, failures))
    if state.missed:
        parts.append(Text(f"{count(state.missed, 'event')} left out", style="yellow"))
    return Group(*parts)


def _title(state: ClusterState, address: str) -> str:
    machines = state.machines.values()
    busy, size = sum(machine.busy for machine in machines), sum(machine.size for machine in machines)
    queued, finished = state.tasks.get("queued", 0), state.tasks.get("finished", 0)
    workers = f"{busy} of {count(size, 'worker')} busy"
    return f"minidask at {address}: {count(len(machines), 'machine')}, {workers}, {queued} waiting, {finished} finished"


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table  # noqa: PLC0415 - an extra

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold")
    for column in columns:
        left = column in ("machine", "call", "client", "what", "error")
        table.add_column(column, justify="left" if left else "right", no_wrap=True, overflow="ellipsis")
    return table


def _add(table: Any, *cells: object) -> None:
    from rich.text import Text  # noqa: PLC0415 - an extra

    table.add_row(*(Text(printable(str(cell))) for cell in cells))


def _machines(state: ClusterState) -> Any:
    table = _table("\nmachines", "machine", "busy", "cpu", "memory", "store", "in", "out", "calls/s", "calls", "failed")
    for machine in sorted(state.machines.values(), key=lambda machine: machine.name):
        usage = machine.usage
        memory = f"{_bytes(usage.get('memory'))} of {_bytes(usage.get('memory_total'))}" if usage else "?"
        rate = "?" if machine.rate is None else f"{machine.rate:.3g}"
        cpu = f"{usage['cpu']:.0f} %" if "cpu" in usage else "?"
        network = [f"{_bytes(usage.get(way))}/s" for way in ("received", "sent")]
        busy = f"{machine.busy}/{machine.size}"
        _add(table, machine.name, busy, cpu, memory, _bytes(usage.get("store")), *network, rate, machine.over,
             machine.failed)  # fmt: skip
    return table


def _workers(state: ClusterState, most: int | None) -> Any:
    """The workers that run or import something, those first that have for the longest; and how many do nothing."""
    pairs = [(machine, worker) for machine in state.machines.values() for worker in machine.workers.values()]
    busy = sorted((pair for pair in pairs if doing(pair[1])), key=lambda pair: -pair[1].seconds)
    shown = busy if most is None else busy[: max(3, most)]
    idle, more = len(pairs) - len(busy), len(busy) - len(shown)
    title = f"\nworkers: {idle} idle" + (f", {more} more that are busy" if more else "")
    table = _table(title, "machine", "worker", "for", "memory", "calls", "failed", "call")
    for machine, worker in shown:
        memory = _bytes(worker.memory) if worker.memory else "?"
        over, failed = worker.info["over"], worker.info["failed"]
        _add(table, machine.name, worker.worker, _seconds(worker.seconds), memory, over, failed, doing(worker))
    return table


def _clients(state: ClusterState) -> Any:
    table = _table("\nclients", "client", "waiting", "running", "finished", "failed", "within")
    for client in state.clients.values():
        if not str(client.get("name", "")).startswith(PROGRAM):
            within = client.get("nested") or {}
            numbers = [client.get(key, 0) for key in ("queued", "running", "finished", "failed")]
            _add(table, client.get("name", ""), *numbers, within.get("submitted", 0))
    return table


def _failures(state: ClusterState, failures: Iterable[ClusterEvent]) -> Any:
    table = _table("\nfailures", "at", "machine", "what", "error")
    for event in failures:
        machine = state.machines.get(event.machine)
        where = machine.name if machine is not None else event.machine
        at = time.strftime("%H:%M:%S", time.localtime(event.time))
        what = f"machine {event.name}" if event.kind == "machine-left" else f"{event.name} {event.how}"
        _add(table, at, where, what, event.text)
    return table


def _bytes(value: object) -> str:
    return format_bytes(int(value)) if isinstance(value, int | float) and 0 <= value < 1e18 else "?"


def _seconds(seconds: float) -> str:
    """A duration for people: 0.3 s, 12 s, 4:05, 1:02:03."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


if __name__ == "__main__":
    sys.exit(main())
