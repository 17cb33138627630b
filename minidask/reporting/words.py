"""What held a run back, in a few plain sentences. Pure.

The sentences follow from the figures alone: each has a threshold, and the largest loss comes first.
"""

from __future__ import annotations

from collections.abc import Callable

from minidask.host.sizes import count

from .figures import Figures, MachineFigures

WELL = 0.85
"""From this share on workers were busy."""
MUCH = 0.1
"""A loss below this share of the capacity is not worth a sentence."""
MOST_LOSSES = 2
SHORT_SECONDS = 0.005
LONGER = 1.5
SLOW = 1.3
WAITED = 0.5
"""Calls that had a processor for less than this share of their time have waited for something else."""
FULL = 0.9

HOW = {
    "raised": "raised an error, or were stopped",
    "given up": "were given up, as their processes had died",
    "stopped": "were stopped",
    "lost": "were lost",
    "fail": "failed",
}


def sentences(run: Figures) -> list[str]:
    """Return what held a run back, the most important sentence first, and then what else is to be known."""
    if not run.calls:
        return ["No call ran on the cluster meanwhile.", *_missed(run)]
    return [*_speed(run), *_machines(run), *_cpu(run), *_failures(run), *_missed(run)]


def share(part: float, whole: float) -> str:
    """A share in percent, as "31 %"."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.0f} %" if percent >= 1 or percent <= 0 else "less than 1 %"


def seconds(number: float) -> str:
    """Seconds for people to read: "0.4 ms", "1.25 s", "3 min 5 s"."""
    if number >= 3600:
        return f"{int(number / 3600)} h {int(number / 60) % 60} min"
    if number >= 99.95:
        return f"{int(number / 60)} min {int(number) % 60} s"
    if number >= 9.995:
        return f"{number:.1f} s"
    if number >= 0.9995:
        return f"{number:.2f} s"
    if number >= 0.0000995:
        return f"{number * 1000:.3g} ms"
    return f"{number * 1e6:.2g} µs" if number else "0 s"


def number(value: float) -> str:
    """How many workers, on average: "3", "2.4"."""
    return f"{value:.1f}" if value < 9.95 and abs(value - round(value)) >= 0.1 else f"{value:.0f}"


def _speed(run: Figures) -> list[str]:
    found = []
    lost = run.lost
    losses: list[tuple[float, Callable[[Figures], str]]] = [(lost.before, _before), (lost.after, _after)]
    if run.typical < SHORT_SECONDS:
        losses.append((lost.few + lost.none + lost.between, _short))
    else:
        losses += [(lost.few, _few), (lost.none, _none), (lost.between, _between)]
    for loss, sentence in sorted(losses, key=lambda pair: -pair[0])[:MOST_LOSSES]:
        if loss >= MUCH * run.capacity:
            found.append(sentence(run))
    if not found:
        busy = f"The workers had work {share(run.work, run.capacity)} of the time"
        longest = run.longest[0].seconds
        if run.ideal > LONGER * run.work / max(run.workers, 1e-9):
            busy += f"; no number of workers makes it shorter than the longest call, {seconds(longest)}."
        elif run.busy >= WELL:
            busy += ": more workers, or faster calls, are what would make it shorter."
        else:
            busy += "; what is lost has no one cause."
        found.append(busy)
    if run.warming >= MUCH * run.capacity and run.first_calls:
        each = seconds(run.warming / run.first_calls)
        text = f"The first calls in {count(run.first_calls, 'worker')} took {each} longer than later ones, on average"
        found.insert(0, f"{text}: they import modules and load data, which later calls find there.")
    return found


def _few(run: Figures) -> str:
    few = run.few
    text = (
        f"{share(few.seconds, run.seconds)} of the time only {number(few.busy)} of {number(few.size)} workers had work"
    )
    name, calls = _name(few.name), few.calls
    if few.ratio >= LONGER and calls:
        which = f"the {calls} calls of {name} that ran then took" if calls > 1 else f"one call of {name} took"
        return f"{text}: {which} {few.ratio:.1f} × the median of the others."
    if few.of < run.workers:
        return f"{text}: there were only {count(few.of, 'call')} of {name}."
    if calls and calls < few.size and calls < few.of / 2:
        return f"{text}: the {calls} of {few.of} calls of {name} that ran then had begun when few others were left."
    more = ", or calls within them" if run.nested else ""
    return f"{text}, mostly with calls of {name}: no more of them could run at once{more}; see n_jobs and pre_dispatch."


def _none(run: Figures) -> str:
    when = sum(s.seconds for s in run.segments[_first(run) : _last(run)] if not s.busy)
    text = f"{share(when, run.seconds)} of the time no call ran at all, between the first and the last one"
    return f"{text}: your program was at work by itself between its calls{_program(run)}."


def _before(run: Figures) -> str:
    when = run.segments[_first(run)].began
    text = f"The first call began after {seconds(when)}, {share(when, run.seconds)} of the time"
    return f"{text}: what your program did before, pickling for example, was not shared out{_program(run)}."


def _after(run: Figures) -> str:
    when = run.seconds - run.segments[_last(run)].ended
    text = f"After the last call your program went on for {seconds(when)} by itself, {share(when, run.seconds)} of"
    return f"{text} the time: a refit, say, is not shared out."


def _short(run: Figures) -> str:
    part = share(run.lost.few + run.lost.none + run.lost.between, run.capacity)
    text = f"{part} of the workers' time was lost between calls, which are short, {seconds(run.typical)}"
    return f"{text}: more work in each would help."


def _between(run: Figures) -> str:
    text = f"{share(run.lost.between, run.capacity)} of the workers' time was lost between calls"
    if run.program_cpu >= FULL * run.seconds:
        return f"{text}: your program, which pickles arguments and reads results, had no processor to spare."
    if run.on_the_way.median > run.median / 2:
        return f"{text}: each took {seconds(run.on_the_way.median)} to reach a worker with its data."
    return f"{text}: they waited for the next one."


def _machines(run: Figures) -> list[str]:
    def slow(machine: MachineFigures) -> bool:
        return machine.pace >= SLOW

    text = "{} took {:.1f} × as long as all machines for the same calls."
    return [text.format(_name(m.name), m.pace) for m in sorted(run.machines, key=lambda m: -m.pace)[:2] if slow(m)]


def _cpu(run: Figures) -> list[str]:
    if not 0 <= run.calls_cpu < WAITED or run.typical < SHORT_SECONDS:
        return []
    cpu = [machine.cpu for machine in run.machines if machine.calls and machine.cpu >= 0]
    within = ", calls within them" if run.nested else ""
    text = (
        f"Calls had a processor for {run.calls_cpu * 100:.0f} % of their time, and else waited: for files, the network"
    )
    if cpu and min(cpu) >= FULL:
        return [f"{text}{within}, a lock, or a processor, as the machines had none to spare."]
    return [f"{text}{within}, or a lock."]


def _failures(run: Figures) -> list[str]:
    found = []
    for how, calls in sorted(run.failed.items(), key=lambda pair: -pair[1]):
        if how == "machine lost":
            found.append(f"{count(calls, 'machine')} was lost with what it ran." if calls == 1
                         else f"{count(calls, 'machine')} were lost with what they ran.")  # fmt: skip
        elif how == "died":
            found.append(f"{count(calls, 'time')} a call lost the process that ran it.")
        else:
            what = HOW.get(how, f"ended so: {how}").replace("were", "was" if calls == 1 else "were")
            what = what.replace("their processes", "its process") if calls == 1 else what
            found.append(f"{count(calls, 'call')} {what}.")
    return found


def _missed(run: Figures) -> list[str]:
    found = []
    if run.missed:
        what = count(run.missed, "event") if run.missed == 1 else f"{run.missed:,} events"
        found.append(f"{what} or calls were left out, as there were too many: figures are too low.")
    if not run.whole:
        found.append("Not all machines have told what they did until the end: figures are too low.")
    return found


def _program(run: Figures) -> str:
    if run.program_cpu < MUCH * run.seconds:
        return ""
    return f" (it used {seconds(run.program_cpu)} of a processor)"


def _first(run: Figures) -> int:
    return next(number for number, segment in enumerate(run.segments) if segment.busy)


def _last(run: Figures) -> int:
    return len(run.segments) - 1 - next(n for n, segment in enumerate(reversed(run.segments)) if segment.busy)


def _name(name: str) -> str:
    return name or "a function without a name"
