"""Any message that its declaration allows, and any that is beyond it in one field."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any, Union

import hypothesis.strategies as st

from minidask.wire import messages as m
from minidask.wire.bounds import Depth, OneOf, Range
from minidask.wire.large import blob_id

TEXT = st.text(st.characters(), max_size=10)  # with lone surrogates: the text of an exception may be anything
PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT
LONGEST = 1 << 13  # longer values would take too long to make


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values that a field with this annotation may have."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return st.one_of(*(values(part) for part in arguments))
    if origin is Annotated:
        return _within(arguments[0], arguments[1])
    if hint == m.Payload:
        return st.lists(st.binary(max_size=20).map(bytearray), max_size=3)
    if hasattr(hint, "_fields"):
        hints = typing.get_type_hints(hint, include_extras=True)
        return st.tuples(*(values(hints[name]) for name in hint._fields)).map(list)
    if origin is list:
        return st.lists(values(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        str: TEXT, bool: st.booleans(), type(None): st.none(), Any: PLAIN
    }  # fmt: skip
    return simple[hint]


def _within(kind: Any, bound: Any) -> st.SearchStrategy[Any]:
    if isinstance(bound, OneOf):
        return st.sampled_from([*map(str, bound.texts)])
    if isinstance(bound, Depth):
        return values(kind)
    if isinstance(bound, Range):
        if kind is int:
            return st.integers(int(bound.low), int(bound.high))
        return st.floats(bound.low, bound.high, allow_nan=False)
    low, high = bound.low, min(bound.high, bound.low + 3)
    if kind == m.Payload:
        return st.lists(st.binary(max_size=20).map(bytearray), min_size=low, max_size=high)
    if typing.get_origin(kind) is list:
        of_any = st.lists(values(typing.get_args(kind)[0]), min_size=low, max_size=high)
        return of_any.filter(lambda some: not len(some) % 2) if bound.even else of_any
    if typing.get_origin(kind) is dict:
        return values(kind)
    return (
        st.binary(min_size=low, max_size=high) if kind is bytes else st.text(st.characters(), min_size=low, max_size=10)
    )


def _plain(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _beyond(hint: Any) -> list[Any]:
    """Values of the right type that a field with this annotation may not have."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return [value for part in arguments for value in _beyond(part)]
    if origin is list and not hasattr(arguments[0], "_fields"):
        return [[value] for value in _beyond(arguments[0])]
    if origin is list:
        return [[[]], [["address", "name", -1, {}]], [["address", "name", 1, {"package": 1}]], [7], ["xyzw"]]
    if origin is not Annotated:
        return []
    kind, bound = arguments[:2]
    inner = _beyond(kind)
    if isinstance(bound, OneOf):
        return [*inner, "", "nonesuch"]
    if isinstance(bound, Depth):
        deep: Any = []
        for _ in range(bound.most):
            deep = {"deep": deep} if type(deep) is list else [deep]
        return [{"deep": deep}, {"deep": [deep]}]
    if isinstance(bound, Range):
        numbers = [bound.low - 1, bound.high + 1]
        beyond = [
            n for n in numbers if not bound.low <= n <= bound.high and (kind is float or -(1 << 63) <= n < 1 << 64)
        ]
        return [*inner, *map(kind, beyond)] + ([float("nan")] if kind is float else [])
    lengths = [n for n in (bound.low - 1, bound.high + 1, *([1] if bound.even else [])) if 0 <= n <= LONGEST]
    if kind == m.Payload:
        return []
    if typing.get_origin(kind) is list:
        return [*inner, *([0] * n for n in lengths)]
    if typing.get_origin(kind) is dict:
        fine: Any = {str: "1", float: 1.0}[_plain(typing.get_args(kind)[1])]
        bad = [{"first": fine, "second": value} for value in _beyond(typing.get_args(kind)[1]) if value != ""]
        return [{str(i): fine for i in range(n)} for n in lengths] + [{"of no type": [1]}, {b"name": fine}, *bad]
    return [(b"x" if kind is bytes else "x") * n for n in lengths]


def messages(kind: Any) -> st.SearchStrategy[m.Message]:
    """Messages of this type."""
    hints = typing.get_type_hints(kind, include_extras=True)
    some = st.tuples(*(values(hints[name]) for name in kind._fields)).map(kind._make)
    if kind is m.PutBlob:
        return some.map(lambda put: put._replace(blob=blob_id(put.payload)))
    return some.filter(lambda message: not message.unsound()) if hasattr(kind, "unsound") else some


def _beyond_in_one(kind: Any) -> list[st.SearchStrategy[tuple[m.Message, str]]]:
    hints = typing.get_type_hints(kind, include_extras=True)
    bad = [(name, value) for name in kind._fields if name != "payload" for value in _beyond(hints[name])]
    return [messages(kind).map(lambda good, n=name, v=value: (good._replace(**{n: v}), n)) for name, value in bad]


any_message = st.one_of(*(messages(kind) for kind in m.CODES))
beyond = st.one_of(*(strategy for kind in m.CODES for strategy in _beyond_in_one(kind)))
