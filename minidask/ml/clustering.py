"""k-means over chunks: k-means|| finds where to begin (Bahmani et al., 2012), and Lloyd's algorithm goes on.

A round of k-means|| draws rows with chances by their squared distance to the nearest row drawn so far. No worker has to
know the sum of these: the rows with the least `exponential / distance²` are drawn so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn import cluster
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.utils import check_random_state

from minidask.ml.data import Chunks, drawn_seed, numbered, pick
from minidask.ml.fitting import FitsChunks

ROUNDS = 5
OVERSAMPLING = 2


def _spread(X: Any, number: int, seed: int) -> tuple[int, Any, Any, Any]:
    """The rows, their sum, the sum of their squares, and one of them."""
    squares = X.multiply(X) if hasattr(X, "toarray") else X * X
    drawn = np.random.default_rng([seed, number]).integers(X.shape[0])
    return X.shape[0], np.ravel(X.sum(axis=0)), np.ravel(squares.sum(axis=0)), _dense(X[[drawn]])[0]


def _dense(X: Any) -> Any:
    return X.toarray() if hasattr(X, "toarray") else X


def _drawn(X: Any, number: int, centers: Any, n: int, seed: int) -> tuple[Any, Any]:
    """The `n` rows of a chunk that may be drawn, with their keys. Of all chunks, those with the least keys are."""
    _, distances = pairwise_distances_argmin_min(X, centers)
    with np.errstate(divide="ignore"):
        keys = np.random.default_rng([seed, number]).exponential(size=len(distances)) / distances**2
    least = np.argsort(keys)[:n]
    return keys[least], _dense(pick(X, least))


def _assigned(X: Any, number: int, centers: Any) -> tuple[Any, Any, float]:
    """For each center the sum of its rows, and how many they are; and the sum of all squared distances."""
    labels, distances = pairwise_distances_argmin_min(X, centers)
    shape, places = (len(centers), len(labels)), (labels, np.arange(len(labels)))
    sums = sparse.csr_matrix((np.ones(len(labels)), places), shape) @ X
    return _dense(sums), np.bincount(labels, minlength=len(centers)), float(distances @ distances)


class KMeans(FitsChunks, cluster.KMeans):
    """scikit-learn's `KMeans`, which begins with k-means||. With the same `init`, centers are equal to 1e-6.

    There are no `labels_`: `predict` gives them. A cluster that gets empty stays where it is.
    """

    takes = (("n_init", ("auto", 1)),)

    def _fit_chunks(self, data: Chunks) -> None:
        data, rng = numbered(data), check_random_state(self.random_state)
        found = zip(*self._pass(data, _spread, drawn_seed(rng)), strict=True)
        rows, sums, squares, first = (np.array(part) for part in found)
        n = rows.sum()
        if n < self.n_clusters:
            raise ValueError(f"{n} rows are fewer than the {self.n_clusters} clusters asked for")
        tolerance = self.tol * np.mean(squares.sum(axis=0) / n - (sums.sum(axis=0) / n) ** 2)
        if isinstance(self.init, str):
            centers = self._begun(data, first[[rng.choice(len(rows), p=rows / n)]], rng)
        else:
            centers = np.array(self.init, dtype=np.float64)
        self.n_iter_ = 0
        while self.n_iter_ < self.max_iter:
            self.n_iter_ += 1
            sums, counts, _ = self._sums(data, _assigned, centers)
            moved = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centers)
            shift, centers = ((moved - centers) ** 2).sum(), moved
            if shift <= tolerance:
                break
        self.cluster_centers_, self.inertia_, self._n_threads = centers, self._sums(data, _assigned, centers)[2], 1

    def _begun(self, data: Chunks, centers: Any, rng: Any) -> Any:
        n = OVERSAMPLING * self.n_clusters
        for _ in range(ROUNDS):
            found = zip(*self._pass(data, _drawn, centers, n, drawn_seed(rng)), strict=True)
            keys, rows = (np.concatenate(part) for part in found)
            least = np.argsort(keys)[:n]
            centers = np.concatenate([centers, rows[least][np.isfinite(keys[least])]])
        counts = self._sums(data, _assigned, centers)[1]
        few = cluster.KMeans(self.n_clusters, n_init=10, random_state=drawn_seed(rng))
        return few.fit(centers, sample_weight=counts).cluster_centers_
