"""Workloads of scikit-learn, which is what most people use joblib for."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from bench.timing import timed
from bench.workload import Setting, workload


@functools.cache
def _digits(short: bool) -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.data[:200], digits.target[:200]) if short else (digits.data, digits.target)


@workload("RandomizedSearchCV of 50 support vector machines", "s")
def randomized_search(setting: Setting) -> float:
    from sklearn.model_selection import RandomizedSearchCV
    from sklearn.svm import SVC

    space = {"C": np.logspace(-6, 6, 13), "gamma": np.logspace(-8, 8, 17), "class_weight": [None, "balanced"]}
    search = RandomizedSearchCV(SVC(), space, cv=3, n_iter=4 if setting.short else 50, random_state=0)
    return timed(lambda: search.fit(*_digits(setting.short)), lambda s: s.best_score_ > 0.05)


@workload("RandomizedSearchCV of 50 SVMs: makespan over sum of fit and score times / workers", "% over")
def randomized_makespan(setting: Setting) -> float:
    from sklearn.model_selection import RandomizedSearchCV
    from sklearn.svm import SVC

    space = {"C": np.logspace(-6, 6, 13), "gamma": np.logspace(-8, 8, 17), "class_weight": [None, "balanced"]}
    fits = 4 if setting.short else 50
    search = RandomizedSearchCV(SVC(), space, cv=3, n_iter=fits, random_state=0, refit=False)
    seconds = timed(lambda: search.fit(*_digits(setting.short)), lambda s: len(s.cv_results_["params"]) == fits)
    results = search.cv_results_
    work = 3 * float(np.sum(results["mean_fit_time"] + results["mean_score_time"]))
    return (seconds * setting.workers / work - 1) * 100


@workload("GridSearchCV of 200 short fits", "s")
def grid_search(setting: Setting) -> float:
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV

    grid = {"alpha": np.logspace(-3, 3, 2 if setting.short else 40)}
    search = GridSearchCV(Ridge(), grid, cv=5)
    return timed(lambda: search.fit(*_digits(setting.short)), lambda s: s.best_score_ > 0)


@workload("RandomForestClassifier of 400 trees", "s")
def forest(setting: Setting) -> float:
    from sklearn.ensemble import RandomForestClassifier

    trees = 10 if setting.short else 400
    model = RandomForestClassifier(trees, n_jobs=-1, random_state=0)
    return timed(lambda: model.fit(*_digits(setting.short)), lambda m: len(m.estimators_) == trees)


@workload("search over 12 forests of 30 trees, nested", "s")
def nested_forests(setting: Setting) -> float:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV

    model = RandomForestClassifier(5 if setting.short else 30, n_jobs=-1, random_state=0)
    search = GridSearchCV(model, {"max_depth": [2, 4, 8, None]}, cv=3)
    return timed(lambda: search.fit(*_digits(setting.short)), lambda s: s.best_score_ > 0.3)
