"""Estimators that follow from means and covariances, which one pass over the chunks gives.

Covariances have the squares of singular values: of those below 1e-8 times the largest one nothing is left.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg, sparse
from sklearn import decomposition, linear_model

from minidask.ml.data import Chunks
from minidask.ml.fitting import FitsChunks


class Moments(NamedTuple):
    """What rows sum up to; `scatter` is the matrix of products of their differences from the mean."""

    n: int
    mean: Any
    scatter: Any
    axes: int
    """Of y; 0 if there is none."""

    def merge(self, other: Moments) -> Moments:
        n, apart = self.n + other.n, other.mean - self.mean
        scatter = self.scatter + other.scatter + self.n * other.n / n * np.outer(apart, apart)
        return Moments(n, self.mean + apart * (other.n / n), scatter, self.axes)

    @property
    def gram(self) -> Any:
        """The matrix of products of the rows as they are."""
        return self.scatter + self.n * np.outer(self.mean, self.mean)


def _moments(X: Any, y: Any, targets: bool) -> Moments:
    """The moments of X, and, with `targets`, of the columns of y after it."""
    axes = 0 if y is None else y.ndim
    stack = sparse.hstack if sparse.issparse(X) else np.hstack
    X = stack([X, y.reshape(len(y), -1)]) if targets else X
    n, mean = X.shape[0], np.ravel(X.mean(axis=0))
    if sparse.issparse(X):
        return Moments(n, mean, (X.T @ X).toarray() - n * np.outer(mean, mean), axes)
    X = X - mean
    return Moments(n, mean, X.T @ X, axes)


def _merged(model: Any, data: Chunks, targets: bool = False) -> Moments:
    parts: Iterator[Moments] = model._pass(data, _moments, targets)
    return functools.reduce(Moments.merge, parts)


def _eigen(matrix: Any) -> tuple[Any, Any]:
    """The eigenvalues, the largest first, and the vectors as rows, with scikit-learn's signs."""
    values, vectors = linalg.eigh(matrix)
    values, vectors = values[::-1].clip(0), vectors.T[::-1]
    largest = np.abs(vectors).argmax(axis=1)
    return values, vectors * np.sign(vectors[np.arange(len(vectors)), largest])[:, None]


class PCA(FitsChunks, decomposition.PCA):
    """scikit-learn's `PCA` to 1e-6, by the covariance matrix, which has to fit into memory."""

    def _fit_chunks(self, data: Chunks) -> None:
        n, self.mean_, scatter, _ = _merged(self, data)
        values, vectors = _eigen(scatter)
        most, k = min(n, len(values)), self.n_components
        if isinstance(k, str) or (k is not None and not 0 < k <= most):
            raise ValueError(f"n_components must be None, a number above 0 and below 1, or 1 to {most}, got {k!r}")
        variances, ratios = values / (n - 1), values / values.sum()
        if k is not None and k < 1:
            k = np.searchsorted(np.cumsum(ratios), k, side="right") + 1
        k = int(most if k is None else k)
        self.n_samples_, self.n_components_, self.components_ = n, k, vectors[:k]
        self.explained_variance_, self.explained_variance_ratio_ = variances[:k], ratios[:k]
        self.singular_values_ = np.sqrt(values[:k])
        self.noise_variance_ = float(variances[k:most].mean()) if k < most else 0.0


class TruncatedSVD(FitsChunks, decomposition.TruncatedSVD):
    """scikit-learn's `TruncatedSVD` to 1e-6, by the matrix of products of columns, which has to fit into memory."""

    def _fit_chunks(self, data: Chunks) -> None:
        moments = _merged(self, data)
        if not 0 < self.n_components <= len(moments.mean):
            raise ValueError(f"n_components must be 1 to {len(moments.mean)}, got {self.n_components!r}")
        values, vectors = _eigen(moments.gram)
        self.components_, self.singular_values_ = vectors[: self.n_components], np.sqrt(values[: self.n_components])
        self.explained_variance_ = ((self.components_ @ moments.scatter) * self.components_).sum(axis=1) / moments.n
        self.explained_variance_ratio_ = self.explained_variance_ * moments.n / np.trace(moments.scatter)


class _LeastSquares(FitsChunks):
    takes = (("positive", (False,)),)
    alpha: Any = 0
    fit_intercept: bool

    def _fit_chunks(self, data: Chunks) -> None:
        if np.ndim(self.alpha):
            raise ValueError(f"{type(self).__name__} takes chunks with one alpha for all targets, got {self.alpha!r}")
        moments = _merged(self, data, True)
        d = self.n_features_in_  # type: ignore[attr-defined]
        products = moments.scatter if self.fit_intercept else moments.gram
        coef, _, self.rank_, _ = linalg.lstsq(products[:d, :d] + self.alpha * np.eye(d), products[:d, d:])
        means = moments.mean[d:] - moments.mean[:d] @ coef
        self.coef_, means = (coef.T, means) if moments.axes > 1 else (coef[:, 0], float(means[0]))
        self.intercept_ = means if self.fit_intercept else 0.0


class LinearRegression(_LeastSquares, linear_model.LinearRegression):
    """scikit-learn's `LinearRegression` to 1e-6 if columns are not nearly dependent, by the covariance matrix."""


class Ridge(_LeastSquares, linear_model.Ridge):
    """scikit-learn's `Ridge` to 1e-6, by the covariance matrix."""
