"""Searches that train many models a little, and few models long. `halving.py` decides which; here it is done.

A leg of a model is a task: it gets the model as it is, reads chunks, trains, scores on the test chunks, and returns the
model. All models see the chunks in the same order, which the seed gives.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.metrics import check_scoring
from sklearn.model_selection import ParameterGrid, ParameterSampler
from sklearn.utils import check_random_state

from minidask.client.nested import get_client
from minidask.ml.data import Chunks, DataChunk, Sender, count, drawn_seed, each, labels
from minidask.ml.halving import Bracket, Job, Rung, Search, halving, hyperband
from minidask.ml.incremental import ahead, order_of_chunks, train, with_classes
from minidask.ml.postfit import PredictsChunks, score_of, weighted
from minidask.ml.sources import chunks


def _leg(
    models: list[Any],
    splits: list[tuple[list[DataChunk], list[DataChunk]]],
    job: Job,
    resource: str,
    fit_params: dict[str, Any],
    scorer: Any,
) -> tuple[list[Any], dict[str, float]]:
    """Train the models of all splits, and score each on its test chunks; return them, and what the history says."""
    begun = time.perf_counter()
    for model, (names, _) in zip(models, splits, strict=True):
        _taught(model, names, job, resource, fit_params)
    trained = time.perf_counter()
    scores = [
        weighted(score_of(X, y, model, scorer) for X, y in ahead(test))
        for model, (_, test) in zip(models, splits, strict=True)
    ]
    times = {"partial_fit_time": trained - begun, "score_time": time.perf_counter() - trained}
    return models, {"score": float(np.mean(scores)), **times}


def _taught(model: Any, names: list[DataChunk], job: Job, resource: str, fit_params: dict[str, Any]) -> Any:
    """Train a model as far as the job says, and return it."""
    if resource == "partial_fit":
        return train(model, names, fit_params)
    X, y = next(ahead(names))
    more = {"warm_start": True} if "warm_start" in model.get_params() else {}
    model.set_params(**{resource: job.stop}, **more)
    if job.start and (boosted := _boosted(model)):
        model.set_params(**{resource: job.stop - job.start})
        return model.fit(X, y, **fit_params, **boosted).set_params(**{resource: job.stop})
    return model.fit(X, y, **fit_params)


def _boosted(model: Any) -> dict[str, Any]:
    """How XGBoost and LightGBM are told to go on; nothing where they make forests, whose trees do not follow others."""
    if hasattr(model, "get_num_boosting_rounds"):
        goes_on = model.get_num_boosting_rounds() == model.n_estimators
        return {"xgb_model": model.get_booster()} if goes_on else {}
    return {"init_model": model.booster_} if getattr(model, "boosting_type", "rf") != "rf" else {}


@dataclass(eq=False, repr=False)
class _SearchCV(PredictsChunks):
    """What all searches do.

    Args:
        estimator: has `partial_fit`, or learns more with each `fit` (see `resource`). Give it a `random_state`, too.
        parameters: names with lists, or with distributions, as `RandomizedSearchCV` takes them.
        test_size: the fraction of the chunks that models are scored on; None: one chunk.
        cv: how many splits each model is trained and scored on; None: one, by `test_size`.
        patience: a model without progress for so many calls is trained no further; True: a third of the most; 0: never.
        tol: what counts as progress.
        resource: what a model gets more of: calls of "partial_fit", or the name of a parameter, such as "n_estimators"
            or "max_iter". Models are fitted to the first training chunk then. One with `warm_start`, and XGBoost's and
            LightGBM's, go on from what they have; any other is fitted anew.
        random_state: the seed of parameters, split and the order of chunks.
        scoring: one measure. The score of test chunks is their mean, weighted by rows.
        resume: the path of a file that keeps each leg; the same search goes on from there, in any later process.
    """

    estimator: Any
    parameters: Any
    _: KW_ONLY
    test_size: Any = None
    cv: Any = None
    patience: Any = False
    tol: float = 1e-3
    resource: str = "partial_fit"
    random_state: Any = None
    scoring: Any = None
    resume: Any = None

    def _brackets(self) -> list[Bracket]:
        raise NotImplementedError

    @property
    def metadata(self) -> dict[str, int]:
        """How many models and calls of `partial_fit` there will be, with patience at most."""
        calls: dict[int, int] = {}
        for models, rungs in self._brackets():
            for level, rung in enumerate(rungs):
                calls |= dict.fromkeys(models[: rungs[level - 1].keep if level else None], rung.calls)
        return _metadata(calls)

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> _SearchCV:
        """Search. `X` is chunks, or X and y are in memory; `fit_params` are those of `partial_fit`."""
        data = X if isinstance(X, Chunks) else chunks((X, y), rows=max(1, -(-count(X) // 10)))
        brackets = self._brackets()
        seed = drawn_seed(check_random_state(self.random_state))
        params = self._params(sum(len(bracket.models) for bracket in brackets), seed)
        if self.resource == "partial_fit":
            fit_params = with_classes(self.estimator, each(data, labels), fit_params)
        if self.cv:
            splits = data.folds(self.cv, random_state=seed)
        else:
            splits = [data.split(self.test_size or 1 / len(data), random_state=seed)]
        patience = max(1, _most(brackets) // 3) if self.patience is True else int(self.patience)
        every = getattr(self, "fits_per_score", 0) or (patience and max(1, patience // 3))
        search = Search(brackets, every, patience, self.tol)
        self.scorer_ = check_scoring(self.estimator, scoring=self.scoring)
        sender = Sender(get_client())
        models = self._run(search, params, splits, seed, fit_params, sender)
        self._take(search, params)
        self.best_estimator_ = models[self.best_index_][0]
        if self.cv:
            job = Job(self.best_index_, 0, search.calls()[self.best_index_])
            leg = clone(self.estimator).set_params(**self.best_params_), self._names(data, job, seed, sender), job
            self.best_estimator_ = get_client().submit(_taught, *leg, self.resource, fit_params).result()
        return self

    def _params(self, n: int, seed: int) -> list[dict[str, Any]]:
        if getattr(self, "n_initial_parameters", None) == "grid":
            return list(ParameterGrid(self.parameters))
        drawn = any(hasattr(values, "rvs") for values in self.parameters.values())
        if not drawn and len(found := ParameterGrid(self.parameters)) <= n:  # without replacement there are too few
            return [found[i % len(found)] for i in np.random.default_rng(seed).permutation(n)]
        return list(ParameterSampler(self.parameters, n, random_state=seed))

    def _run(
        self, search: Search, params: list[dict[str, Any]], splits: Any, seed: int, fit_params: Any, sender: Sender
    ) -> dict[int, list[Any]]:
        """Have the cluster run legs until the search is over; return the models, one for each split."""
        client, begun = get_client(), time.monotonic()
        models: dict[int, list[Any]] = {}
        running: dict[Any, Job] = {}
        self.history_: list[dict[str, Any]] = []
        try:
            while search.best() is None:
                for job in search.jobs(client.slots() + 1):
                    if job.model not in models:
                        models[job.model] = [clone(self.estimator).set_params(**params[job.model]) for _ in splits]
                    sent = [(self._names(train, job, seed, sender), sender.all(test)) for train, test in splits]
                    leg = (models[job.model], sent, job, self.resource, fit_params, self.scorer_)
                    running[client.map(_leg, *([part] for part in leg), resume=self.resume)[0]] = job
                for ended in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(ended)
                    models[job.model], found = ended.result()
                    self.history_.append({
                        "model_id": job.model, "params": params[job.model], "partial_fit_calls": job.stop, **found,
                        "elapsed_wall_time": time.monotonic() - begun,
                    })  # fmt: skip
                    search.done(job, found["score"])
        finally:
            client.cancel(list(running), force=True)
        return models

    def _names(self, data: Chunks, job: Job, seed: int, sender: Sender) -> list[DataChunk]:
        """Return the chunks that a model is trained on."""
        if self.resource != "partial_fit":
            return sender.all(data[:1])
        order = order_of_chunks(len(data), 1 + job.stop // len(data), True, seed)
        return sender.all(data[i] for i in order[job.start : job.stop])

    def _take(self, search: Search, params: list[dict[str, Any]]) -> None:
        """Make of the history, and of what counts of it, all that a search shows."""
        calls, best = search.calls(), search.best()
        assert best is not None
        bracket_of = {m: number for number, bracket in enumerate(search.brackets[::-1]) for m in bracket.models}
        self.history_ = [
            {**entry, "bracket": bracket_of[entry["model_id"]]}
            for entry in self.history_
            if entry["partial_fit_calls"] <= calls[entry["model_id"]]
        ]
        self.model_history_ = {
            m: sorted((h for h in self.history_ if h["model_id"] == m), key=lambda h: h["partial_fit_calls"])
            for m in sorted(calls)
        }
        last = [entries[-1] for entries in self.model_history_.values()]
        names = ("model_id", "params", "partial_fit_calls", "bracket")
        scores = np.array([entry["score"] for entry in last])
        order = np.argsort(np.argsort(-scores, kind="stable"), kind="stable")
        self.cv_results_ = {
            **{name: np.array([entry[name] for entry in last]) for name in names},
            **{f"param_{name}": np.array([p[name] for p in params], dtype=object) for name in params[0]},
            "test_score": scores,
            "mean_test_score": scores,
            "rank_test_score": order + 1,
        }
        for kind in ("partial_fit_time", "score_time"):
            times = [[entry[kind] for entry in entries] for entries in self.model_history_.values()]
            self.cv_results_[f"mean_{kind}"] = np.array([*map(np.mean, times)])
            self.cv_results_[f"std_{kind}"] = np.array([*map(np.std, times)])
        self.best_index_, self.n_splits_, self.multimetric_ = best, self.cv or 1, False
        self.best_score_, self.best_params_ = float(scores[best]), params[best]
        self.metadata_ = _metadata(calls)


def _most(brackets: Sequence[Bracket]) -> int:
    return max(rung.calls for bracket in brackets for rung in bracket.rungs)


def _metadata(calls: dict[int, int]) -> dict[str, int]:
    return {"n_models": len(calls), "partial_fit_calls": sum(calls.values()), "max_iter": max(calls.values())}


@dataclass(eq=False, repr=False)
class HyperbandSearchCV(_SearchCV):
    """Hyperband: brackets of successive halving, from many models trained a little to few trained long.

    Args:
        max_iter: calls of `partial_fit` of the models that are trained longest.
        aggressiveness: of so many models, one goes on at a rung.
    """

    max_iter: int = 81
    aggressiveness: int = 3

    def _brackets(self) -> list[Bracket]:
        return hyperband(self.max_iter, self.aggressiveness)


@dataclass(eq=False, repr=False)
class SuccessiveHalvingSearchCV(_SearchCV):
    """Successive halving: at each rung the best of the models go on, and are trained longer.

    Args:
        n_initial_parameters: models to begin with, or "grid" for all.
        n_initial_iter: calls before the first rung.
        max_iter: calls of a model at most; None: until one model is left.
        aggressiveness: of so many models, one goes on.
    """

    n_initial_parameters: int | str = 10
    n_initial_iter: int = 1
    max_iter: int | None = None
    aggressiveness: int = 3

    def _brackets(self) -> list[Bracket]:
        return [halving(range(_models(self)), self.n_initial_iter, self.aggressiveness, self.max_iter)]


@dataclass(eq=False, repr=False)
class IncrementalSearchCV(_SearchCV):
    """Trains all models until they make no more progress, or, with `decay_rate`, fewer and fewer of them.

    Args:
        n_initial_parameters: models to begin with, or "grid" for all.
        decay_rate: after `n` scores, the number of models is divided by `n ** decay_rate`; None: not at all.
        fits_per_score: calls between two scores.
        max_iter: calls of a model at most.
    """

    n_initial_parameters: int | str = 10
    decay_rate: float | None = None
    fits_per_score: int = 1
    max_iter: int = 100

    def _brackets(self) -> list[Bracket]:
        n, steps = _models(self), range(self.fits_per_score, self.max_iter + 1, self.fits_per_score)
        kept = [max(1, int(n / (i + 1) ** (self.decay_rate or 0))) for i in range(1, len(steps) + 1)]
        return [Bracket(range(n), [Rung(calls, keep) for calls, keep in zip(steps, kept, strict=True)])]


def _models(search: SuccessiveHalvingSearchCV | IncrementalSearchCV) -> int:
    n = search.n_initial_parameters
    return len(ParameterGrid(search.parameters)) if n == "grid" else int(n)
