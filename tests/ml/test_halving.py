"""Successive halving on virtual time: the outcome is that of waiting at each rung, and no worker idles."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidask.ml.halving import Bracket, Job, Rung, Search, halving, hyperband

Score = Callable[[int, int], float]


def run(search: Search, score: Score, workers: int, duration: Callable[[Job], float]) -> tuple[float, float]:
    """Run a search on virtual workers; return when it was over, and how long they were busy by then, in all."""
    now, number, queue = 0.0, 0, list[tuple[float, int, float, Job]]()
    busy = 0.0
    while search.best() is None:
        for job in search.jobs(workers):
            number += 1
            heapq.heappush(queue, (now + duration(job), number, now, job))
        assert queue, "nobody works, and the search is not over"
        now, _, begun, job = heapq.heappop(queue)
        busy += now - begun
        search.done(job, score(job.model, job.stop))
    return now, busy + sum(now - begun for _, _, begun, _ in queue)


def learning(seed: int) -> Score:
    """Curves that cross: each model has its own limit and speed."""

    def score(model: int, calls: int) -> float:
        rng = random.Random(f"{seed} {model}")
        return rng.random() * (1 - rng.uniform(0.5, 0.99) ** calls)

    return score


def with_waiting(brackets: list[Bracket], score: Score) -> tuple[int, dict[int, int]]:
    """The best model, and the calls of each: by the book, rung by rung."""
    calls, finalists = dict[int, int](), list[tuple[float, int]]()
    for models, rungs in brackets:
        alive = list(models)
        for rung in rungs:
            calls |= dict.fromkeys(alive, rung.calls)
            ranked = sorted(alive, key=lambda m: (-score(m, rung.calls), m))
            finalists = finalists if rung is not rungs[-1] else finalists + [(-score(m, rung.calls), m) for m in alive]
            alive = ranked[: rung.keep]
    return min(finalists)[1], calls


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([9, 27, 81]), st.sampled_from([2, 3, 4]))
def test_the_outcome_is_that_of_waiting_with_any_number_of_workers(
    seed: int, workers: int, most: int, factor: int
) -> None:
    rng = random.Random(seed)
    brackets, score = hyperband(most, factor), learning(seed)
    search = Search(brackets)
    run(search, score, workers, lambda job: rng.uniform(0.1, 5) * (job.stop - job.start))
    assert (search.best(), search.calls()) == with_waiting(brackets, score)


def test_the_brackets_are_hyperbands() -> None:
    shape = [[(len(b.models), rung.calls) for rung in b.rungs[:1]] for b in hyperband(81, 3)]
    assert shape == [[(81, 1)], [(34, 3)], [(15, 9)], [(8, 27)], [(5, 81)]]
    assert len(hyperband(243, 3)[0].models) == 243, "no rounding of logarithms"
    assert hyperband(81, 3)[0].rungs == [Rung(1, 27), Rung(3, 9), Rung(9, 3), Rung(27, 1), Rung(81, 0)]


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_workers_are_busy_though_jobs_differ(workers: int, seed: int) -> None:
    rng = random.Random(seed)
    search = Search(hyperband(81, 3))
    over, busy = run(search, learning(seed), workers, lambda job: rng.uniform(0.7, 1.3) * (job.stop - job.start))
    assert busy >= 0.9 * workers * over


def test_a_model_goes_on_as_soon_as_it_is_certain() -> None:
    search = Search([Bracket(range(4), [Rung(1, 2), Rung(3, 0)])])
    assert search.jobs(4) == [Job(m, 0, 1) for m in range(4)]
    search.done(Job(0, 0, 1), 0.9)
    search.done(Job(1, 0, 1), 0.5)
    assert search.calls() == {0: 1, 1: 1, 2: 0, 3: 0}, "two may still be better than either"
    search.done(Job(2, 0, 1), 0.1)
    assert search.jobs(2) == [Job(0, 1, 3)], "whatever the last one has, 0 is among the best two"
    assert search.calls()[0] == 1
    search.done(Job(3, 0, 1), 0.7)
    assert search.jobs(2) == [Job(3, 1, 3)]


def test_an_idle_worker_promotes_the_best_and_a_wrong_guess_is_in_no_result() -> None:
    search = Search([Bracket(range(3), [Rung(1, 1), Rung(3, 0)])])
    search.jobs(3)
    search.done(Job(0, 0, 1), 0.5)
    assert search.jobs(3) == [Job(0, 1, 3)]
    search.done(Job(0, 1, 3), 0.99)
    search.done(Job(1, 0, 1), 0.6)
    search.done(Job(2, 0, 1), 0.1)
    assert search.jobs(3) == [Job(1, 1, 3)]
    search.done(Job(1, 1, 3), 0.7)
    assert search.best() == 1
    assert search.calls() == {0: 1, 1: 3, 2: 1}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_whom_asha_would_promote_is_promoted_at_once_if_there_are_workers(seed: int) -> None:
    rng, score, [bracket, *_] = random.Random(seed), learning(seed), hyperband(27, 3)
    _, reached = with_waiting([bracket], score)
    search = Search([bracket])
    under_way: set[Job] = set(search.jobs(10**6))
    while search.best() is None:
        job = rng.choice(sorted(under_way))
        under_way.remove(job)
        search.done(job, score(job.model, job.stop))
        under_way |= set(search.jobs(10**6))
        entrants = len(bracket.models)
        for rung, following in itertools.pairwise(bracket.rungs):
            finished = [m for m in bracket.models if rung.calls in search.scores[m]]
            allowed = min(rung.keep, len(finished) * rung.keep // entrants)
            for model in sorted(finished, key=lambda m: (-score(m, rung.calls), m))[:allowed]:
                if reached[model] >= rung.calls:  # others an earlier rung may have ruled out
                    promoted = Job(model, rung.calls, following.calls) in under_way
                    assert promoted or following.calls in search.scores[model]
            entrants = rung.keep


def test_certain_jobs_come_before_speculation() -> None:
    search = Search([Bracket(range(3), [Rung(1, 1), Rung(3, 0)])])
    assert search.jobs(1) == [Job(0, 0, 1)]
    search.done(Job(0, 0, 1), 0.9)
    assert search.jobs(1) == [Job(1, 0, 1)]


def test_a_model_without_progress_is_trained_no_further_and_keeps_its_rank() -> None:
    search = Search([Bracket(range(2), [Rung(2, 2), Rung(12, 0)])], every=1, patience=3, tol=0.01)
    run(search, lambda model, calls: 0.9 if model == 0 else 0.1 * min(calls, 8), 2, lambda job: 1.0)
    assert search.best() == 0
    assert search.calls() == {0: 4, 1: 11}


def test_scores_that_are_no_number_are_the_worst() -> None:
    search = Search([Bracket(range(2), [Rung(1, 0)])])
    run(search, lambda model, calls: float("nan") if model == 0 else -5.0, 1, lambda job: 1.0)
    assert search.best() == 1


def test_halving_ends_with_one_model_or_at_the_most_calls() -> None:
    assert halving(range(10), 2, 3, None).rungs == [Rung(2, 3), Rung(6, 1), Rung(18, 0)]
    assert halving(range(10), 2, 3, 5).rungs == [Rung(2, 3), Rung(5, 1)]
