"""What people do with joblib and scikit-learn gives the same results as without a cluster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import joblib
import numpy as np
import pytest
import scipy.sparse
from joblib import Parallel, delayed

import minidask


def forest(x: Any, y: Any) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(20, random_state=0, n_jobs=-1).fit(x, y).predict_proba(x[:50])


def boosting(x: Any, y: Any) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import GridSearchCV

    model = HistGradientBoostingClassifier(max_iter=5, random_state=0)
    return GridSearchCV(model, {"max_depth": [2, 3]}, cv=2, n_jobs=-1).fit(x, y).cv_results_["mean_test_score"]


def text(x: Any, y: Any) -> Any:
    from sklearn.linear_model import SGDClassifier
    from sklearn.model_selection import cross_val_score

    sparse = scipy.sparse.csr_matrix(np.where(x > 0.1, x, 0))
    return cross_val_score(SGDClassifier(random_state=0), sparse, y, cv=3, n_jobs=-1)


def importance(x: Any, y: Any) -> Any:
    import pandas
    from sklearn.inspection import permutation_importance
    from sklearn.tree import DecisionTreeClassifier

    frame = pandas.DataFrame(x, columns=[f"f{i}" for i in range(x.shape[1])])
    model = DecisionTreeClassifier(random_state=0, max_depth=4).fit(frame, y)
    return permutation_importance(model, frame, y, n_repeats=2, random_state=0, n_jobs=-1).importances


def clusters(x: Any, y: Any) -> Any:
    from sklearn.cluster import KMeans

    def inertia(k: int) -> float:
        return float(KMeans(k, n_init=1, random_state=0).fit(x).inertia_)

    return Parallel(n_jobs=-1)(delayed(inertia)(k) for k in range(2, 6))


def column_means(x: np.ndarray[Any, Any], i: int) -> Any:
    return x.mean(axis=i % 2)


def remembered(x: Any, y: Any) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as name:

        def means(i: int) -> Any:
            return joblib.Memory(name, verbose=0).cache(column_means)(x, i)

        return np.concatenate(Parallel(n_jobs=-1)(delayed(means)(i) for i in range(4)))


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("work", [forest, boosting, text, importance, clusters, remembered])
def test_real_work_gives_the_same_as_without_a_cluster(
    work: Callable[[Any, Any], Any], scattered: bool, client: minidask.Client
) -> None:
    random = np.random.default_rng(0)
    x = random.random((20_000, 8))
    y = (x[:, 0] + x[:, 1] > 1).astype(int)

    def run(config: AbstractContextManager[Any]) -> Any:
        with config:
            return work(x, y)

    alone = run(joblib.parallel_config("sequential"))
    shared = run(joblib.parallel_config("minidask", scheduler=client, scatter=[x, y] if scattered else None))
    np.testing.assert_allclose(np.asarray(shared), np.asarray(alone), rtol=1e-9)
