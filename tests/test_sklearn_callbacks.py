"""scikit-learn's callbacks on workers, which need not be on the caller's machine."""

from __future__ import annotations

import os
from typing import Any

import joblib
import numpy as np
import pytest

import minidask

callback = pytest.importorskip("sklearn.callback")
adapter = pytest.importorskip("minidask.sklearn_callbacks")


def fit_search() -> Any:
    from sklearn.callback.tests._utils import MaxIterEstimator, MetaEstimator

    monitor = callback.ScoringMonitor(scoring="r2")
    X = np.random.RandomState(0).rand(30, 2)
    estimator = MaxIterEstimator(max_iter=2).set_callbacks(monitor)
    MetaEstimator(estimator, n_jobs=2, prefer="processes").fit(X, X[:, 0])
    return monitor.get_logs().data


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_scores_are_those_of_a_sequential_fit_and_slots_keep_no_descriptors(client: minidask.Client) -> None:
    with joblib.parallel_config("sequential"):
        expected = fit_search()
    with joblib.parallel_config("minidask"):
        assert fit_search() == expected
        before = client.run(descriptors)
        for _ in range(10):
            assert fit_search() == expected
    assert client.run(descriptors) == before


def test_the_same_in_threads_of_this_process(thread_client: minidask.Client) -> None:
    with joblib.parallel_config("sequential"):
        expected = fit_search()
    with joblib.parallel_config("minidask"):
        assert fit_search() == expected


def test_this_scikit_learn_is_one_that_the_adapter_was_made_for() -> None:
    assert adapter._differences(adapter._transport) == []
    assert "ListenerHandle is not (address, authkey)" in adapter._differences(object())
