"""ParallelPostFit: predictions over chunks equal those in one go, wherever they are put, with one copy of the model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingClassifier, IsolationForest, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import minidask
from minidask.ml import Chunks, ParallelPostFit, chunks
from minidask.ml.data import each
from minidask.ml.trees import SharedTree, light

X, Y = load_digits(return_X_y=True)


@pytest.fixture
def data(client: minidask.Client, tmp_path: Path) -> Chunks:
    np.save(tmp_path / "X.npy", X)
    return chunks((tmp_path / "X.npy", Y), rows=250)


@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(max_iter=20),
        RandomForestClassifier(10, random_state=0),
        GradientBoostingClassifier(n_estimators=3),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_predictions_over_chunks_equal_those_in_one_go(model: Any, data: Chunks) -> None:
    model = clone(model).fit(X[:500], Y[:500])
    over = ParallelPostFit(model)
    np.testing.assert_array_equal(over.predict(data), model.predict(X))
    for method in filter(lambda name: hasattr(model, name), ("predict_proba", "decision_function")):
        # BLAS rounds by the number of rows
        np.testing.assert_allclose(getattr(over, method)(data), getattr(model, method)(X), rtol=1e-9)
    assert over.score(data) == pytest.approx(model.score(X, Y))
    np.testing.assert_array_equal(over.predict(X), model.predict(X))
    assert not hasattr(over, "transform")
    np.testing.assert_array_equal(over.classes_, model.classes_)


def test_results_go_to_a_file_or_a_folder_or_come_one_by_one(data: Chunks, tmp_path: Path) -> None:
    model = RandomForestClassifier(5, random_state=0).fit(X[:500], Y[:500])
    over = ParallelPostFit(model)
    whole = over.predict_proba(data, out=tmp_path / "p.npy")
    assert isinstance(whole, np.memmap)
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), model.predict_proba(X))
    folder = over.predict(data, out=tmp_path / "tables")
    np.testing.assert_array_equal(pd.read_parquet(folder)["0"], model.predict(X))
    few = sum(chunk.rows or 0 for chunk in data[:2])
    over.predict(data[:2], out=folder)
    np.testing.assert_array_equal(pd.read_parquet(folder)["0"], model.predict(X[:few]), "nothing is left of before")
    assert [len(part) for part in over.stream(data, "predict")] == [chunk.rows for chunk in data]


def test_transformed_chunks_are_chunks(data: Chunks) -> None:
    model = make_pipeline(StandardScaler(), PCA(5)).fit(X)
    transformed = ParallelPostFit(model).transform(data)
    found = np.concatenate(list(each(transformed, lambda X, y: X)))
    np.testing.assert_allclose(found, model.transform(X))
    assert transformed.rows == len(X)
    np.testing.assert_allclose(transformed[0].read()[0], model.transform(X[:250]))


@pytest.mark.parametrize("scoring", [None, "neg_mean_absolute_error", "r2", "neg_root_mean_squared_error"])
def test_scores_of_regressors_are_those_of_all_rows(scoring: Any, data: Chunks) -> None:
    model = Ridge().fit(X[:500], Y[:500])
    over = ParallelPostFit(model, scoring=scoring)
    assert over.score(data) == pytest.approx(over.score(X, Y))


@pytest.mark.parametrize("scoring", ["f1_macro", "roc_auc_ovr", "neg_log_loss"])
def test_a_measure_that_is_no_mean_over_rows_is_exact_too(scoring: str, data: Chunks) -> None:
    over = ParallelPostFit(RandomForestClassifier(5, random_state=0), scoring=scoring).fit(X[:500], Y[:500])
    assert over.score(data) == pytest.approx(over.score(X, Y))


def test_chunks_are_not_fitted_and_the_error_says_what_to_do(data: Chunks) -> None:
    with pytest.raises(TypeError, match="Incremental"):
        ParallelPostFit(Ridge()).fit(data)
    with pytest.raises(ValueError, match="not fitted"):
        ParallelPostFit(Ridge()).predict(data)


def test_frames_keep_the_names_of_their_columns(client: minidask.Client, tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=[f"p{i}" for i in range(64)]).assign(digit=Y)
    frame.to_parquet(tmp_path / "a.parquet", row_group_size=300)
    data = chunks(tmp_path, y="digit", rows=300)
    model = StandardScaler().set_output(transform="pandas").fit(frame.drop(columns="digit"))
    found = pd.concat(list(each(ParallelPostFit(model).transform(data), lambda X, y: X)))
    assert list(found.columns) == list(frame.columns[:-1])


def memory_of(X: Any, y: Any, model: Any) -> tuple[int, int]:
    model(X)
    return os.getpid(), psutil.Process().memory_full_info().uss


@pytest.mark.parametrize(("trees", "rows"), [(20, 30_000), (300, 2_000)])
def test_a_machine_has_one_copy_of_a_forest(trees: int, rows: int, client: minidask.Client) -> None:
    """What a worker has for itself does not grow by the forest, of large trees or of small: one is built at a time."""
    rng = np.random.default_rng(0)
    big = rng.normal(size=(rows, 4))
    forest = ExtraTreesRegressor(trees, random_state=0, bootstrap=False).fit(big, rng.normal(size=rows))
    nodes = sum(tree.tree_.__getstate__()["nodes"].nbytes for tree in forest.estimators_)
    assert nodes > 40e6
    data = chunks([lambda: big[:1000]] * 8)
    over = ParallelPostFit(forest)
    before = dict(each(data, memory_of, abs))
    np.testing.assert_allclose(over.predict(data), np.tile(forest.predict(big[:1000]), 8))
    after = dict(each(data, memory_of, light(forest).predict))
    assert before.keys() & after.keys()
    for pid in before.keys() & after.keys():
        assert after[pid] - before[pid] < nodes / 2


def test_a_light_copy_shares_the_arrays_and_predicts_the_same() -> None:
    tree = DecisionTreeClassifier(random_state=0).fit(X, Y)
    copy = light(tree)
    assert isinstance(copy.tree_, SharedTree)
    np.testing.assert_array_equal(copy.predict(X), tree.predict(X))
    assert copy.get_depth() == tree.get_depth()
    outliers = IsolationForest(n_estimators=10, random_state=0).fit(X)
    np.testing.assert_array_equal(light(outliers).predict(X), outliers.predict(X))
