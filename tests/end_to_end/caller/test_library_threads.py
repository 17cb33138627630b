"""The cores that libraries in a slot believe to have."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

import joblib
import pytest

import minidask
from minidask.host.resources import SHARE_VARIABLES, cpu_count

SIZES = {
    "numba": lambda module: module.get_num_threads(),
    "polars": lambda module: module.thread_pool_size(),
    "torch": lambda module: module.get_num_threads(),
    "xgboost": lambda module: module.get_config().get("nthread", 0) or joblib.cpu_count(),
}


def sizes() -> dict[str, int]:
    """By who says so: how many threads it would start."""
    import numpy as np
    import threadpoolctl

    np.ones((50, 50)) @ np.ones((50, 50))
    found = {"joblib": joblib.cpu_count()}
    found |= {pool["filepath"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    for name, size in SIZES.items():
        if importlib.util.find_spec(name):
            found[name] = size(importlib.import_module(name))
    return found


def variables() -> dict[str, str]:
    return {name: os.environ.get(name, "") for name in SHARE_VARIABLES}


def test_each_library_has_the_slots_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SHARE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for slots in (1, cpu_count()):
        with minidask.Client(n_workers=slots) as client:
            found = client.submit(sizes).result(60)
            assert set(found.values()) == {cpu_count() // slots}, found


def test_inner_max_num_threads_counts_in_its_place(client: minidask.Client) -> None:
    before = client.submit(sizes).result(60)
    for limit in (1, 2):
        with joblib.parallel_config("minidask", scheduler=client, inner_max_num_threads=limit):
            (found,) = joblib.Parallel(n_jobs=2)([joblib.delayed(sizes)()])
        pools = {name: size for name, size in found.items() if "/" in name}
        assert set(pools.values()) == {limit}, found
        assert found["joblib"] == min(limit, os.cpu_count() or 1), found
    assert client.submit(sizes).result(60) == before


def test_what_the_user_has_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: dict[str, Any] = dict.fromkeys(SHARE_VARIABLES, "1")
    for name in SHARE_VARIABLES:
        monkeypatch.setenv(name, "1")
    with minidask.Client(n_workers=1) as client:
        assert client.submit(variables).result(60) == wanted
        assert set(client.submit(sizes).result(60).values()) == {1}
