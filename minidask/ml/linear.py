"""Linear models that are found by descent: each step is a pass over the chunks, in parallel, and L-BFGS takes it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import optimize
from scipy.special import log_softmax
from sklearn import linear_model
from sklearn.exceptions import ConvergenceWarning

from minidask.ml.data import Chunks, labels
from minidask.ml.fitting import FitsChunks

Slopes = Callable[[Any, Any], tuple[float, Any]]
"""Of `X @ w + b`, and y: the sum of losses, and what it grows by with each of these numbers."""


def _likelihood(z: Any, y: Any, classes: Any) -> tuple[float, Any]:
    both = z.shape[1] == 1
    logs = log_softmax(np.hstack([np.zeros_like(z), z]) if both else z, axis=1)
    right = np.arange(len(y)), np.searchsorted(classes, y)
    slopes = np.exp(logs)
    slopes[right] -= 1
    return -float(logs[right].sum()), slopes[:, 1:] if both else slopes


def _deviance(z: Any, y: Any) -> tuple[float, Any]:
    expected, y = np.exp(z), y.reshape(-1, 1)
    return float((expected - y * z).sum()), expected - y


def _loss(X: Any, y: Any, w: Any, loss: Callable[..., Any], args: Any) -> tuple[int, float, Any]:
    """The rows, the sum of their losses, and its gradient."""
    value, slopes = loss(np.asarray(X @ w[:-1]) + w[-1], y, *args)
    return X.shape[0], value, np.vstack([X.T @ slopes, slopes.sum(axis=0)])


def _descend(model: Any, data: Chunks, width: int, penalty: Callable[[int], float], loss: Any, *args: Any) -> Any:
    """Return the weights, with the intercepts as their last row, of the least mean loss plus penalty.

    Args:
        width: how many columns the weights have.
        penalty: what the sum of the squares of weights is multiplied by, for so many rows.
    """
    shape = model.n_features_in_ + 1, width

    def value(flat: Any) -> tuple[float, Any]:
        w = flat.reshape(shape)
        n, loss_, gradient = model._sums(data, _loss, w, loss, args)
        factor, gradient = penalty(n), gradient / n
        gradient[:-1] += 2 * factor * w[:-1]
        gradient[-1] *= model.fit_intercept
        return loss_ / n + factor * float((w[:-1] ** 2).sum()), gradient.ravel()

    options = {"maxiter": model.max_iter, "gtol": model.tol, "ftol": 64 * np.finfo(float).eps, "maxls": 50}
    found = optimize.minimize(value, np.zeros(np.prod(shape)), jac=True, method="L-BFGS-B", options=options)
    if not found.success:
        warnings.warn(f"no convergence after {found.nit} steps; scale the data?", ConvergenceWarning, stacklevel=2)
    return found.x.reshape(shape), found.nit


class LogisticRegression(FitsChunks, linear_model.LogisticRegression):
    """scikit-learn's `LogisticRegression`, without its L1 penalty; with `tol=1e-6` coefficients are equal to 1e-3."""

    takes = (
        ("penalty", ("deprecated", "l2", None)),
        ("l1_ratio", (0, None)),
        ("class_weight", (None,)),
        ("dual", (False,)),
    )

    def _fit_chunks(self, data: Chunks) -> None:
        self.classes_ = np.unique(np.concatenate(list(self._pass(data, labels))))
        if len(self.classes_) < 2:
            raise ValueError(f"there must be at least 2 classes in y, got {self.classes_}")
        width = 1 if len(self.classes_) == 2 else len(self.classes_)
        strength = np.inf if self.penalty is None else self.C
        w, steps = _descend(self, data, width, lambda n: 0.5 / (strength * n), _likelihood, self.classes_)
        self.coef_, self.intercept_, self.n_iter_ = w[:-1].T, w[-1], np.array([steps])


class PoissonRegressor(FitsChunks, linear_model.PoissonRegressor):
    """scikit-learn's `PoissonRegressor`; with `tol=1e-6` coefficients are equal to 1e-3."""

    def _fit_chunks(self, data: Chunks) -> None:
        next(self._pass(data[:1], labels))  # how many features there are
        self._base_loss = self._get_loss()  # scikit-learn's own `predict` uses it
        w, self.n_iter_ = _descend(self, data, 1, lambda n: 0.5 * self.alpha, _deviance)
        self.coef_, self.intercept_ = w[:-1, 0], float(w[-1, 0])
