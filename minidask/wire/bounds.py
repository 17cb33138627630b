"""What a field of a message may hold: its type, and beside it the values that are allowed. Declared once, at the field.

    Size = Annotated[int, Range(1, MOST_BYTES)]            a number
    BlobId = Annotated[bytes, Length(16, 16)]              bytes, a text, a list or a map, by its length
    blobs: Annotated[list[BlobId], Length(0, 1 << 19)]     a list, and each of its elements
    workers: list[WorkerRow]                               lists that are rows: `WorkerRow` is a named tuple
    info: Annotated[dict[str, Any], Depth(8)]              any plain value, nested so deep at most

What concerns several fields at once is a method of the message, `unsound`.

`Fields` makes one expression of all that, for each message once, at import: a check then costs a few comparisons. What
has passed can be used without another look, and be sent on: a handler needs no check of its own, and cannot raise.
"""

from __future__ import annotations

import itertools
import math
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple, Union

MOST_BYTES = 1 << 38
"""More than anything can have that is sent: the largest frame, and the largest blob."""

HUGE = (1 << 63) - 1


class Range(NamedTuple):
    """A number from `low` to `high`, both included. NaN is in no range."""

    low: float
    high: float

    def test(self, value: str) -> str:
        """The expression that is true for the value of this name."""
        return f"{self.low!r} <= {value} <= {self.high!r}"

    def test_all(self, values: str) -> str:
        """The same for all elements of a list that is not empty. Beside NaN, `min` and `max` may be any number."""
        return f"{self.low!r} <= min({values}) and max({values}) <= {self.high!r} and not isnan(sum({values}))"


class Length(NamedTuple):
    """From `low` to `high` characters, bytes, elements or entries. `even` counts only, if it says so."""

    low: int
    high: int
    even: bool = False

    def test(self, value: str) -> str:
        even = f" and not len({value}) % 2" if self.even else ""
        if self.low == self.high:
            return f"len({value}) == {self.low}"
        return (f"{self.low} <= " if self.low else "") + f"len({value}) <= {self.high}{even}"

    def test_all(self, values: str) -> str:
        if self.low == self.high:
            return f"set(map(len, {values})) == {{{self.low}}}"
        return f"{self.low} <= min(map(len, {values})) and max(map(len, {values})) <= {self.high}"


class OneOf(NamedTuple):
    """One of these texts."""

    texts: tuple[str, ...]

    def test(self, value: str) -> str:
        return f"{value} in {tuple(map(str, self.texts))!r}"

    def test_all(self, values: str) -> str:
        return f"set({values}) <= {set(map(str, self.texts))!r}"


class Depth(NamedTuple):
    """Lists and maps within one another, so many at most. What is nested deeper could not be packed again."""

    most: int

    def test(self, value: str) -> str:
        return f"depth({value}) <= {self.most}"

    def test_all(self, values: str) -> str:
        return f"depth({values}) <= {self.most + 1}"


Bound = Range | Length | OneOf | Depth

# --- what fields of many messages hold ---

Number = Annotated[int, Range(0, HUGE)]
Integer = Annotated[int, Range(-HUGE - 1, HUGE)]
Label = Annotated[str, Length(0, 4096)]
"""A name, an address or a place."""
Modules = Annotated[list[Label], Length(0, 100)]
Seconds = Annotated[float, Range(0.0, math.inf)]
Limit = Annotated[float, Range(5e-324, math.inf)]
"""Seconds, more than none."""
Size = Annotated[int, Range(1, MOST_BYTES)]
Offset = Annotated[int, Range(0, MOST_BYTES)]


def depth(value: Any) -> int:
    """How many lists and maps are within one another: 0 for a plain value, 1 for a list of those."""
    deepest, level = 0, [value]
    while level := [outer for outer in level if type(outer) in (list, dict)]:
        deepest += 1
        level = [inner for outer in level for inner in (outer if type(outer) is list else outer.values())]
    return deepest


class Fields:
    """The fields of a named tuple, apart from `payload`, as they come from the wire: a list of values.

    Attributes:
        names: of the fields.
        types: all tuples of types that the fields may have.
        fits: called with the values, whose types are right already; whether all are within their bounds.
        fits_payload: the same for the payload; None if it may have any number of buffers.
    """

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind
        self._hints = typing.get_type_hints(kind, include_extras=True)
        self.names = [name for name in kind._fields if name != "payload"]
        self.types = frozenset(itertools.product(*(_types(self._hints[name]) for name in self.names)))
        self._known: dict[str, Any] = {"depth": depth, "inf": math.inf, "isnan": math.isnan, "NoneType": type(None)}
        tests = [test for name in self.names for test in self._tests(name, self._hints[name])]
        self.fits = self._compiled(self.names, tests)
        few = [*_bounds("payload", self._hints.get("payload", list))]
        self.fits_payload = self._compiled(["payload"], few) if few else None

    def why_not(self, values: Sequence[Any]) -> str:
        """Name what is wrong with values that do not fit; an empty text if nothing is."""
        if len(values) != len(self.names):
            return f"it has {len(values)} fields in the place of {len(self.names)}"
        for name, value in zip(self.names, values, strict=True):
            if type(value) not in _types(self._hints[name]):
                return f"{name} is of type {type(value).__name__}"
            if not self._compiled([name], self._tests(name, self._hints[name]))(value):
                return f"{name} cannot be {_shown(value)}"
        return ""

    def check(self, values: Sequence[Any]) -> bool:
        """Whether types and values are what the declaration says."""
        return tuple(map(type, values)) in self.types and bool(self.fits(*values))

    def _tests(self, value: str, hint: Any) -> list[str]:
        """The expressions that are true if the value of this name, whose type is right, is within its bounds."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (Union, types.UnionType):
            inner = [test for option in arguments if option is not type(None) for test in self._tests(value, option)]
            return [f"({value} is None or ({' and '.join(inner)}))"] if inner else []
        if origin is Annotated:
            return [*_bounds(value, hint), *self._tests(value, arguments[0])]
        if origin is list:
            return self._tests_of_all(value, arguments[0])
        if origin is dict:
            keys, values = arguments
            tests = [
                *self._tests_of_all(f"list({value})", keys),
                *self._tests_of_all(f"list({value}.values())", values),
            ]
            return [f"(not {value} or ({' and '.join(tests)}))"] if tests else []
        return []

    def _tests_of_all(self, values: str, hint: Any) -> list[str]:
        if hint is Any:
            return []
        row = hasattr(hint, "_fields")
        tests = [f"set(map(type, {values})) <= {self._remember({list} if row else set(_types(hint)))}"]
        if row:
            tests.append(f"all(map({self._remember(Fields(hint).check)}, {values}))")
        if typing.get_origin(hint) is Annotated:
            tests += [bound.test_all(values) for bound in typing.get_args(hint)[1:]]
        return [f"(not {values} or ({' and '.join(tests)}))"]

    def _remember(self, thing: object) -> str:
        name = f"known{len(self._known)}"
        self._known[name] = thing
        return name

    def _compiled(self, names: Sequence[str], tests: Sequence[str]) -> Callable[..., Any]:
        test: Callable[..., Any] = eval(f"lambda {', '.join(names)}: {' and '.join(tests) or 'True'}", self._known)
        return test


def _bounds(value: str, hint: Any) -> Iterator[str]:
    if typing.get_origin(hint) is Annotated:
        yield from (bound.test(value) for bound in typing.get_args(hint)[1:])


def _types(hint: Any) -> list[type]:
    """The exact types that a value with this annotation may have. An integer goes for a float too."""
    origin = typing.get_origin(hint)
    if hint is float:
        return [float, int]
    if origin in (Union, types.UnionType):
        return [kind for option in typing.get_args(hint) for kind in _types(option)]
    return _types(typing.get_args(hint)[0]) if origin is Annotated else [origin or hint]


def _shown(value: Any) -> str:
    shown = ascii(value) if not isinstance(value, list | dict) else f"a {type(value).__name__} of {len(value)}"
    return shown if len(shown) <= 100 else f"{shown[:100]}…"
