"""A model for each chunk, all fitted at once, which vote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.utils import column_or_1d, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from minidask.ml.data import Chunks
from minidask.ml.fitting import FitsChunks
from minidask.ml.trees import light


@dataclass(eq=False, repr=False)
class _Voting(FitsChunks, BaseEstimator):
    estimator: Any

    def fit(self, X: Any, y: Any = None) -> Any:
        """Fit a copy of the estimator to each chunk; to data in memory, one."""
        y = None if y is None else column_or_1d(y, warn=True)
        return self._take([clone(self.estimator).fit(X, y)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.estimator).input_tags
        return tags

    def _fit_chunks(self, data: Chunks) -> None:
        self._take(self._fit_to_each(data, self.estimator)[1])

    def _take(self, fitted: list[Any]) -> Any:
        self.estimators_ = [light(model) for model in fitted]
        self._take_features(fitted[0])
        return self

    def _each(self, method: str, X: Any) -> list[Any]:
        check_is_fitted(self)
        return [getattr(model, method)(X) for model in self.estimators_]


class BlockwiseVotingRegressor(RegressorMixin, _Voting):
    """Fits a copy of a regressor to each chunk. Predicts the mean of what they predict."""

    def predict(self, X: Any) -> Any:
        return np.mean(self._each("predict", X), axis=0)


@dataclass(eq=False, repr=False)
class BlockwiseVotingClassifier(ClassifierMixin, _Voting):
    """Fits a copy of a classifier to each chunk.

    Args:
        voting: "hard": predicts the class that most of them predict; "soft": that of the highest mean probability. A
            chunk without a class gives it the probability 0.
    """

    voting: str = "hard"

    def _take(self, fitted: list[Any]) -> Any:
        self.classes_ = np.unique(np.concatenate([model.classes_ for model in fitted]))
        return super()._take(fitted)

    def predict(self, X: Any) -> Any:
        if self.voting == "soft":
            return self.classes_[self.predict_proba(X).argmax(axis=1)]
        votes = np.array([np.searchsorted(self.classes_, labels) for labels in self._each("predict", X)])
        counts = np.stack([(votes == n).sum(axis=0) for n in range(len(self.classes_))])
        return self.classes_[counts.argmax(axis=0)]

    @available_if(lambda self: self.voting == "soft")  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Any:
        sums: Any = 0
        for model, part in zip(self.estimators_, self._each("predict_proba", X), strict=True):
            whole = np.zeros((len(part), len(self.classes_)))
            whole[:, np.searchsorted(self.classes_, model.classes_)] = part
            sums = sums + whole
        return sums / len(self.estimators_)
