"""Estimators over chunks learn what scikit-learn's own learn from all rows at once, but for what is promised."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn import cluster, decomposition, linear_model, preprocessing
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import minidask
from minidask import ml
from minidask.ml.data import each

X, Y = load_digits(return_X_y=True)


def cut(X: Any, y: Any = None) -> ml.Chunks:
    """Data in chunks of unlike sizes, in their order."""
    n = X.shape[0]
    bounds = [0, n // 2, n // 2 + n // 3, n]
    rows = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    pick = (lambda data, part: data.iloc[part]) if hasattr(X, "iloc") else (lambda data, part: data[part])
    return ml.chunks([lambda part=part: (pick(X, part), None if y is None else y[part]) for part in rows])


def arrays(data: ml.Chunks) -> Any:
    return np.concatenate([np.asarray(part) for part in each(data, lambda X, y: X)])


def same(ours: Any, theirs: Any, rtol: float, atol: float = 0.0, but: tuple[str, ...] = ()) -> None:
    """All that scikit-learn's estimator has learned, ours has too."""
    for name, value in vars(theirs).items():
        if not name.endswith("_") or name.startswith("_") or name in but:
            continue
        if isinstance(value, list):
            for mine, other in zip(getattr(ours, name), value, strict=True):
                assert pd.Series(mine).equals(pd.Series(other)), name
        elif np.asarray(value).dtype.kind in "OU" or value is None:
            np.testing.assert_array_equal(getattr(ours, name), value, err_msg=name)
        else:
            np.testing.assert_allclose(getattr(ours, name), value, rtol, atol, err_msg=name)


# --- scalers and encoders ---


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ml.StandardScaler(), preprocessing.StandardScaler()),
        (ml.StandardScaler(with_std=False), preprocessing.StandardScaler(with_std=False)),
        (ml.StandardScaler(with_mean=False), preprocessing.StandardScaler(with_mean=False)),
        (ml.MinMaxScaler((-1, 2)), preprocessing.MinMaxScaler((-1, 2))),
        (ml.MaxAbsScaler(), preprocessing.MaxAbsScaler()),
    ],
    ids=repr,
)
@pytest.mark.parametrize("gaps", [False, True])
def test_scalers(ours: Any, theirs: Any, gaps: bool, client: minidask.Client) -> None:
    data = X.copy()
    if gaps:
        data[np.random.default_rng(0).random(X.shape) < 0.1] = np.nan
    theirs.fit(data)
    fitted = clone(ours).fit(cut(data))
    same(fitted, theirs, 1e-9, 1e-12)
    np.testing.assert_allclose(arrays(fitted.transform(cut(data))), theirs.transform(data), 1e-9, 1e-9)
    np.testing.assert_allclose(fitted.transform(data), theirs.transform(data), 1e-9, 1e-9)
    same(clone(ours).fit(data), theirs, 0)


FRAME = pd.DataFrame({
    "colour": ["red", "blue", "red", "green", None, "blue"] * 20,
    "size": [3.0, 1.0, 2.0, 1.0, 7.0, np.nan] * 20,
    "flag": (["a"] * 60 + ["b"] * 60),
})  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ml.OneHotEncoder(sparse_output=False), preprocessing.OneHotEncoder(sparse_output=False)),
        (
            ml.OneHotEncoder(drop="if_binary", sparse_output=False, handle_unknown="ignore"),
            preprocessing.OneHotEncoder(drop="if_binary", sparse_output=False, handle_unknown="ignore"),
        ),
        (ml.OrdinalEncoder(), preprocessing.OrdinalEncoder()),
    ],
    ids=repr,
)
def test_encoders(ours: Any, theirs: Any, client: minidask.Client) -> None:
    theirs.fit(FRAME)
    fitted = ours.fit(cut(FRAME))
    same(fitted, theirs, 0, but=("feature_names_in_",))
    assert list(fitted.get_feature_names_out()) == list(theirs.get_feature_names_out())
    np.testing.assert_array_equal(fitted.transform(FRAME), theirs.transform(FRAME))
    np.testing.assert_array_equal(arrays(fitted.transform(cut(FRAME))), theirs.transform(FRAME))
    of_numbers = clone(ours).fit(cut(X[:, :9].astype(int)))
    np.testing.assert_array_equal(of_numbers.categories_[2], np.unique(X[:, 2]))


def test_rare_categories_are_refused(client: minidask.Client) -> None:
    with pytest.raises(ValueError, match="OneHotEncoder takes chunks with min_frequency=None, got 3"):
        ml.OneHotEncoder(min_frequency=3).fit(cut(FRAME))


def test_quantiles_are_those_of_all_rows_but_for_a_rank(client: minidask.Client) -> None:
    data = np.random.default_rng(0).lognormal(size=(3000, 2)).cumsum(axis=0)  # chunks differ as much as they can
    theirs = preprocessing.QuantileTransformer(n_quantiles=100, subsample=None).fit(data)
    ours = ml.QuantileTransformer(n_quantiles=100).fit(cut(data))
    assert np.abs(ours.transform(data) - theirs.transform(data)).max() <= 1 / 100


def test_quantiles_of_values_that_many_rows_have(client: minidask.Client) -> None:
    rng = np.random.default_rng(0)
    data = np.column_stack([rng.choice([0.0, 1, 2], 3000, p=[0.25, 0.5, 0.25]), rng.poisson(3, 3000)])
    theirs = preprocessing.QuantileTransformer(n_quantiles=100, subsample=None).fit(data)
    ours = ml.QuantileTransformer(n_quantiles=100).fit(cut(data))
    assert np.abs(ours.transform(data) - theirs.transform(data)).max() <= 1.01 / 100


def test_quantiles_of_a_column_that_a_chunk_does_not_know(client: minidask.Client) -> None:
    data = np.random.default_rng(0).normal(size=(3000, 1))
    gaps = ml.chunks(np.concatenate([data, np.full((200, 1), np.nan)]), rows=200)
    ours = ml.QuantileTransformer(n_quantiles=100).fit(gaps)
    theirs = preprocessing.QuantileTransformer(n_quantiles=100, subsample=None).fit(data)
    assert np.abs(ours.transform(data) - theirs.transform(data)).max() <= 1 / 100


# --- PCA, SVD ---


@pytest.mark.parametrize("n", [None, 5, 0.9])
def test_pca(n: Any, client: minidask.Client) -> None:
    data = load_wine().data
    theirs = decomposition.PCA(n, whiten=True, svd_solver="full").fit(data)
    ours = ml.PCA(n, whiten=True).fit(cut(data))
    same(ours, theirs, 1e-6, 1e-6)
    np.testing.assert_allclose(arrays(ours.transform(cut(data))), theirs.transform(data), 1e-5, 1e-6)
    np.testing.assert_allclose(
        ours.inverse_transform(ours.transform(data)), theirs.inverse_transform(theirs.transform(data))
    )
    with pytest.raises(ValueError, match="n_components must be"):
        ml.PCA(14).fit(cut(data))


@pytest.mark.parametrize("kind", [np.array, sparse.csr_matrix])
def test_truncated_svd(kind: Any, client: minidask.Client) -> None:
    theirs = decomposition.TruncatedSVD(5, algorithm="arpack").fit(kind(X))
    ours = ml.TruncatedSVD(5).fit(cut(kind(X)))
    same(ours, theirs, 1e-6, 1e-6)
    np.testing.assert_allclose(arrays(ours.transform(cut(kind(X)))), theirs.transform(kind(X)), 1e-6, 1e-6)


# --- linear models ---


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("kind", [np.array, sparse.csr_matrix])
def test_least_squares(fit_intercept: bool, targets: int, kind: Any, client: minidask.Client) -> None:
    data, y = load_diabetes(return_X_y=True)
    y = y if targets == 1 else np.column_stack([y, y**2])
    for ours, theirs in [
        (ml.LinearRegression(fit_intercept=fit_intercept), linear_model.LinearRegression(fit_intercept=fit_intercept)),
        (ml.Ridge(0.1, fit_intercept=fit_intercept), linear_model.Ridge(0.1, fit_intercept=fit_intercept)),
    ]:
        theirs.fit(data, y)
        ours.fit(cut(kind(data), y))
        np.testing.assert_allclose(ours.coef_, theirs.coef_, 1e-6)
        np.testing.assert_allclose(ours.intercept_, theirs.intercept_, 1e-6)
        np.testing.assert_allclose(ours.predict(cut(data)), theirs.predict(data), 1e-6)
        if targets == 1:
            assert ours.score(cut(data, y)) == pytest.approx(theirs.score(data, y))
    with pytest.raises(ValueError, match="positive"):
        ml.LinearRegression(positive=True).fit(cut(data, y))
    with pytest.raises(ValueError, match="one alpha"):
        ml.Ridge(np.ones(targets)).fit(cut(data, y))


@pytest.mark.parametrize(("load", "C"), [(load_breast_cancer, 1.0), (load_wine, 0.1), (load_wine, 10.0)])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_logistic_regression(load: Any, C: float, fit_intercept: bool, client: minidask.Client) -> None:
    data, y = load(return_X_y=True)
    data, y = preprocessing.scale(data), np.array(["b", "a", "c"])[y]
    order = np.random.default_rng(0).permutation(len(y))
    data, y = data[order], y[order]
    theirs = linear_model.LogisticRegression(C=C, fit_intercept=fit_intercept, tol=1e-6, max_iter=1000).fit(data, y)
    ours = ml.LogisticRegression(C=C, fit_intercept=fit_intercept, tol=1e-6, max_iter=1000).fit(cut(data, y))
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-3)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-3)
    np.testing.assert_array_equal(ours.predict(cut(data)), theirs.predict(data))
    assert ours.score(cut(data, y)) == theirs.score(data, y)
    np.testing.assert_allclose(ours.predict_proba(data), theirs.predict_proba(data), atol=1e-3)


def test_poisson_regression(client: minidask.Client) -> None:
    data, y = load_diabetes(return_X_y=True)
    data, y = preprocessing.scale(data), y / y.mean()
    theirs = linear_model.PoissonRegressor(alpha=1e-4, tol=1e-6, max_iter=1000).fit(data, y)
    ours = ml.PoissonRegressor(alpha=1e-4, tol=1e-6, max_iter=1000).fit(cut(data, y))
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ours.predict(cut(data)), theirs.predict(data), rtol=1e-3)


def test_what_descent_does_not_take_is_refused(client: minidask.Client) -> None:
    with pytest.raises(ValueError, match="l1_ratio=0 or None, got"):
        ml.LogisticRegression(l1_ratio=0.5).fit(cut(X, Y))
    with pytest.raises(ValueError, match="at least 2 classes"):
        ml.LogisticRegression().fit(cut(X, np.zeros(len(X))))
    with pytest.warns(UserWarning, match="no convergence"):
        ml.LogisticRegression(max_iter=2).fit(cut(X, Y))


# --- k-means ---


def test_lloyd_by_chunk_is_lloyd(client: minidask.Client) -> None:
    begin = X[:10].copy()
    theirs = cluster.KMeans(10, init=begin, n_init=1).fit(X)
    for kind in (np.array, sparse.csr_matrix):
        ours = ml.KMeans(10, init=begin).fit(cut(kind(X)))
        same(ours, theirs, 1e-6, 1e-6, but=("labels_",))
        np.testing.assert_array_equal(ours.predict(cut(X)), theirs.labels_)
        np.testing.assert_allclose(arrays(ours.transform(cut(X))), theirs.transform(X), 1e-6)


def test_kmeans_begins_as_well_as_scikit_learn_and_its_seed_decides(client: minidask.Client) -> None:
    theirs = cluster.KMeans(10, n_init=10, random_state=0).fit(X)
    found = [ml.KMeans(10, random_state=seed).fit(cut(X)) for seed in (0, 1, 2)]
    assert min(model.inertia_ for model in found) <= 1.02 * theirs.inertia_
    np.testing.assert_array_equal(ml.KMeans(10, random_state=1).fit(cut(X)).cluster_centers_, found[1].cluster_centers_)
    with pytest.raises(ValueError, match="fewer than the 8 clusters"):
        ml.KMeans(8).fit(cut(X[:6]))
    twins = ml.KMeans(3, random_state=0).fit(cut(np.repeat([[0.0], [1.0], [5.0]], 20, axis=0)))
    assert sorted(twins.cluster_centers_.ravel()) == [0, 1, 5]


# --- a model for each chunk ---


@pytest.mark.parametrize("voting", ["hard", "soft"])
def test_models_of_chunks_vote(voting: str, client: minidask.Client) -> None:
    sizes = [0, len(X) // 2, len(X) // 2 + len(X) // 3, len(X)]
    trees = [DecisionTreeClassifier(random_state=0).fit(X[a:b], Y[a:b]) for a, b in itertools.pairwise(sizes)]
    ours = ml.BlockwiseVotingClassifier(DecisionTreeClassifier(random_state=0), voting).fit(cut(X, Y))
    sums = sum(tree.predict_proba(X) for tree in trees)
    np.testing.assert_array_equal(ours.predict(X), sums.argmax(axis=1))
    np.testing.assert_array_equal(ours.predict(cut(X)), sums.argmax(axis=1))
    assert hasattr(ours, "predict_proba") is (voting == "soft")


def test_a_chunk_may_lack_a_class_and_regressors_give_their_mean(client: minidask.Client) -> None:
    order = np.argsort(Y, kind="stable")
    ours = ml.BlockwiseVotingClassifier(GaussianNB(), "soft").fit(cut(X[order], Y[order]))
    np.testing.assert_array_equal(ours.classes_, np.arange(10))
    assert ours.predict_proba(X).shape == (len(X), 10)
    mean = ml.BlockwiseVotingRegressor(DecisionTreeRegressor(random_state=0)).fit(cut(X, Y))
    assert mean.score(cut(X, Y)) == pytest.approx(mean.score(X, Y))
    assert len(mean.estimators_) == 3


# --- what scikit-learn's users do with estimators ---


def test_in_a_pipeline_with_frames_and_pickled(client: minidask.Client, tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=[f"p{n}" for n in range(64)])
    data = cut(frame, Y)
    pipeline = make_pipeline(ml.StandardScaler(), ml.PCA(20), ml.LogisticRegression(max_iter=300)).fit(data)
    assert pipeline.predict(data).shape == (len(X),)
    assert pipeline.score(data, None) > 0.95
    assert list(pipeline[0].feature_names_in_) == list(frame.columns)
    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(again.predict(frame), pipeline.predict(data))
    np.testing.assert_array_equal(again.predict(data, out=tmp_path / "p.npy"), pipeline.predict(data))
    scaled = ml.MinMaxScaler().set_output(transform="pandas").fit_transform(data)
    assert list(scaled[0].read()[0].columns) == list(frame.columns)
    with pytest.raises(TypeError, match="have their own y"):
        ml.PCA(2).fit(data, Y)
    with pytest.raises(TypeError, match="takes no chunks"):
        ml.PCA(2).fit(data).score(data)
