"""Searches on real workers: the same result with any number of them, and after everything was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import SGDClassifier

import minidask
from minidask.ml import Chunks, HyperbandSearchCV, IncrementalSearchCV, SuccessiveHalvingSearchCV, chunks
from tests.helpers import Started, wait_until

X, Y = load_digits(return_X_y=True)
SPACE = {"alpha": np.logspace(-6, 2, 60), "penalty": ["l2", "l1", "elasticnet"]}
SGD = SGDClassifier(random_state=0)


@pytest.fixture
def data(client: minidask.Client, tmp_path: Path) -> Chunks:
    np.save(tmp_path / "X.npy", X)
    return chunks((tmp_path / "X.npy", Y), rows=200)


def what_counts(search: Any) -> Any:
    kept = ("model_id", "test_score", "rank_test_score", "partial_fit_calls")
    return [search.cv_results_[name].tolist() for name in kept], search.best_params_, search.best_score_


def test_the_same_seed_gives_the_same_result_with_any_number_of_workers(data: Chunks) -> None:
    made = [HyperbandSearchCV(SGD, SPACE, max_iter=4, aggressiveness=2, random_state=0).fit(data)]
    with minidask.Client(n_workers=1):
        made.append(HyperbandSearchCV(SGD, SPACE, max_iter=4, aggressiveness=2, random_state=0).fit(data))
    assert what_counts(made[0]) == what_counts(made[1])
    np.testing.assert_array_equal(made[0].best_estimator_.coef_, made[1].best_estimator_.coef_)
    assert made[0].metadata == made[0].metadata_
    assert made[0].metadata["n_models"] == len(made[0].cv_results_["params"])


def test_the_best_model_was_trained_as_a_loop_would_and_predicts_chunks(data: Chunks) -> None:
    search = SuccessiveHalvingSearchCV(SGD, SPACE, 6, 1, random_state=3).fit(data)
    best = search.model_history_[search.best_index_]
    assert [entry["partial_fit_calls"] for entry in best] == [1, 3]
    assert best[-1]["score"] == search.best_score_ == search.cv_results_["test_score"][search.best_index_]
    assert search.predict(data).shape == (len(X),)
    assert search.score(data) > 0.7


def test_patience_ends_the_training_of_models_without_progress(data: Chunks) -> None:
    search = IncrementalSearchCV(SGD, SPACE, 4, max_iter=12, patience=2, tol=0.01, random_state=0).fit(data)
    assert search.metadata_["partial_fit_calls"] < search.metadata["partial_fit_calls"] == 48
    fewer = IncrementalSearchCV(SGD, SPACE, 6, decay_rate=1, max_iter=4, random_state=0).fit(data)
    assert sorted(fewer.cv_results_["partial_fit_calls"]) == [1, 1, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("model", "resource", "space"),
    [
        (HistGradientBoostingClassifier(random_state=0, max_leaf_nodes=5), "max_iter", {"learning_rate": [0.01, 0.3]}),
        (RandomForestClassifier(random_state=0), "n_estimators", {"max_depth": [1, 8]}),
    ],
    ids=["boosting", "forest"],
)
def test_trees_are_a_resource(model: Any, resource: str, space: Any, data: Chunks) -> None:
    search = SuccessiveHalvingSearchCV(model, space, "grid", 2, 4, 2, resource=resource, random_state=0).fit(data)
    assert search.best_params_ in ({"learning_rate": 0.3}, {"max_depth": 8})
    assert search.best_estimator_.get_params()[resource] == 4
    assert sorted(search.cv_results_["partial_fit_calls"]) == [2, 4]


class Stumps(ClassifierMixin, BaseEstimator):
    """Learns nothing; `rounds_` tells what each call of `fit` has added to what it went on from."""

    def __init__(self, n_estimators: int = 100, quality: float = 0.0) -> None:
        self.n_estimators = n_estimators
        self.quality = quality

    def _fit(self, y: Any, rounds: list[int]) -> Any:
        self.classes_, self.rounds_ = np.unique(y), [*rounds, self.n_estimators]
        return self

    def score(self, X: Any, y: Any) -> float:
        return self.quality * sum(self.rounds_)


class LikeXGBoost(Stumps):
    def fit(self, X: Any, y: Any, xgb_model: Any = None) -> Any:
        return self._fit(y, xgb_model or [])

    def get_booster(self) -> Any:
        return self.rounds_

    def get_num_boosting_rounds(self) -> int:
        return self.n_estimators


class LikeXGBoostsForest(LikeXGBoost):
    def get_num_boosting_rounds(self) -> int:
        return 1


class LikeLightGBM(Stumps):
    def __init__(self, boosting_type: str = "gbdt", n_estimators: int = 100, quality: float = 0.0) -> None:
        super().__init__(n_estimators, quality)
        self.boosting_type = boosting_type

    def fit(self, X: Any, y: Any, init_model: Any = None) -> Any:
        return self._fit(y, init_model or [])

    @property
    def booster_(self) -> Any:
        return self.rounds_


class Plain(Stumps):
    def fit(self, X: Any, y: Any) -> Any:
        return self._fit(y, [])


@pytest.mark.parametrize(
    ("model", "rounds"),
    [
        (LikeXGBoost(), [2, 2, 4]),
        (LikeLightGBM(), [2, 2, 4]),
        (LikeXGBoostsForest(), [8]),
        (LikeLightGBM("rf"), [8]),
        (Plain(), [8]),
    ],
    ids=lambda value: repr(value),
)
def test_boosting_goes_on_from_its_rounds_and_what_cannot_is_fitted_anew(model: Any, rounds: Any, data: Chunks) -> None:
    space = {"quality": [0.01, 0.02, 0.03, 0.04]}
    search = SuccessiveHalvingSearchCV(model, space, "grid", 2, 8, 2, resource="n_estimators").fit(data)
    assert search.best_params_ == {"quality": 0.04}
    assert search.best_estimator_.rounds_ == rounds
    assert search.best_estimator_.n_estimators == 8


def test_splits_give_the_mean_score_and_the_best_model_learns_from_all(data: Chunks) -> None:
    search = SuccessiveHalvingSearchCV(SGD, SPACE, 3, cv=3, random_state=0).fit(X, Y)
    assert search.n_splits_ == 3
    assert search.score(X, Y) > 0.5


@pytest.mark.filterwarnings("ignore:resume. .*damaged")  # the record that was cut
def test_a_search_goes_on_after_it_was_ended(data: Chunks, tmp_path: Path) -> None:
    whole = SuccessiveHalvingSearchCV(SGD, SPACE, 6, random_state=0).fit(data)
    search = SuccessiveHalvingSearchCV(SGD, SPACE, 6, random_state=0, resume=tmp_path / "legs")
    search.fit(data)
    file = (tmp_path / "legs.resume").read_bytes()
    (tmp_path / "legs.resume").write_bytes(file[: len(file) // 2])  # as a kill leaves it
    assert what_counts(search.fit(data)) == what_counts(whole)
    file = (tmp_path / "legs.resume").read_bytes()
    assert what_counts(search.fit(data)) == what_counts(whole)
    assert (tmp_path / "legs.resume").read_bytes() == file, "something was trained again"


KILLED = """
import os, sys
import minidask, numpy as np
from minidask import ml
from sklearn.linear_model import SGDClassifier

class Noted(SGDClassifier):
    def partial_fit(self, X, y, classes=None):
        with open("calls", "a") as file:
            file.write("x")
        return super().partial_fit(X, y, classes)

space = {"alpha": [1e-5, 1e-4, 1e-3, 1e-2], "penalty": ["l2", "l1"]}

def searched(resume):
    search = ml.IncrementalSearchCV(Noted(random_state=0), space, "grid", max_iter=5, random_state=0, resume=resume)
    found = search.fit(data, classes=np.arange(10))
    return found.cv_results_["test_score"].tolist(), found.best_estimator_.coef_.tolist()

with minidask.Client(n_workers=2):
    data = ml.chunks(("X.npy", "Y.npy"), rows=200)
    resumed = searched("legs")
    print(os.path.getsize("calls"), resumed == searched(None))
"""
UNDER_WAY = 6
"""Two legs a worker, and those whose outcomes were not yet written."""


def test_a_search_goes_on_after_everything_was_killed(started: Started, tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "Y.npy", Y)
    (tmp_path / "search.py").write_text(KILLED)
    program, calls = started.start("search.py", seed=1), tmp_path / "calls"
    wait_until(lambda: calls.exists() and calls.stat().st_size >= 15, "15 calls were made")
    printed = started.kill(program)
    assert not printed, "it was over before it was killed"
    count, same = started.start("search.py", seed=2).communicate(timeout=60)[0].split()
    assert 40 <= int(count) <= 40 + UNDER_WAY
    assert same == "True"
