"""Which model of a search is trained next, and how far: successive halving without waiting for each other.

    jobs(room) ─► Job(model, start, stop) ─► a worker trains and scores ─► done(job, score) ─► jobs(room) ─► …

**What counts.** At a rung the best `keep` of all its models go on, whoever was ready first. So the outcome is the same
with any number of workers.

**Who is trained next.** Nobody waits for a whole rung:

- A model is *certain* to go on as soon as no score that is missing can change that.
- A worker for which no certain job is left promotes as ASHA does: the best model that its rung allows so far, at each
  rung, be that model certain to be there or not. What the whole rung does not confirm is in no result: it has cost time
  for which there was no other use.

ASHA lets each such promotion count, and has it before certain jobs. Then the outcome depends on who was ready first.
"""

from __future__ import annotations

import itertools
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


class _Level(NamedTuple):
    """A rung: which models are certain to enter it, which may, the best first, and which have a score there."""

    calls: int
    certain: set[int]
    possible: list[int]
    ranked: list[int]


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
        """Return jobs to be begun, where so many may be under way at once.

        Certain ones come first, the longest before others. Then come the models that a rung allows, the best first.
        """
        found = list[tuple[bool, int, Job]]()
        for bracket in self.brackets:
            for calls, certain, possible, _ in self._levels(bracket):
                for rank, model in enumerate(possible):
                    if self._value(model, calls) is None and model not in self._running:
                        job = self._job(model, calls)
                        found.append((model not in certain, job.start - calls if model in certain else rank, job))
        begun = [job for *_, job in sorted(found)][: max(0, room - len(self._running))]
        self._running.update(job.model for job in begun)
        return begun

    def calls(self) -> dict[int, int]:
        """Return how far each model is trained as far as it counts: without what the rungs did not confirm."""
        found = dict[int, int]()
        for bracket in self.brackets:
            for calls, certain, *_ in self._levels(bracket):
                found |= {m: max((c for c in self.scores[m] if c <= calls), default=0) for m in certain}
        return found

    def best(self) -> int | None:
        """Return the model with the best score of those at the last rungs; None while the search goes on."""
        finalists = list[tuple[float, int]]()
        for bracket in self.brackets:
            *_, (calls, certain, _, ranked) = self._levels(bracket)
            if len(certain.intersection(ranked)) < self._size(bracket, len(bracket.rungs) - 1):
                return None
            finalists += [(-self._at(m, calls), m) for m in certain]
        return min(finalists)[1]

    def _levels(self, bracket: Bracket) -> Iterable[_Level]:
        certain, possible = set(bracket.models), list(bracket.models)
        for level, rung in enumerate(bracket.rungs):
            scored = [m for m in possible if self._value(m, rung.calls) is not None]
            ranked = sorted(scored, key=lambda m: (-self._at(m, rung.calls), m))
            yield _Level(rung.calls, certain, possible, ranked)
            better = dict(zip(ranked, itertools.accumulate((m in certain for m in ranked), initial=0), strict=False))
            missing = self._size(bracket, level) - len(certain.intersection(ranked))
            possible = [m for m in ranked if better[m] < rung.keep]
            certain = {m for m in certain.intersection(ranked) if better[m] + missing < rung.keep}

    def _size(self, bracket: Bracket, level: int) -> int:
        """How many models enter a rung in the end."""
        return min([len(bracket.models), *(rung.keep for rung in bracket.rungs[:level])])

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
