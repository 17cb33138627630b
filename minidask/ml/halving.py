"""Which model of a search is trained next, and how far: successive halving without waiting for each other.

    jobs(room) ─► Job(model, start, stop) ─► a worker trains and scores ─► done(job, score) ─► jobs(room) ─► …

At a rung the best `keep` of its models go on. That alone decides, never the order of arrival, so the outcome is the
same with any number of workers. Nobody waits for a whole rung, for two reasons:

- A model goes on as soon as it is *certain*: if all scores that are missing were better than its own, it would still be
  among the best `keep`.
- A worker for which there is no certain job trains the best model that may go on, on *speculation*. If that model does
  not go on, what it has learned there is in no result: it has cost time for which there was no other use.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Rung(NamedTuple):
    """After so many calls of `partial_fit`, the best `keep` models go on."""

    calls: int
    keep: int


class Job(NamedTuple):
    """A model is trained from so many calls to so many, and scored."""

    model: int
    start: int
    stop: int


class Bracket(NamedTuple):
    """Models that compete at the same rungs. At the last one they are ranked, and none goes on."""

    models: Sequence[int]
    rungs: Sequence[Rung]


def halving(models: Sequence[int], first: int, factor: float, most: int | None) -> Bracket:
    """Return the rungs of successive halving.

    Args:
        first: calls before the first rung.
        factor: of models one goes on, and is trained for `factor` times as many calls.
        most: calls of a model; None: until one is left.
    """
    rungs = list[Rung]()
    for step in range(len(models)):
        calls = round(first * factor**step)
        calls, keep = calls if most is None else min(calls, most), math.floor(len(models) * factor ** -(step + 1))
        rungs.append(Rung(calls, keep))
        if keep < 1 or calls == most:
            break
    return Bracket(models, rungs)


def hyperband(most: int, factor: int) -> list[Bracket]:
    """Return Hyperband's brackets, the one with the most models first."""
    depth = max(s for s in range(64) if factor**s <= most)
    brackets, used = list[Bracket](), 0
    for s in range(depth, -1, -1):
        n = math.ceil((depth + 1) * factor**s / (s + 1))
        brackets.append(halving(range(used, used + n), most // factor**s, factor, most))
        used += n
    return brackets


class Search:
    """The scores so far, and what follows from them.

    Args:
        brackets: of the search.
        every: calls between two scores; 0: models are scored at rungs alone.
        patience: a model is trained no further if its scores of so many calls are no better, by `tol`, than those
            before. Its last score counts at all further rungs. 0: never.
    """

    def __init__(self, brackets: Sequence[Bracket], every: int = 0, patience: int = 0, tol: float = 0.0) -> None:
        self.brackets = brackets
        self._every, self._patience, self._tol = every, patience, tol
        self.scores: dict[int, dict[int, float]] = {model: {} for bracket in brackets for model in bracket.models}
        """By model, the score after so many calls; also of what was trained on speculation."""
        self._running: set[int] = set()

    def done(self, job: Job, score: float) -> None:
        """Take the score of a job. A score that is no number is the worst."""
        self._running.discard(job.model)
        self.scores[job.model][job.stop] = -math.inf if math.isnan(score) else score

    def jobs(self, room: int) -> list[Job]:
        """Return jobs to be begun, where so many may be under way at once: certain ones first, of these the longest."""
        certain, possible = list[tuple[int, Job]](), list[tuple[float, Job]]()
        for bracket in self.brackets:
            for level, (calls, entrants, better) in enumerate(self._levels(bracket)):
                jobs = [self._job(m, calls) for m in entrants if m not in better]
                certain += [(job.start - calls, job) for job in jobs]
                following = bracket.rungs[level + 1 : level + 2]
                waiting = [m for m in better if self._undecided(bracket, level, better, m)]
                possible += [
                    (-self._at(m, calls), self._job(m, following[0].calls))
                    for m in waiting
                    if following and self._value(m, following[0].calls) is None
                ]
        found = [job for _, job in [*sorted(certain), *sorted(possible)] if job.model not in self._running]
        begun = found[: max(0, room - len(self._running))]
        self._running.update(job.model for job in begun)
        return begun

    def calls(self) -> dict[int, int]:
        """Return how far each model is trained as far as it counts: without what was speculation."""
        found = dict[int, int]()
        for bracket in self.brackets:
            for calls, entrants, _ in self._levels(bracket):
                found |= {m: max((c for c in self.scores[m] if c <= calls), default=0) for m in entrants}
        return found

    def best(self) -> int | None:
        """Return the model with the best score of those at the last rungs; None while the search goes on."""
        finalists = list[tuple[float, int]]()
        for bracket in self.brackets:
            *_, (calls, entrants, better) = self._levels(bracket)
            if len(better) < self._size(bracket, len(bracket.rungs) - 1):
                return None
            finalists += [(-self._at(m, calls), m) for m in entrants]
        return min(finalists)[1]

    def _levels(self, bracket: Bracket) -> Iterable[tuple[int, list[int], dict[int, int]]]:
        """For each rung: its calls, the models that certainly enter, and of those with a score how many are better."""
        entrants = list(bracket.models)
        for level, rung in enumerate(bracket.rungs):
            scored = [m for m in entrants if self._value(m, rung.calls) is not None]
            better = {m: i for i, m in enumerate(sorted(scored, key=lambda m: (-self._at(m, rung.calls), m)))}
            yield rung.calls, entrants, better
            missing = self._size(bracket, level) - len(better)
            entrants = [m for m, above in better.items() if above + missing < rung.keep]

    def _size(self, bracket: Bracket, level: int) -> int:
        """How many models enter a rung in the end."""
        return min([len(bracket.models), *(rung.keep for rung in bracket.rungs[:level])])

    def _undecided(self, bracket: Bracket, level: int, better: dict[int, int], model: int) -> bool:
        missing, keep = self._size(bracket, level) - len(better), bracket.rungs[level].keep
        return better[model] < keep <= better[model] + missing

    def _job(self, model: int, calls: int) -> Job:
        start = max(self.scores[model], default=0)
        step = start - start % self._every + self._every if self._every else calls
        return Job(model, start, min(step, calls))

    def _value(self, model: int, calls: int) -> float | None:
        """The score of a model at a rung; None if it has to be trained for that."""
        scores = self.scores[model]
        return scores[calls] if calls in scores else scores.get(self._stopped(model, calls))

    def _at(self, model: int, calls: int) -> float:
        value = self._value(model, calls)
        assert value is not None
        return value

    def _stopped(self, model: int, calls: int) -> int:
        """After how many calls, fewer than `calls`, patience was at its end; -1 if it is not."""
        points = sorted(c for c in self.scores[model] if c < calls)
        for point in points if self._patience else []:
            early = [self.scores[model][c] for c in points if c <= point - self._patience]
            late = [self.scores[model][c] for c in points if point - self._patience < c <= point]
            if early and max(late) <= max(early) + self._tol:
                return point
        return -1
