"""Predictions and transformations chunk by chunk, by a model that was fitted before."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.metrics import check_scoring
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from minidask.ml.data import Chunks, count, each, imported
from minidask.ml.trees import light

MEANS = {
    "accuracy", "neg_mean_absolute_error", "neg_mean_squared_error", "neg_mean_squared_log_error",
    "neg_mean_absolute_percentage_error",
}  # fmt: skip
"""Metrics of which all rows' is the mean of the chunks', weighted by rows."""


def applied(model: Any, method: str, X: Any) -> Any:
    """Return what a method of a model gives for some rows."""
    return getattr(model, method)(X)


def score_of(X: Any, y: Any, model: Any, scorer: Any) -> tuple[int, float]:
    """Return the number of rows, and their score."""
    return count(X), scorer(model, X, y)


def weighted(parts: Iterator[tuple[int, float]]) -> float:
    """Return the mean of scores, weighted by rows."""
    counts, scores = zip(*parts, strict=True)
    return float(np.average(scores, weights=counts))


def _method(name: str) -> Any:
    """A method that the fitted model has, for chunks and for anything else."""

    def call(self: PredictsChunks, X: Any, out: Any = None) -> Any:
        return self.apply(name, X, out)

    call.__name__, call.__doc__ = name, f"Return the model's `{name}`. `out` is told of by the class."
    return available_if(lambda self: hasattr(self._model, name))(call)


class PredictsChunks(MetaEstimatorMixin, BaseEstimator):
    """What all meta-estimators here do once they are fitted, with chunks and with anything else.

    `out` of each method says where the result for chunks goes: None: an array in memory, and for `transform` chunks
    that are transformed when they are used. A path that ends with `.npy`: that file, returned as a memory map. Any
    other path: a folder of Parquet files, whose path is returned. Either is written anew.
    """

    estimator: Any
    scoring: Any = None
    fit: Callable[..., Any]

    @property
    def _model(self) -> Any:
        """The fitted model; what it was given, if that is fitted or nothing is."""
        return getattr(self, "best_estimator_", getattr(self, "estimator_", self.estimator))

    def __sklearn_is_fitted__(self) -> bool:
        try:
            check_is_fitted(self._model)
        except NotFittedError:
            return False
        return True

    def __sklearn_tags__(self) -> Any:
        return get_tags(self.estimator)

    @property
    def classes_(self) -> Any:
        return self._model.classes_

    @property
    def n_features_in_(self) -> int:
        return int(self._model.n_features_in_)

    predict = _method("predict")
    predict_proba = _method("predict_proba")
    predict_log_proba = _method("predict_log_proba")
    decision_function = _method("decision_function")
    transform = _method("transform")

    @available_if(lambda self: hasattr(self._model, "transform"))  # type: ignore[untyped-decorator]
    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        return self.fit(X, y, **fit_params).transform(X)

    def stream(self, X: Chunks, method: str = "predict") -> Iterator[Any]:
        """Yield the result of a method for one chunk after another."""
        check_is_fitted(self._model)
        return each(self._over(X, method), _only_X)

    def _over(self, X: Chunks, method: str) -> Chunks:
        return X.map(partial(applied, light(self._model), method))

    @available_if(lambda self: self.scoring or hasattr(self._model, "score"))  # type: ignore[untyped-decorator]
    def score(self, X: Any, y: Any = None) -> float:
        """Return the score by `scoring`. Without it, that is the estimator's own; for chunks, accuracy or R².

        Accuracy and mean errors are computed by the workers. For other measures of chunks, all predictions and targets
        are held here.
        """
        check_is_fitted(self._model)
        if not isinstance(X, Chunks):
            return float(check_scoring(self._model, scoring=self.scoring)(self._model, X, y))
        scoring = self.scoring or ("accuracy" if is_classifier(self._model) else "r2")
        scorer = check_scoring(self._model, scoring=scoring)
        if scoring in MEANS:
            return weighted(each(X, score_of, light(self._model), scorer))
        return float(scorer(self, X, _stacked(each(X, _only_y))))

    def apply(self, method: str, X: Any, out: Any = None) -> Any:
        check_is_fitted(self._model)
        if not isinstance(X, Chunks):
            return getattr(self._model, method)(X)
        if out is None:
            return self._over(X, method) if method == "transform" else _stacked(self.stream(X, method))
        if not str(out).endswith(".npy"):
            return _write_tables(Path(out), self.stream(X, method))
        X = X.counted()
        parts = self.stream(X, method)
        first = np.asarray(next(parts))
        whole = np.lib.format.open_memmap(out, "w+", first.dtype, (X.rows, *first.shape[1:]))
        start = 0
        for part in itertools.chain([first], parts):
            whole[start : start + len(part)] = part
            start += len(part)
        whole.flush()
        return whole


def _only_X(X: Any, y: Any) -> Any:
    return X


def _only_y(X: Any, y: Any) -> Any:
    return np.asarray(y)


def _stacked(parts: Iterator[Any]) -> Any:
    return np.concatenate([np.asarray(part) for part in parts])


def _write_tables(folder: Path, parts: Iterator[Any]) -> Path:
    pandas = imported("pandas")
    folder.mkdir(parents=True, exist_ok=True)
    written: set[str] = set()
    for number, part in enumerate(parts):
        frame = part if hasattr(part, "to_parquet") else pandas.DataFrame(part)
        frame.rename(columns=str).to_parquet(folder / f"part-{number:05}.parquet")
        written.add(f"part-{number:05}.parquet")
    for old in folder.glob("part-*.parquet"):  # of more chunks than these: the folder is read as a whole
        if old.name not in written:
            old.unlink()
    return folder


class ParallelPostFit(PredictsChunks):
    """Predicts, transforms and scores chunks on the cluster, by an estimator that fits in memory.

    Args:
        estimator: one that was fitted, or that `fit` is to fit, on data in memory.
        scoring: how `score` measures, as everywhere in scikit-learn.
    """

    def __init__(self, estimator: Any = None, scoring: Any = None) -> None:
        self.estimator = estimator
        self.scoring = scoring

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> ParallelPostFit:
        """Fit a clone of the estimator, here, on data in memory.

        Raises:
            TypeError: these are chunks.
        """
        if isinstance(X, Chunks):
            raise TypeError(
                "ParallelPostFit fits in memory: fit(*data[0].read()), or let Incremental learn from chunks"
            )
        self.estimator_ = clone(self.estimator).fit(X, y, **fit_params)
        return self
