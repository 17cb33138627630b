"""Fits a model with `partial_fit` to one chunk after another. The model stays in one worker, which reads ahead.

    fit ─► a leg of chunks ─► a task: read ahead │ partial_fit, partial_fit, … ─► the model ─► the next leg

A leg ends where there is something to do with the model: it is kept, or scored after an epoch, or done. A worker that
dies costs one leg, which the cluster tries again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.utils import check_random_state, get_tags

from minidask.client.nested import get_client
from minidask.ml.data import Chunks, DataChunk, Rows, Sender, drawn_seed, each, labels, read_here
from minidask.ml.postfit import PredictsChunks


def ahead(names: Sequence[DataChunk]) -> Iterator[Rows]:
    """Read one chunk after another, the next one while the caller works on this one."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read_here, names[0])
        for following in [*names[1:], None]:
            rows = coming.result()
            if following is not None:
                coming = reader.submit(read_here, following)
            yield rows


def train(model: Any, names: Sequence[DataChunk], fit_params: dict[str, Any]) -> Any:
    """Call `partial_fit` with each chunk in turn; return the model."""
    for X, y in ahead(names):
        model.partial_fit(X, y, **fit_params) if y is not None else model.partial_fit(X, **fit_params)
    return model


def order_of_chunks(chunks: int, epochs: int, shuffle: bool, seed: int) -> list[int]:
    """Return which chunk comes when."""
    rngs = [np.random.default_rng([seed, epoch]) for epoch in range(epochs)]
    return [int(i) for rng in rngs for i in (rng.permutation(chunks) if shuffle else range(chunks))]


def with_classes(estimator: Any, found: Iterable[Any], fit_params: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `partial_fit`, with all classes if a classifier needs them; `found` has each chunk's."""
    if "classes" in fit_params or not is_classifier(estimator):
        return fit_params
    return {**fit_params, "classes": np.unique(np.concatenate(list(found)))}


@dataclass(eq=False, repr=False)
class Incremental(PredictsChunks):
    """Fits an estimator that has `partial_fit` to data larger than memory, and does what `ParallelPostFit` does.

    Args:
        estimator: the estimator.
        scoring: how `score` measures, and whether each epoch is: None, as scikit-learn takes it.
        epochs: how many times all chunks are seen.
        shuffle: whether the chunks come in another order in each epoch.
        random_state: the seed of those orders.
        resume: the path of a file that keeps the model now and then; the same fit goes on from there, in any process.
        resume_every: how many chunks come between two times.
        test: chunks that each epoch is scored on, into `scores_`. None: epochs are not scored.
    """

    estimator: Any = None
    scoring: Any = None
    _: KW_ONLY
    epochs: int = 1
    shuffle: bool = False
    random_state: Any = None
    resume: Any = None
    resume_every: int = 100
    test: Chunks | None = None

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> Incremental:
        """Fit a clone of the estimator to all chunks, or to data in memory.

        Args:
            X, y: chunks, which have y; or both in memory.
            fit_params: arguments of `partial_fit`. `classes` of a classifier are found by a pass over y if not given.
        """
        return self._fit(clone(self.estimator), X, y, fit_params, self.epochs)

    def partial_fit(self, X: Any, y: Any = None, **fit_params: Any) -> Incremental:
        """Go on with all chunks, once, or with data in memory."""
        fitted = hasattr(self, "estimator_")
        return self._fit(self.estimator_ if fitted else clone(self.estimator), X, y, fit_params, 1, new=not fitted)

    def _fit(
        self, model: Any, X: Any, y: Any, fit_params: dict[str, Any], epochs: int, *, new: bool = True
    ) -> Incremental:
        here = not isinstance(X, Chunks)
        names = Chunks([DataChunk(X, y)]) if here else X
        if here and y is None and get_tags(model).target_tags.required:
            raise ValueError(f"{type(model).__name__} requires y to be passed, but the target y is None")
        if new:
            self.scores_: list[float] = []
            found = [labels(X, y)] if here else each(names, labels)
            fit_params = with_classes(model, found, fit_params)
        seed = drawn_seed(check_random_state(self.random_state))
        order = order_of_chunks(len(names), epochs, self.shuffle, seed)
        done = 0
        while done < len(order):
            end = self._end_of_leg(done, len(order), len(names), here or names[0].shared)
            leg = [names[i] for i in order[done:end]]
            model = train(model, leg, fit_params) if here else self._on_cluster(model, leg, fit_params)
            done, self.estimator_ = end, model
            if self.test is not None and done % len(names) == 0:
                self.scores_.append(self.score(self.test))
        return self

    def _end_of_leg(self, start: int, stop: int, epoch: int, shared: bool) -> int:
        ends = [stop] if shared else [start + 2]  # of what is sent, no more than is used soon
        if self.resume is not None:
            ends.append(start - start % self.resume_every + self.resume_every)
        if self.test is not None:
            ends.append(start - start % epoch + epoch)
        return min(stop, *ends)

    def _on_cluster(self, model: Any, leg: list[DataChunk], fit_params: dict[str, Any]) -> Any:
        client = get_client()
        future = client.map(train, [model], [Sender(client).all(leg)], [fit_params], resume=self.resume)
        try:
            return future[0].result()
        finally:
            client.cancel(future, force=True)
