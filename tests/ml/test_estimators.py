"""scikit-learn's own checks of estimators, for what is given arrays."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import check_estimator
from threadpoolctl import threadpool_limits

from minidask import ml

OURS = [
    ml.StandardScaler(), ml.MinMaxScaler(), ml.MaxAbsScaler(), ml.OneHotEncoder(), ml.OrdinalEncoder(),
    ml.QuantileTransformer(n_quantiles=10), ml.PCA(), ml.TruncatedSVD(), ml.LinearRegression(), ml.Ridge(solver="lsqr"),
    ml.LogisticRegression(max_iter=1000), ml.PoissonRegressor(max_iter=5), ml.KMeans(2),
    ml.BlockwiseVotingClassifier(DecisionTreeClassifier(random_state=0)),
    ml.BlockwiseVotingRegressor(DecisionTreeRegressor(random_state=0)),
    ml.ParallelPostFit(LogisticRegression()), ml.ParallelPostFit(LinearRegression()),
    ml.ParallelPostFit(StandardScaler()),
    ml.Incremental(SGDClassifier(random_state=0), epochs=5),
]  # fmt: skip

DRAWN = "whom k-means begins with is drawn, and weights change that: scikit-learn's own KMeans differs too"
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("KMeans", "check_sample_weight_equivalence_on_dense_data"): DRAWN,
    ("KMeans", "check_sample_weight_equivalence_on_sparse_data"): DRAWN,
}
"""Checks that an estimator does not pass, and why."""


@pytest.mark.parametrize("estimator", OURS, ids=lambda model: repr(model).replace("\n", ""))
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")  # of arrays that are not NumPy's
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # as in scikit-learn's own tests
def test_checks_of_scikit_learn(estimator: Any) -> None:
    name = type(estimator).__name__
    with threadpool_limits(1):  # on small data, threads that wait for a core cost most of the time
        failed = {
            (name, result["check_name"]): result["exception"]
            for result in check_estimator(estimator, on_fail=None, on_skip=None)
            if result["status"] == "failed"
        }
    assert failed.keys() == {known for known in EXCEPTIONS if known[0] == name}, failed
