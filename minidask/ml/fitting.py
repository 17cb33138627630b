"""scikit-learn's own estimators, whose methods take chunks as well.

    class PCA(FitsChunks, decomposition.PCA):
        def _fit_chunks(self, data): passes over the chunks ─► what they sum up to ─► scikit-learn's own attributes

What is no chunks goes to scikit-learn's own method. What chunks are fitted to has scikit-learn's own attributes, so its
own methods predict and transform, in the workers.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.utils import check_array
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from minidask.ml.data import Chunks, count, each, pick
from minidask.ml.postfit import ParallelPostFit

METHODS = (
    "fit", "fit_transform", "fit_predict", "transform", "inverse_transform", "predict", "predict_proba",
    "predict_log_proba", "decision_function", "score",
)  # fmt: skip


class FitsChunks:
    """Goes before scikit-learn's class among the bases. Each of `METHODS` that it has takes chunks then.

    With chunks, `transform` and others take `out`, as `ParallelPostFit` does.
    """

    takes: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """Parameters, and the values that each may have when it is fitted to chunks."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in METHODS:
            if hasattr(cls, name):
                check = getattr(inspect.getattr_static(cls, name), "check", None)  # of `available_if`
                method = _taking_chunks(name, getattr(cls, name))
                setattr(cls, name, method if check is None else available_if(check)(method))

    def _fit_chunks(self, data: Chunks) -> None:
        raise NotImplementedError

    def _pass(self, data: Chunks, function: Callable[..., Any], *args: Any) -> Iterator[Any]:
        """Yield `function(X, y, *args)` of each chunk. X is an array of floats, or sparse; y is an array, or None."""
        for number, (head, part) in enumerate(each(data, _with_head, function, *args)):
            if not number:  # the number of features, and their names
                validate_data(self, head, accept_sparse=True)
            yield part

    def _sums(self, data: Chunks, function: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
        """Return the sum of the tuples that `function` gives for the chunks, item by item."""
        return functools.reduce(lambda a, b: tuple(map(operator.add, a, b)), self._pass(data, function, *args))

    def _fit_to_each(self, data: Chunks, model: Any) -> tuple[Any, list[Any]]:
        """Return the rows of each chunk, and a copy of the model that is fitted to it, as its X and y are."""
        rows, fitted = zip(*each(data, _fitted, model), strict=True)
        self._take_features(fitted[0])
        return np.array(rows), list(fitted)

    def _take_features(self, fitted: Any) -> None:
        """Have as many features, and of the same names, as a fitted model."""
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(fitted, name):
                setattr(self, name, getattr(fitted, name))


def _fitted(X: Any, y: Any, model: Any) -> tuple[int, Any]:
    return count(X), clone(model).fit(X, y)


def _with_head(X: Any, y: Any, function: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    found = check_array(X, accept_sparse="csr", dtype=np.float64)
    return pick(X, slice(0, 1)), function(found, y if y is None or isinstance(y, int) else np.asarray(y), *args)


def _taking_chunks(name: str, own: Any) -> Any:
    @functools.wraps(own)
    def method(self: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(X, Chunks):
            return own(self, X, *args, **kwargs)
        if name.startswith("fit") and any(value is not None for value in (*args, *kwargs.values())):
            raise TypeError(f"{name}() takes nothing else with chunks, which have their own y")
        if name == "fit":
            for parameter, values in self.takes:
                if not any(value is getattr(self, parameter) or value == getattr(self, parameter) for value in values):
                    raise ValueError(
                        f"{type(self).__name__} takes chunks with {parameter}={' or '.join(map(repr, values))},"
                        f" got {getattr(self, parameter)!r}"
                    )
            self._fit_chunks(X)
            return self
        if name.startswith("fit_"):
            return getattr(self.fit(X), name.removeprefix("fit_"))(X)
        if name != "score":
            return ParallelPostFit(self).apply(name, X, *args, **kwargs)
        if not (is_classifier(self) or is_regressor(self)):
            raise TypeError(f"score() of {type(self).__name__} takes no chunks")
        return ParallelPostFit(self).score(X)

    return method
