"""Scalers and encoders by one pass over chunks: scikit-learn's own are fitted to each chunk, and put together."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import preprocessing
from sklearn.base import clone

from minidask.ml.data import Chunks, imported
from minidask.ml.fitting import FitsChunks


def _fit_to_columns(model: Any, columns: list[Any]) -> None:
    """Fit scikit-learn's way to columns that say all of the chunks that counts."""
    names = getattr(model, "feature_names_in_", None)
    whole = imported("pandas").DataFrame(dict(zip(names, columns, strict=True))) if names is not None else None
    model.fit(np.column_stack(columns) if whole is None else whole)


class StandardScaler(FitsChunks, preprocessing.StandardScaler):
    """scikit-learn's `StandardScaler`, to 1e-9."""

    def _fit_chunks(self, data: Chunks) -> None:
        _, parts = self._fit_to_each(data, clone(self).set_params(with_std=True))
        seen = np.stack([np.broadcast_to(part.n_samples_seen_, part.mean_.shape) for part in parts])
        means, variances = (np.nan_to_num(np.stack([getattr(p, name) for p in parts])) for name in ("mean_", "var_"))
        n = seen.sum(axis=0)
        with np.errstate(invalid="ignore"):  # a column of which nothing is known has no mean
            mean = (seen * means).sum(axis=0) / n
            var = (seen * (variances + (means - mean) ** 2)).sum(axis=0) / n
        eps = np.finfo(float).eps
        constant = var <= n * eps * var + (n * mean * eps) ** 2  # but for rounding, as scikit-learn has it
        self.n_samples_seen_ = n if len(set(n)) > 1 else int(n[0])
        self.mean_ = mean if self.with_mean or self.with_std else None
        self.var_ = var if self.with_std else None
        self.scale_ = np.where(constant, 1, np.sqrt(var)) if self.with_std else None


class MinMaxScaler(FitsChunks, preprocessing.MinMaxScaler):
    """scikit-learn's `MinMaxScaler`, exactly."""

    def _fit_chunks(self, data: Chunks) -> None:
        _, parts = self._fit_to_each(data, self)
        _fit_to_columns(self, [*np.concatenate([[part.data_min_, part.data_max_] for part in parts]).T])
        self.n_samples_seen_ = sum(part.n_samples_seen_ for part in parts)


class MaxAbsScaler(FitsChunks, preprocessing.MaxAbsScaler):
    """scikit-learn's `MaxAbsScaler`, exactly."""

    def _fit_chunks(self, data: Chunks) -> None:
        _, parts = self._fit_to_each(data, self)
        _fit_to_columns(self, [*np.stack([part.max_abs_ for part in parts]).T])
        self.n_samples_seen_ = sum(part.n_samples_seen_ for part in parts)


class _Encoder(FitsChunks):
    takes = (("min_frequency", (None,)), ("max_categories", (None,)))

    def _fit_chunks(self, data: Chunks) -> None:
        model: Any = clone(self)
        _, parts = self._fit_to_each(data, model.set_params(drop=None) if hasattr(model, "drop") else model)
        columns = [np.concatenate(found) for found in zip(*(part.categories_ for part in parts), strict=True)]
        longest = max(map(len, columns))
        _fit_to_columns(self, [np.resize(column, longest) for column in columns])  # from its start again


class OneHotEncoder(_Encoder, preprocessing.OneHotEncoder):
    """scikit-learn's `OneHotEncoder`, exactly; of rare categories it does not know."""


class OrdinalEncoder(_Encoder, preprocessing.OrdinalEncoder):
    """scikit-learn's `OrdinalEncoder`, exactly; of rare categories it does not know."""


class QuantileTransformer(FitsChunks, preprocessing.QuantileTransformer):
    """scikit-learn's `QuantileTransformer` of all rows, but for ranks that differ by at most `1 / n_quantiles`."""

    def _fit_chunks(self, data: Chunks) -> None:
        rows, parts = self._fit_to_each(data, clone(self).set_params(subsample=None))
        self.n_quantiles_ = min(self.n_quantiles, int(rows.sum()))
        self.references_ = np.linspace(0, 1, self.n_quantiles_)
        self.quantiles_ = np.column_stack([self._mixed(rows, parts, n) for n in range(self.n_features_in_)])

    def _mixed(self, rows: Any, parts: list[Any], column: int) -> Any:
        """The quantiles of a column of all chunks: the inverse of the mean of their distribution functions.

        A value that many rows have has many ranks: the least and the greatest one count.
        """
        found = [(part.quantiles_[:, column], part.references_) for part in parts]
        known = np.array([not np.isnan(quantiles).any() for quantiles, _ in found])  # in the others it has no value
        if not known.any():
            return np.full(len(self.references_), np.nan)
        found, rows = [part for part, is_known in zip(found, known, strict=True) if is_known], rows[known]
        values = np.unique(np.concatenate([quantiles for quantiles, _ in found]))
        least = [-np.interp(-values, -quantiles[::-1], -ranks[::-1]) for quantiles, ranks in found]
        ranks = np.average([least, [np.interp(values, *part) for part in found]], axis=1, weights=rows)
        return np.interp(self.references_, ranks.T.ravel(), np.repeat(values, 2))
