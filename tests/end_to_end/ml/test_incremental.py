"""Incremental: the model of a plain loop over the chunks, wherever it stopped in between."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cluster import MiniBatchKMeans
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

import minidask
from minidask.ml import Chunks, Incremental, chunks

X, Y = load_digits(return_X_y=True)
SGD = SGDClassifier(random_state=0)


def in_a_loop(epochs: int = 1) -> SGDClassifier:
    model = SGDClassifier(random_state=0)
    for _ in range(epochs):
        for first in range(0, len(X), 250):
            model.partial_fit(X[first : first + 250], Y[first : first + 250], classes=np.unique(Y))
    return model


@pytest.fixture
def data(client: minidask.Client, tmp_path: Path) -> Chunks:
    np.save(tmp_path / "X.npy", X)
    return chunks((tmp_path / "X.npy", Y), rows=250)


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_model_is_that_of_a_loop(epochs: int, data: Chunks) -> None:
    fitted = Incremental(SGD, epochs=epochs).fit(data)
    np.testing.assert_array_equal(fitted.estimator_.coef_, in_a_loop(epochs).coef_)
    assert fitted.score(data) == pytest.approx(in_a_loop(epochs).score(X, Y))
    assert not hasattr(SGD, "coef_"), "the estimator that was passed is left alone"


def test_partial_fit_goes_on(data: Chunks) -> None:
    fitted = Incremental(SGD).fit(data).partial_fit(data)
    np.testing.assert_array_equal(fitted.estimator_.coef_, in_a_loop(2).coef_)


def test_chunks_that_workers_cannot_read_are_sent(client: minidask.Client) -> None:
    mine = os.getpid()

    def part(first: int) -> Any:
        assert os.getpid() == mine
        return X[first : first + 250], Y[first : first + 250]

    data = chunks([lambda first=first: part(first) for first in range(0, len(X), 250)], shared=False)
    fitted = Incremental(SGD).fit(data, classes=np.unique(Y))
    np.testing.assert_array_equal(fitted.estimator_.coef_, in_a_loop().coef_)


def test_data_in_memory_needs_no_cluster() -> None:
    fitted = Incremental(SGD, epochs=2).fit(X, Y)
    expected = SGDClassifier(random_state=0)
    for _ in range(2):
        expected.partial_fit(X, Y, classes=np.unique(Y))
    np.testing.assert_array_equal(fitted.estimator_.coef_, expected.coef_)


def test_epochs_are_shuffled_by_the_seed_and_scored(data: Chunks) -> None:
    made = [Incremental(SGD, epochs=3, shuffle=True, random_state=s, test=data[-1:]).fit(data[:-1]) for s in (1, 1, 2)]
    assert made[0].scores_ == made[1].scores_
    assert len(made[0].scores_) == 3
    assert made[0].scores_[-1] == made[0].score(data[-1:])
    assert not np.array_equal(made[0].estimator_.coef_, made[2].estimator_.coef_)


def test_without_a_target(data: Chunks) -> None:
    fitted = Incremental(MiniBatchKMeans(3, random_state=0, n_init=1)).fit(chunks(X, rows=500))
    assert fitted.predict(data).shape == (len(X),)


class Interrupted(SGDClassifier):
    """Its third `partial_fit` fails once, in the way that a file says."""

    def partial_fit(self, X: Any, y: Any, classes: Any = None, fault: str = "") -> Any:
        self.calls_ = getattr(self, "calls_", 0) + 1
        if self.calls_ == 3 and fault and Path(fault).exists():
            kind = Path(fault).read_text()
            Path(fault).unlink()
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError("the disk is gone")
        return super().partial_fit(X, y, classes)


def test_a_worker_that_is_killed_costs_a_leg(data: Chunks, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.write_text("kill")
    fitted = Incremental(Interrupted(random_state=0)).fit(data, fault=str(fault))
    assert not fault.exists()
    np.testing.assert_array_equal(fitted.estimator_.coef_, in_a_loop().coef_)


def test_a_fit_that_failed_goes_on_where_it_was_kept(data: Chunks, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.write_text("raise")
    model = Incremental(Interrupted(random_state=0), resume=tmp_path / "model", resume_every=2)
    with pytest.raises(OSError, match="the disk is gone"):
        model.fit(data, fault=str(fault))
    first = (tmp_path / "model.resume").read_bytes()
    again = clone(model).fit(data, fault=str(fault))
    np.testing.assert_array_equal(again.estimator_.coef_, in_a_loop().coef_)
    assert (tmp_path / "model.resume").read_bytes().startswith(first)
    fault.write_text("raise")
    np.testing.assert_array_equal(clone(model).fit(data, fault=str(fault)).estimator_.coef_, in_a_loop().coef_)
    assert fault.exists(), "a chunk was learned again"
