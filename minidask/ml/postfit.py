"""Predictions and transformations chunk by chunk, by a model that was fitted before.

A machine has one copy of the model, in shared memory: arrays are mapped from there. scikit-learn's trees cannot be
mapped, as they copy their nodes into memory of their own. So each is built when it predicts, and dropped then.
"""

from __future__ import annotations

import io
import itertools
import pickle
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

MEANS = {
    "accuracy", "neg_mean_absolute_error", "neg_mean_squared_error", "neg_mean_squared_log_error",
    "neg_mean_absolute_percentage_error",
}  # fmt: skip
"""Metrics of which all rows' is the mean of the chunks', weighted by rows."""
LARGE_BYTES = 1 << 20
"""A larger array has shared memory of its own, as everywhere."""
MAX_ALONE = 500
"""At most so many have; a pickle has room for 1024 buffers."""
ALIGNED = 64
"""Arrays begin at multiples of this."""


class SharedTrees:
    """What all of scikit-learn's trees of a model are made of; each is built anew when it is used.

    Their arrays go into shared memory, where large arrays go. Small ones are put side by side for that.
    """

    def __init__(self, made_of: list[Any]) -> None:
        self.made_of = made_of

    def build(self, number: int) -> Any:
        make, args, state = self.made_of[number]
        tree = make(*args)
        tree.__setstate__(state)
        return tree

    def __reduce__(self) -> Any:
        buffers = list[pickle.PickleBuffer]()
        text = pickle.dumps(self.made_of, 5, buffer_callback=buffers.append)
        arrays = [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]
        least = max(LARGE_BYTES, sum(map(len, arrays)) // MAX_ALONE)
        small = [np.pad(array, (0, -len(array) % ALIGNED)) for array in arrays if len(array) < least]
        places = [array if len(array) >= least else len(array) for array in arrays]
        return _shared_trees, (text, np.concatenate([np.empty(0, np.uint8), *small]), places)


def _shared_trees(text: bytes, small: Any, places: list[Any]) -> SharedTrees:
    start, arrays = 0, []
    for place in places:
        if isinstance(place, int):
            arrays.append(small[start : start + place])
            start += place + -place % ALIGNED
        else:
            arrays.append(place)
    return SharedTrees(pickle.loads(text, buffers=arrays))


class SharedTree:
    """One of `SharedTrees`: it is built for each call, and dropped then."""

    def __init__(self, trees: SharedTrees, number: int) -> None:
        self._trees, self._number = trees, number

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._trees.build(self._number), name)


class _Lightening(pickle.Pickler):
    def __init__(self, file: io.BytesIO, trees: SharedTrees, buffers: list[pickle.PickleBuffer]) -> None:
        super().__init__(file, 5, buffer_callback=buffers.append)
        self.trees = trees
        self.boosted = False  # whether gradient boosting was met: its compiled code takes only scikit-learn's trees

    def persistent_id(self, obj: Any) -> str | None:
        return "trees" if obj is self.trees else None

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        self.boosted = self.boosted or kind.__module__ == "sklearn.ensemble._gb"
        if (kind.__module__, kind.__name__) != ("sklearn.tree._tree", "Tree") or self.boosted:
            return NotImplemented
        self.trees.made_of.append(obj.__reduce__())
        return SharedTree, (self.trees, len(self.trees.made_of) - 1)


class _Lightened(pickle.Unpickler):
    def __init__(self, text: bytes, trees: SharedTrees, buffers: list[pickle.PickleBuffer]) -> None:
        super().__init__(io.BytesIO(text), buffers=buffers)
        self.trees = trees

    def persistent_load(self, pid: str) -> Any:
        return self.trees


def light(model: Any) -> Any:
    """Return a copy of a model that shares all arrays with it, and has a `SharedTree` for each tree."""
    text, trees, buffers = io.BytesIO(), SharedTrees([]), list[pickle.PickleBuffer]()
    try:
        _Lightening(text, trees, buffers).dump(model)
    except (pickle.PicklingError, AttributeError, TypeError):  # of __main__, say: cloudpickle takes it as it is
        return model
    return _Lightened(text.getvalue(), trees, buffers).load()


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
    other path: a folder of Parquet files, whose path is returned.
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
    for number, part in enumerate(parts):
        frame = part if hasattr(part, "to_parquet") else pandas.DataFrame(part)
        frame.rename(columns=str).to_parquet(folder / f"part-{number:05}.parquet")
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
