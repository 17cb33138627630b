"""The page of a report: figures and sentences in, HTML out. Pure.

It is one file that asks nobody for anything, without scripts. Names and errors are others': all text is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from minidask.host.sizes import count, format_bytes
from minidask.host.texts import printable

from .figures import Figures, MachineFigures, NameFigures, Segment
from .history import Call
from .words import number, seconds, sentences, share

WIDTH = 1000
"""Of all pictures. The style sheet has the height of a bar."""
BUSY_HEIGHT = 120
LANE_HEIGHT = 12
MOST_LANES = 128
MOST_BARS = 12_000
MOST_STEPS = 1500
MOST_COLOURS = 12
MOST_FAILURES = 20
MOST_NAMES = 30
MOST_MACHINES = 200
TITLE_CHARACTERS = 200
TEXT_CHARACTERS = 1000
NONE = "–"


class Stretch(NamedTuple):
    """Calls in one worker, one after another, as one bar of the picture.

    Attributes:
        name: of the longest one, which took `most` seconds.
        failed: whether one of them has.
        mixed: whether there are others of another name.
    """

    name: str
    began: float
    ended: float
    calls: int
    failed: bool
    most: float
    mixed: bool


def page(run: Figures, title: str, when: str, style: str) -> str:
    """Return the page.

    Args:
        title: what was run.
        when: the date and time of its beginning.
        style: the style sheet.
    """
    first, *others = sentences(run)
    colours = {name.name: f"c{place}" for place, name in enumerate(run.names[:MOST_COLOURS])}
    parts = [
        f"<h1>{_text(title, TITLE_CHARACTERS)}</h1>",
        f'<p class="muted">{_text(when)}</p>',
        f'<section id="why"><p class="first">{_text(first)}</p>',
        *(f"<p>{_text(sentence)}</p>" for sentence in others),
        "</section>",
        _cards(run),
    ]
    if run.calls:
        parts += [_busy_picture(run), _lanes_picture(run, colours), _losses(run), _names(run, colours), _longest(run)]
    parts += [_machines(run), _waits(run), _failures(run)]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{_text(title, TITLE_CHARACTERS)}</title>\n<style>\n{style}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _text(text: object, most: int = TEXT_CHARACTERS) -> str:
    """Text of anybody's as HTML: it is shown as it is, in content and in attributes."""
    shown = printable(str(text))
    return html.escape(shown if len(shown) <= most else shown[: most - 1] + "…", quote=True)


def _cards(run: Figures) -> str:
    beside = f"ideal {seconds(run.ideal)}" if run.calls else ""
    failed = sum(run.failed.values())
    cards = [
        ("took", seconds(run.seconds), beside),
        ("workers had work", share(run.work, run.capacity), f"of {number(run.workers)} workers' time"),
        ("calls", f"{run.calls:,}", f"median {seconds(run.median)}" if run.calls else ""),
        ("failures", f"{failed:,}", ""),
    ]
    if run.program_cpu >= 0:
        cards.append(("your program", seconds(run.program_cpu), "of a processor: pickling, and its own code"))
    shown = (f"<div><dt>{_text(what)}</dt><dd>{_text(value)}</dd><small>{_text(more)}</small></div>"
             for what, value, more in cards)  # fmt: skip
    return f'<dl class="cards">{"".join(shown)}</dl>'


# --- pictures ---


def _busy_picture(run: Figures) -> str:
    most = max(segment.size for segment in run.segments) or 1
    steps = _thinned(run.segments, run.seconds / MOST_STEPS)
    x, y = WIDTH / (run.seconds or 1), BUSY_HEIGHT / most
    path = "".join(f"V{BUSY_HEIGHT - busy * y:.1f}H{ended * x:.1f}" for ended, busy, _ in steps)
    line = "".join(f"V{BUSY_HEIGHT - size * y:.1f}H{ended * x:.1f}" for ended, _, size in steps)
    begins = f"M0 {BUSY_HEIGHT - (steps[0][2] * y):.1f}"
    return (
        f"<h2>Workers with a call, of {most}</h2>"
        f'<svg viewBox="0 -4 {WIDTH} {BUSY_HEIGHT + 22}" role="img" aria-label="Workers with a call, over time">'
        f'{_axis(run.seconds, BUSY_HEIGHT)}<path class="area" d="M0 {BUSY_HEIGHT}{path}V{BUSY_HEIGHT}Z"/>'
        f'<path class="line" d="{begins}{line}"/></svg>'
    )


def _thinned(segments: Sequence[Segment], least: float) -> list[tuple[float, float, float]]:
    """When each step ends, how many workers were busy in it and how many there were: averages of what is too short."""
    found: list[tuple[float, float, float]] = []
    began = busy = size = 0.0
    for place, segment in enumerate(segments):
        busy += segment.busy * segment.seconds
        size += segment.size * segment.seconds
        passed = segment.ended - began
        if passed >= least or (place == len(segments) - 1 and passed > 0):
            found.append((segment.ended, busy / passed, size / passed))
            began, busy, size = segment.ended, 0.0, 0.0
    return found or [(1.0, 0.0, 0.0)]


def _axis(whole: float, at: float) -> str:
    step = next((s for s in _nice(whole) if whole / s <= 10), whole or 1.0)
    ticks = []
    for place in range(int(whole / step + 1e-9) + 1):
        x = place * step / (whole or 1) * WIDTH
        anchor = "start" if x < 20 else "end" if x > WIDTH - 20 else "middle"
        ticks.append(
            f'<path class="tick" d="M{x:.1f} 0V{at}"/>'
            f'<text x="{x:.1f}" y="{at + 14}" text-anchor="{anchor}">{_text(seconds(round(place * step, 6)))}</text>'
        )
    return "".join(ticks)


def _nice(whole: float) -> Iterable[float]:
    for power in range(-6, 9):
        yield from (10.0**power, 2 * 10.0**power, 5 * 10.0**power)
    yield whole


def _lanes_picture(run: Figures, colours: dict[str, str]) -> str:
    order = {machine: place for place, machine in enumerate(dict.fromkeys(lane[0] for lane in sorted(run.spans)))}
    lanes = sorted(run.spans, key=lambda lane: (order[lane[0]], lane[1]))
    shown = lanes[:MOST_LANES]
    least = run.seconds / max(100.0, min(float(WIDTH), MOST_BARS / len(shown)))
    x, height, rows = WIDTH / (run.seconds or 1), len(shown) * LANE_HEIGHT, []
    for place, lane in enumerate(shown):
        bars = "".join(_rectangle(bar, x, colours) for bar in _bars(run.spans[lane], least))
        rows.append(f'<g transform="translate(0 {place * LANE_HEIGHT + 1})">{bars}</g>')
    named = list(colours.items())
    if len(run.names) > len(named):
        named.append(("others", "other"))
    if any(figures.failed for figures in run.names):
        named.append(("failed", "bad"))
    legend = "".join(f'<li><i class="{kind}"></i>{_text(name, TITLE_CHARACTERS)}</li>' for name, kind in named)
    more = f'<p class="muted">The first {len(shown)} of {len(lanes)} workers.</p>' if len(lanes) > len(shown) else ""
    return (
        f'<h2>What ran in each worker</h2><ul class="legend">{legend}</ul>'
        f'<svg viewBox="0 0 {WIDTH} {height + 18}" role="img" aria-label="A row for each worker, with its calls">'
        f"{_axis(run.seconds, height)}{''.join(rows)}</svg>{more}"
    )


def _rectangle(bar: Stretch, x: float, colours: dict[str, str]) -> str:
    kind = "bad" if bar.failed else colours.get(bar.name, "other")
    took = seconds(bar.ended - bar.began)
    many = f"{count(bar.calls, 'call')} in {took}" if bar.calls > 1 else took
    name = f"{bar.name} and others" if bar.mixed else bar.name
    title = _text(f"{name}: {many}{', failed' if bar.failed else ''}", TITLE_CHARACTERS)
    width = (bar.ended - bar.began) * x
    width = max(0.6, width - 0.8 if width > 3 else width)  # a gap between two calls, if there is room
    return f'<rect class="{kind}" x="{bar.began * x:.1f}" width="{width:.1f}"><title>{title}</title></rect>'


def _bars(calls: Sequence[Call], least: float) -> Iterable[Stretch]:
    """Calls as bars. What is shorter than can be seen is put together, and shown as what took most of it; so are calls
    of one name, up to four times as much. The inner ones of calls within calls come last, so that they are seen."""
    bar: Stretch | None = None
    for call in sorted(calls, key=lambda call: (call.began, -call.ended)):
        if bar is not None and _belong_together(bar, call, least):
            longer = call.name if call.seconds > bar.most else bar.name
            bar = Stretch(longer, bar.began, max(bar.ended, call.ended), bar.calls + 1, bar.failed or call.failed,
                          max(bar.most, call.seconds), bar.mixed or call.name != bar.name)  # fmt: skip
            continue
        if bar is not None:
            yield bar
        bar = Stretch(call.name, call.began, call.ended, 1, call.failed, call.seconds, False)
    if bar is not None:
        yield bar


def _belong_together(bar: Stretch, call: Call, least: float) -> bool:
    seconds = call.ended - bar.began
    alike = (bar.name, bar.failed, bar.mixed) == (call.name, call.failed, False)
    return seconds <= least or (alike and seconds <= 4 * least and bar.ended >= call.began - least / 2 and (
        bar.ended <= call.ended
    ))  # fmt: skip


# --- tables ---


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 1) -> str:
    """A table; its cells are HTML. From the column `numbers` on they are numbers."""
    lines = [
        "<tr>" + "".join(f"<td{' class=n' if place >= numbers else ''}>{cell}</td>" for place, cell in enumerate(row))
        + "</tr>"
        for row in rows
    ]  # fmt: skip
    if not lines:
        return ""
    heads = "".join(f"<th{' class=n' if place >= numbers else ''}>{_text(h)}</th>" for place, h in enumerate(head))
    return f'<h2>{_text(title)}</h2><div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'  # noqa: E501


def _losses(run: Figures) -> str:
    lost = run.lost
    rows = [
        ("a call ran", run.work),
        ("half of the workers or fewer had a call", lost.few),
        ("between calls, while most workers had one", lost.between),
        ("no call ran, between the first and the last one", lost.none),
        ("before the first call", lost.before),
        ("after the last call", lost.after),
    ]
    cells = (
        (_text(what), f'<meter min="0" max="1" value="{time / (run.capacity or 1):.3f}"></meter>',
         share(time, run.capacity), seconds(time))
        for what, time in rows
    )  # fmt: skip
    return _table("Where the workers' time went", ("", "", "share", "worker time"), cells, 2)


def _names(run: Figures, colours: dict[str, str]) -> str:
    head = ("function", "calls", "failed", "in all", "median", "longest", "processor", "stragglers (> 3 × median)")
    return _table("Functions", head, (_name_row(f, colours) for f in run.names[:MOST_NAMES]))


def _name_row(f: NameFigures, colours: dict[str, str]) -> Sequence[str]:
    return (
        f'<i class="{colours.get(f.name, "other")}"></i>{_name(f.name)}',
        f"{f.calls:,}",
        f"{f.failed:,}" if f.failed else NONE,
        seconds(f.seconds),
        seconds(f.median),
        seconds(f.longest),
        share(f.cpu, 1) if f.cpu >= 0 else NONE,
        f"{f.stragglers:,} (+{seconds(f.beyond)})" if f.stragglers else NONE,
    )


def _longest(run: Figures) -> str:
    medians = {figures.name: figures.median for figures in run.names}
    names = _machine_names(run)
    rows = []
    for call in run.longest:
        where = f"{names.get(call.lane[0], call.lane[0])}, worker {call.lane[1]}"
        times = f"{call.seconds / medians[call.name]:.1f} ×" if medians[call.name] else NONE
        rows.append((_name(call.name), _text(where), seconds(call.began), seconds(call.seconds), times))
    return _table("The longest calls", ("function", "where", "began at", "took", "of the median"), rows, 2)


def _machines(run: Figures) -> str:
    head = ("machine", "workers", "calls", "failed", "busy", "processors", "most memory", "data fetched", "pace")
    return _table("Machines", head, (_machine_row(machine) for machine in run.machines[:MOST_MACHINES]))


def _machine_row(m: MachineFigures) -> Sequence[str]:
    return (
        _text(m.name),
        f"{m.workers}",
        f"{m.calls:,}",
        f"{m.failed:,}" if m.failed else NONE,
        share(m.busy, 1),
        share(m.cpu, 1) if m.cpu >= 0 else NONE,
        format_bytes(m.memory) if m.memory else NONE,
        f"{format_bytes(m.fetched)} in {m.fetches}" if m.fetches else NONE,
        f"{m.pace:.2f} ×" if m.pace else NONE,
    )


def _waits(run: Figures) -> str:
    rows = [
        ("until a worker was there for it", run.queued),
        ("on the way: with its data, and behind others in its worker", run.on_the_way),
    ]
    cells = [(_text(what), f"{w.tasks:,}", seconds(w.median), seconds(w.longest)) for what, w in rows if w.tasks]
    if run.first_calls:
        text = "what first calls in workers took longer than later ones: imports, mostly"
        cells.append((_text(text), f"{run.first_calls:,}", seconds(run.warming / run.first_calls), NONE))
    return _table("What tasks waited for", ("", "tasks", "median", "longest"), cells)


def _failures(run: Figures) -> str:
    names = _machine_names(run)
    rows = (
        (_name(f.name), _text(f.how), _text(names.get(f.machine, f.machine)), _text(f.text))
        for f in run.failures[:MOST_FAILURES]
    )
    total = sum(run.failed.values())
    title = "Failures" if total <= MOST_FAILURES else f"Failures: the first {MOST_FAILURES} of {total:,}"
    return _table(title, ("function", "how", "machine", "error"), rows, 9)


def _machine_names(run: Figures) -> dict[str, str]:
    return {machine.address: machine.name for machine in run.machines}


def _name(name: str) -> str:
    return _text(name or "(no name)", TITLE_CHARACTERS)
