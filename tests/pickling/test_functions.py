"""What functions and classes cost: pickled once a call, sent once a worker; and a changed one is noticed."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping
from operator import add
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.svm import SVC

import minidask
from minidask.backend.backend import MinidaskBackend
from minidask.pickling import payload as p
from minidask.pickling.sharing import MAX_TWINS, Interner, dumps_naming
from minidask.wire.large import LARGE_BYTES, blob_id
from minidask.wire.messages import Payload


class Sender:
    """An interner, what it has shipped, and the other end: what a slot makes of it."""

    def __init__(self, **options: Any) -> None:
        self.shipped: dict[bytes, Payload] = {}
        self.interner = Interner(**options)
        self.table = p.SlotBlobs()

    def put(self, blobs: Mapping[bytes, Payload]) -> None:
        for blob, payload in blobs.items():
            assert blob == blob_id(payload)
            assert blob not in self.shipped, "it was shipped twice"
            self.shipped[blob] = payload

    def send(self, obj: Any) -> tuple[Any, int]:
        """What arrives, and how many bytes went along with the task."""
        payload, blobs = dumps_naming(obj, "it", self.interner)
        while self.interner.unsent:
            self.put(self.interner.unsent.popleft())
        for blob in blobs:
            self.table.put(blob, self.shipped[blob])
        task = self.table.begin(blobs, payload)
        try:
            return p.loads([bytes(part) for part in payload], "it"), sum(map(len, payload))
        finally:
            task.end()


@pytest.fixture
def sender() -> Sender:
    return Sender(large=LARGE_BYTES)


def local_class() -> type:
    class Model:
        factor = 2

        def __init__(self, n: int) -> None:
            self.n = n

        def double(self) -> int:
            return self.factor * self.n

    return Model


def test_a_class_that_cannot_be_imported_is_shipped_once(sender: Sender) -> None:
    kind = local_class()
    for n in range(20):
        model, size = sender.send(kind(n))
        assert model.double() == 2 * n
        assert size < 100
    assert len(sender.shipped) == 1


def test_a_bound_method_and_a_partial_cost_no_more(sender: Sender) -> None:
    kind = local_class()
    for n in range(20):
        method, size = sender.send(kind(n).double)
        assert method() == 2 * n
        assert size < 200
        part, size = sender.send(functools.partial(lambda a, b: a + b, n))
        assert part(1) == n + 1
        assert size < 200
    assert len(sender.shipped) == 3, "the class, its method, and the lambda"


def test_a_lambda_in_a_comprehension_is_one_function(sender: Sender) -> None:
    functions = [sender.send(lambda i: i + 1)[0] for _ in range(50)]
    assert len(sender.shipped) == 1
    assert functions[0] is functions[-1]
    assert len(sender.interner._twins) == 1


def test_a_closure_whose_variable_changes_is_another_one_each_time(sender: Sender) -> None:
    results = []
    value: Any = None

    def tell() -> Any:
        return value

    for number in range(3):
        value = [number] * 1000  # a new object, where the one before may have been
        results.append(sender.send(tell)[0]()[0])
    assert results == [0, 1, 2]


def test_closures_that_all_differ_go_along_after_some(sender: Sender) -> None:
    for number in range(2 * MAX_TWINS):
        assert sender.send(lambda n=number: n)[0]() == number
    assert len(sender.shipped) == MAX_TWINS


def test_defaults_attributes_and_recursion(sender: Sender) -> None:
    def factorial(n: int, start: int = 1) -> int:
        return start if n < 2 else n * factorial(n - 1, start)

    factorial.note = "one"  # type: ignore[attr-defined]
    first, _ = sender.send(factorial)
    factorial.__defaults__ = (10,)
    factorial.note = "two"  # type: ignore[attr-defined]
    second, _ = sender.send(factorial)
    assert [(f(4), f.note) for f in (first, second)] == [(24, "one"), (240, "two")]


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return ["logged", function(*args)]

    return wrapper


def test_decorated_functions_and_mutual_references(sender: Sender) -> None:
    @logged
    def even(n: int) -> Any:
        return True if n == 0 else odd(n - 1)

    def odd(n: int) -> Any:
        return False if n == 0 else even(n - 1)

    for _ in range(3):
        function, size = sender.send(even)
        assert function(1) == ["logged", False]
        assert size < 100
    assert len(sender.shipped) == 1


def test_classes_and_functions_that_refer_to_each_other(sender: Sender) -> None:
    class Base:
        def __init__(self) -> None:
            self.parts = 1

    class Tree(Base):
        def __init__(self, depth: int) -> None:
            super().__init__()
            self.children = [Tree(depth - 1) for _ in range(2)] if depth else []
            self.parts += sum(child.parts for child in self.children)

    def grow(depth: int) -> Tree:
        return Tree(depth)

    (function, kind), _ = sender.send((grow, Tree))
    tree = function(3)
    assert tree.parts == 15
    assert type(tree) is kind, "one class, whichever way it came"


def test_importable_ones_go_by_name(sender: Sender) -> None:
    for obj in (add, np.ndarray, SVC, cross_val_score, int, type(None)):
        assert sender.send(obj)[0] is obj
    assert not sender.shipped


def test_a_class_that_changes_between_calls_is_what_its_own_call_saw() -> None:
    """Two calls at once, in one slot: cloudpickle makes one class of both."""
    kind = local_class()
    calls = []
    for factor in (3, 5):
        kind.factor = factor  # type: ignore[attr-defined]
        calls.append(Sender())
        calls[-1].table = calls[0].table
        assert calls[-1].send(kind(1))[0].double() == factor
    assert [call.send(kind(1))[0].double() for call in (*calls, *calls)] == [3, 5, 3, 5]


def test_scikit_learns_wrapper_is_shipped_once_and_each_task_has_its_own(sender: Sender) -> None:
    from sklearn.utils.parallel import _FuncWrapper

    config, filters = {"assume_finite": True}, list(warnings.filters)
    seen = []
    for _ in range(5):
        wrapper = _FuncWrapper(local_class).with_config_and_warning_filters(config, filters)
        arrived, size = sender.send(wrapper)
        assert size < 100
        arrived.warning_filters.append("this task's own")
        seen.append(arrived)
    assert len(sender.shipped) == 1
    assert [len(wrapper.warning_filters) for wrapper in seen] == [len(filters) + 1] * 5
    assert seen[0].config == config
    assert seen[0].function is local_class


@pytest.mark.parametrize("rows", [1000, 20_000])
def test_a_slice_of_columns_is_shipped_once(rows: int, sender: Sender) -> None:
    columns = np.arange(rows * 65.0).reshape(rows, 65)[:, :-1]
    sizes = []
    for _ in range(4):
        arrived, size = sender.send(columns)
        np.testing.assert_array_equal(arrived, columns)
        sizes.append(size)
    assert max(sizes[1:]) < 300
    assert len(sender.shipped) == 1
    sender.interner.close()
    assert not sender.interner._copies


# --- whole calls ---


def spied(client: minidask.Client, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[str]]:
    """The bytes of each task, and what was pickled for all."""
    tasks: list[int] = []
    shared: list[str] = []
    original = dumps_naming

    def watch(obj: Any, what: str, interner: Any, **options: Any) -> Any:
        payload, blobs = original(obj, what, interner, **options)
        if what.startswith("task"):
            tasks.append(sum(map(len, payload)))
        elif what != "the session":
            shared.append(what)
        return payload, blobs

    monkeypatch.setattr("minidask.client.shell.dumps_naming", watch)
    monkeypatch.setattr("minidask.pickling.sharing.dumps_naming", watch)
    return tasks, shared


@pytest.mark.parametrize("batch", [1, 10])
def test_a_search_sends_its_function_estimator_class_and_data_once(
    client: minidask.Client, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    class Constant(ClassifierMixin, BaseEstimator):
        def __init__(self, label: int = 0) -> None:
            self.label = label

        def fit(self, X: Any, y: Any) -> Any:
            self.classes_ = np.unique(y)
            return self

        def predict(self, X: Any) -> Any:
            return np.full(len(X), self.label)

    X, y = load_digits(return_X_y=True)
    X = X[:, 2:]
    tasks, shared = spied(client, monkeypatch)
    monkeypatch.setattr(MinidaskBackend, "compute_batch_size", lambda self: batch)
    with joblib.parallel_config("minidask", scheduler=client):
        search = GridSearchCV(Constant(), {"label": list(range(10))}, cv=3, refit=False).fit(X, y)
    assert search.cv_results_["mean_test_score"].max() == pytest.approx(0.1, abs=0.01)
    assert sorted(shared) == [f"class {Constant.__qualname__}", "scikit-learn's wrapper of a function"]
    assert (len(tasks) == 30) == (batch == 1)
    fit = 2 * y.nbytes + 600  # y, and which rows to train and to test on
    own = 4_400  # of scikit-learn's, once in each batch: the search itself, and what its callbacks have to know
    assert sum(tasks) < X.nbytes + 30 * fit + len(tasks) * own


def calls_of(client: minidask.Client, make: Callable[[], Iterable[Any]]) -> list[Any]:
    with joblib.parallel_config("minidask", scheduler=client):
        return list(Parallel(batch_size=1)(make()))


def test_what_changes_between_calls_is_noticed(client: minidask.Client) -> None:
    kind: Any = local_class()
    space: dict[str, Any] = {"constant": 1}
    exec("def by_global(): return constant\ndef by_default(x=1): return x", space)  # as in a notebook
    cell = 1

    def by_cell() -> int:
        return cell

    def all_of_them() -> list[Any]:
        functions = [space["by_global"], space["by_default"], by_cell, kind(1).double, lambda: kind.factor]
        assert calls_of(client, lambda: [delayed(f)() for f in functions]) == [f() for f in functions]
        return [f() for f in functions]

    before = all_of_them()
    space["constant"] = 2
    space["by_default"].__defaults__ = (2,)
    cell = 2
    kind.factor = 3
    assert all(a != b for a, b in zip(before, all_of_them(), strict=True))
    kind.factor = 2
    assert all_of_them()[3:] == before[3:]
    kind = local_class()
    kind.factor = 7
    exec("def by_global(): return 'another function'", space)
    assert all_of_them()[0] == "another function"
