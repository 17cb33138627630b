"""What a watch sees of what tasks may change, and what it takes for unknown."""

from __future__ import annotations

import abc
import collections
import copyreg
import dataclasses
import enum
import functools
import itertools
import random
import types
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest

from minidask.pickling.watch import MAX_PLACES, Watch, has_state

VALUE: Any = 1
NUMBERS: list[int] = []


def watched(*objects: Any) -> Watch:
    watch = Watch()
    watch.add(*objects)
    assert watch.unknown or watch.unchanged()
    return watch


class Model(abc.ABC):  # noqa: B024 - it stands for any with such a metaclass
    factor = 2
    options: ClassVar[dict[str, Any]] = {"a": [1, 2]}

    def __init__(self) -> None:
        self.own: list[int] = []


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Data:
    x: int = 1
    many: list[int] = dataclasses.field(default_factory=list)


def by_value(obj: Any) -> Any:
    """As it is in a slot, where no module has it."""
    obj.__module__ = "__main__"
    return obj


def function_with(globals_: dict[str, Any], default: Any = None) -> Any:
    source = "def f(x, d=default):\n    return value"
    space = {"__name__": "__main__", "default": default, **globals_}
    exec(source, space)
    return space["f"]


CHANGES: list[tuple[Any, Callable[[Any], object]]] = [
    ([1], lambda obj: obj.append(2)),
    ([1], lambda obj: obj.__setitem__(0, True)),
    ({"a": 1}, lambda obj: obj.__setitem__("b", obj.pop("a"))),
    ({"a": {"b": [1]}}, lambda obj: obj["a"]["b"].clear()),
    ({1}, lambda obj: obj.add(2)),
    (([],), lambda obj: obj[0].append(1)),
    (collections.deque([1]), lambda obj: obj.rotate(1) or obj.append(1)),
    (collections.defaultdict(list), lambda obj: obj["new"]),
    (bytearray(b"ab"), lambda obj: obj.reverse()),
    (np.zeros(3), lambda obj: obj.fill(1)),
    (functools.partial(max, key={}), lambda obj: obj.keywords.update(a=1)),
    (function_with({"value": 1}), lambda obj: obj.__globals__.update(value=2)),
    (function_with({"value": [1]}), lambda obj: obj.__globals__["value"].append(2)),
    (function_with({"value": 1}), lambda obj: setattr(obj, "calls", 1)),
    (function_with({"value": 1}, []), lambda obj: obj.__defaults__[0].append(1)),
    (function_with({"value": 1}), lambda obj: setattr(obj, "__defaults__", (1,))),
    (types.MappingProxyType({"a": [1]}), lambda obj: obj["a"].append(1)),
]


@pytest.mark.parametrize(("obj", "change"), CHANGES)
def test_a_change_is_seen(obj: Any, change: Callable[[Any], object]) -> None:
    watch = watched(obj)
    assert watch.unchanged()
    change(obj)
    assert not watch.unchanged()


def test_changes_of_a_class_and_its_instances() -> None:
    changes: list[Callable[[Any], object]] = [
        lambda kind: setattr(kind, "factor", 3),
        lambda kind: setattr(kind, "new", 3),
        lambda kind: kind.options["a"].append(3),
        lambda kind: delattr(kind, "__init__"),
    ]
    for change in changes:
        kind: Any = by_value(type("Model", Model.__bases__, {**vars(Model), "options": {"a": [1]}}))
        watch = watched(kind)
        assert watch.unchanged()
        change(kind)
        assert not watch.unchanged()
    model = Model()
    watch = watched(model)
    model.own.append(1)
    assert not watch.unchanged()


def test_a_cell_that_changes() -> None:
    count = 0

    def counting() -> int:
        nonlocal count
        count += 1
        return count

    function = types.FunctionType(counting.__code__, {}, closure=counting.__closure__)
    watch = watched(function)
    assert watch.unchanged()
    function()
    assert not watch.unchanged()


def test_what_pickling_leaves_in_a_class_is_no_change() -> None:
    kind: Any = by_value(type("Kind", (), {"__module__": "__main__"}))
    watch = watched(kind)
    assert copyreg._slotnames(kind) == []  # type: ignore[attr-defined]
    kind().__reduce_ex__(5)
    assert kind.__annotations__ == {}
    assert watch.unchanged()


@pytest.mark.parametrize(
    "obj",
    [
        random.Random(1),
        np.random.RandomState(1),
        np.random.default_rng(1),
        itertools.count(),
        np.array([[]], dtype=object),
        functools.cache(lambda: 1),
        [[] for _ in range(MAX_PLACES)],
    ],
    ids=lambda obj: type(obj).__name__,
)
def test_what_changes_unseen_is_unknown(obj: Any) -> None:
    assert watched(obj).unknown
    assert watched([function_with({"value": obj})]).unknown


@pytest.mark.parametrize("obj", [Model, Colour, Colour.RED, Data, Data(), np.mean, np.sin, np.float64, np.dtype("f8")])
def test_usual_things_are_known(obj: Any) -> None:
    assert not watched(obj).unknown


def stores() -> None:
    global VALUE
    VALUE = 2


def appends() -> None:
    NUMBERS.append(1)


def plain(x: int = 1) -> Any:
    return x, np.mean, VALUE, plain


def test_functions_with_state_and_without() -> None:
    assert not has_state(appends), "it is imported"
    assert not has_state(np.random.RandomState)
    for function in (stores, appends, plain):
        by_value(function)
    assert [has_state(function) for function in (stores, appends, plain)] == [True, True, False]
    assert not has_state(functools.partial(plain, 1))
    assert not has_state(lambda x: x)
    assert has_state(functools.partial(plain, []))
    assert has_state(np.random.RandomState(0).randint)
    assert has_state(lambda x, seen=[]: seen)


def defined(source: str, name: str) -> Any:
    """What a source defines under this name, in a module that no worker can import."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(source, space)
    return space[name]


@pytest.mark.parametrize(
    ("source", "change"),
    [
        ("def it(): pass", lambda it: setattr(it, "__name__", "other")),
        ("def it(): pass", lambda it: setattr(it, "__qualname__", "other")),
        ("def it(): pass", lambda it: setattr(it, "__module__", "other")),
        ("def it(): pass", lambda it: setattr(it, "__doc__", "other")),
        ("def it(): pass", lambda it: setattr(it, "__annotations__", {"x": int})),
        ("def it(): pass", lambda it: it.__annotations__.update(x=int)),
        ("class it: pass", lambda it: setattr(it, "__name__", "other")),
        ("class it: pass", lambda it: setattr(it, "__qualname__", "other")),
        ("class A: pass\nclass B: pass\nclass it(A): B = B", lambda it: setattr(it, "__bases__", (it.B,))),
        ("class A: pass\nclass B(A): pass\nit = A(); it.other = B", lambda it: setattr(it, "__class__", it.other)),
        ("class A: pass\nit = A()", lambda it: setattr(it, "__dict__", {"x": 1})),
        ("import enum\nclass E(enum.Enum): A = 1\nit = E.A", lambda it: setattr(it, "seen", 1)),
        ("class A:\n    def m(self): pass\nit = A()", lambda it: setattr(type(it).m, "__doc__", "other")),
    ],
)
def test_what_a_thing_has_beside_its_dict_is_watched(source: str, change: Callable[[Any], None]) -> None:
    watch, it = Watch(), defined(source, "it")
    watch.add(it)
    assert not watch.unknown and watch.unchanged()
    change(it)
    assert not watch.unchanged()
