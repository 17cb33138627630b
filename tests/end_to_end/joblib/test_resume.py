"""`resume=`: after everything was killed, the same call computes what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed

import minidask
from minidask import errors
from tests.helpers import Started, wait_until

IN_FLIGHT = 4
"""The calls that joblib has under way on 2 workers: what is computed again after a kill."""


class Result:
    def __init__(self, value: int) -> None:
        self.value = value


def note(path: Path) -> None:
    with path.open("a") as file:
        file.write("x")


def count(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def noted(path: Path, i: int) -> Result:
    note(path)
    return Result(i)


SEARCH = """
import sys, time
import joblib, minidask, numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

class Noted(ClassifierMixin, BaseEstimator):
    def __init__(self, a=1, b="x"):
        self.a, self.b = a, b

    def fit(self, X, y):
        with open("fits", "a") as file:
            file.write("x")
        time.sleep(0.005)
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.random.RandomState(self.a + ord(self.b)).choice(self.classes_, len(X))

X = np.asfortranarray(np.random.RandomState(0).rand(120, 1200))
y = np.arange(120) % 2
grid = {"noted__a": list(range(10)), "noted__b": sorted({"x", "y", "z"})}
with minidask.Client(n_workers=2), joblib.parallel_config("minidask", resume="search"):
    search = GridSearchCV(make_pipeline(StandardScaler(), Noted()), grid, cv=4, n_jobs=-1, refit=False)
    search.fit(X, y)
print("score", search.cv_results_["mean_test_score"].sum())
"""


def test_a_search_that_was_killed_goes_on(started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another order of sets in the second process: 120 fits."""
    (tmp_path / "search.py").write_text(SEARCH)
    program = started.start("search.py", seed=1)
    wait_until(lambda: count(tmp_path / "fits") >= 40, "there were 40 fits")
    started.kill(program)
    printed = started.start("search.py", seed=2).communicate(timeout=60)[0]
    assert 120 <= count(tmp_path / "fits") <= 120 + IN_FLIGHT
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    names: dict[str, Any] = {}
    exec(
        SEARCH.replace("minidask.Client(n_workers=2)", "contextlib.nullcontext()")
        .replace('"minidask", resume="search"', '"sequential"')
        .replace("import sys", "import contextlib"),
        names,
    )
    assert printed == f"score {names['search'].cv_results_['mean_test_score'].sum()}\n"


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_a_second_call_computes_nothing(client: minidask.Client, tmp_path: Path, return_as: str) -> None:
    with joblib.parallel_config("minidask", resume=tmp_path / "kept"):
        for _ in range(2):
            results = list(Parallel(return_as=return_as)(delayed(noted)(tmp_path / "log", i) for i in range(30)))
            assert sorted(result.value for result in results) == list(range(30))
            assert {type(result) for result in results} == {Result}
    assert count(tmp_path / "log") == 30
    assert [path.name for path in tmp_path.glob("kept*")] == ["kept.resume"]


def test_more_calls_compute_what_is_new(client: minidask.Client, tmp_path: Path) -> None:
    for number in (10, 25):
        parallel = Parallel(n_jobs=2, backend="minidask", resume=str(tmp_path / "a.file"), batch_size=7)
        assert [r.value for r in parallel(delayed(noted)(tmp_path / "log", i) for i in range(number))] == [
            *range(number)
        ]
        assert count(tmp_path / "log") == number
    assert (tmp_path / "a.file").exists()


def test_map_resumes(client: minidask.Client, tmp_path: Path) -> None:
    paths = [tmp_path / "log"] * 20
    for _ in range(2):
        futures = client.map(noted, paths, range(20), resume=tmp_path / "kept")
        assert [result.value for result in client.gather(futures)] == list(range(20))
        client.cancel(futures)
    assert count(tmp_path / "log") == 20


def test_large_results_are_kept_as_they_were_returned(client: minidask.Client, tmp_path: Path) -> None:
    def large(i: int) -> Any:
        note(tmp_path / "log")
        return {"array": np.full(300_000, i), "text": "x" * 100_000}

    for _ in range(2):
        with joblib.parallel_config("minidask", resume=tmp_path / "kept"):
            for i, result in enumerate(Parallel(return_as="generator")(delayed(large)(i) for i in range(6))):
                assert (result["array"] == i).all()
                result["array"] += 1  # it is the caller's
    assert count(tmp_path / "log") == 6


def test_what_has_failed_is_computed_again(client: minidask.Client, tmp_path: Path) -> None:
    def fails_at_first(i: int) -> int:
        note(tmp_path / f"log{i}")
        if i == 3 and not (tmp_path / "mended").exists():
            raise KeyError(i)
        return i

    options: dict[str, Any] = {"resume": tmp_path / "kept", "on_error": "return", "retries": 1, "task_timeout": 20}
    for mended in (False, True):
        if mended:
            (tmp_path / "mended").touch()
        with joblib.parallel_config("minidask", **options):
            *others, failed = Parallel()(delayed(fails_at_first)(i) for i in range(4))
        assert others == [0, 1, 2]
        assert failed == 3 if mended else isinstance(failed, KeyError)
    assert [count(tmp_path / f"log{i}") for i in range(4)] == [1, 1, 1, 3]


def test_another_function_is_another_call(client: minidask.Client, tmp_path: Path) -> None:
    with joblib.parallel_config("minidask", resume=tmp_path / "kept"):
        for step in (1, 2):
            assert Parallel()(delayed(lambda i: i + step)(i) for i in range(4)) == [i + step for i in range(4)]  # noqa: B023


def test_a_nested_call_and_a_cluster_of_threads_resume_too(
    client: minidask.Client, thread_client: minidask.Client, tmp_path: Path
) -> None:
    def nested() -> list[int]:
        with joblib.parallel_config("minidask", resume=tmp_path / "kept"):
            return [r.value for r in Parallel(n_jobs=2)(delayed(noted)(tmp_path / "log", i) for i in range(6))]

    for cluster in (client, client, thread_client):
        assert cluster.submit(nested).result(20) == list(range(6))
    with joblib.parallel_config("minidask", resume=tmp_path / "kept", n_jobs=1):
        assert len(Parallel()(delayed(noted)(tmp_path / "log", i) for i in range(6))) == 6
    assert count(tmp_path / "log") == 6


TWO = """
import sys
import joblib, minidask
def call(i):
    with open("log", "a") as file:
        file.write("x")
    return i * i
with minidask.Client(n_workers=2), joblib.parallel_config("minidask", resume="both"):
    assert joblib.Parallel()(joblib.delayed(call)(i) for i in range(100)) == [i * i for i in range(100)]
"""


def test_two_programs_may_use_one_file_at_once(started: Started, tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    for least in (100, 0):
        before = count(tmp_path / "log")
        both = [started.start("two.py", seed) for seed in range(2 if least else 1)]
        assert [program.communicate(timeout=30) and program.returncode for program in both] == [0] * len(both)
        assert least <= count(tmp_path / "log") - before <= 2 * least


CLASSES = """
import enum, sys
import joblib, minidask
class Outer:
    class Inner:
        def __init__(self, value):
            self.value = value
class Kind(enum.Enum):
    A = 1
class Value:
    pass
def local():
    class Value:
        text = "local"
    return Value
LOCAL = local()
def call(i):
    with open("log", "a") as file:
        file.write("x")
    return Outer.Inner(i), Kind.A, Value(), LOCAL()
with minidask.Client(n_workers=2), joblib.parallel_config("minidask", resume="classes"):
    for inner, kind, value, local in joblib.Parallel()(joblib.delayed(call)(i) for i in range(4)):
        print(type(inner) is Outer.Inner, inner.value, kind is Kind.A, type(value) is Value, local.text)
"""


def test_results_have_the_classes_of_the_script(started: Started, tmp_path: Path) -> None:
    (tmp_path / "classes.py").write_text(CLASSES)
    for seed in range(2):
        printed = started.start("classes.py", seed).communicate(timeout=30)[0]
        assert printed == "".join(f"True {i} True True local\n" for i in range(4))
        assert count(tmp_path / "log") == 4


def test_a_damaged_file_gives_right_results(client: minidask.Client, tmp_path: Path) -> None:
    def call() -> list[int]:
        with joblib.parallel_config("minidask", resume=tmp_path / "kept"):
            return [r.value for r in Parallel()(delayed(noted)(tmp_path / "log", i) for i in range(10))]

    assert call() == list(range(10))
    kept = bytearray((tmp_path / "kept.resume").read_bytes())
    kept[len(kept) // 2] ^= 1
    (tmp_path / "kept.resume").write_bytes(kept)
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert call() == list(range(10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call() == list(range(10))
    assert count(tmp_path / "log") == 11


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1, TypeError, "resume must be a path, got 1"),
        (True, TypeError, "resume must be a path"),
        ("", ValueError, "resume must be a path"),
        (os.curdir, ValueError, "folder: add a name"),
        ("name/", ValueError, "folder: add a name"),
    ],
)
def test_what_is_no_path_is_refused(client: minidask.Client, value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        joblib.parallel_config("minidask", resume=value)
    with pytest.raises(error, match=text):
        client.map(abs, [1], resume=value)


def test_a_file_of_something_else_is_left_alone(client: minidask.Client, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b")
    parallel = Parallel(n_jobs=2, backend="minidask", resume=tmp_path / "table.csv")
    with pytest.raises(errors.MinidaskError, match=r"table\.csv is no file of kept outcomes"):
        parallel([delayed(abs)(1)])
    assert (tmp_path / "table.csv").read_text() == "a,b"


def test_nothing_is_loaded_for_it_before_it_is_used() -> None:
    code = (
        "import minidask, joblib, sys; minidask.Client; joblib.parallel_config('minidask'); print(sorted(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True).stdout
    assert "minidask.client.client" in loaded
    assert "minidask.resume" not in loaded
