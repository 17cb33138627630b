"""Data larger than memory, as the names of its chunks.

    chunks(source) ─► Chunks ─► split, shuffle, map ─► a name ─► a task ─► DataChunk.read() ─► (X, y)

A name is a few bytes: which rows of which file. The rows are read where a task uses them, so no process holds more than
the chunks it works on. `split`, `shuffle` and `map` read nothing: they give new names.
"""

from __future__ import annotations

import functools
import importlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, overload

import numpy as np
from sklearn.utils import check_random_state

from minidask.client.nested import get_client
from minidask.errors import MinidaskError

Rows = tuple[Any, Any]
"""X and y of some rows; y is None if there is none."""


@dataclass(frozen=True)
class DataChunk:
    """The name of some rows.

    Args:
        X: the rows, or a `functools.partial` that reads them where it is called.
        y: the same for the target; None if X has it, or if there is none.
        rows: how many; None if nobody has counted them.
        steps: functions of `(X, y)` that return `(X, y)`, called in this order when the rows were read.
        shared: whether workers can read it. Else the client does, and sends the rows.
    """

    X: Any
    y: Any = None
    rows: int | None = None
    steps: tuple[partial[Rows], ...] = ()
    shared: bool = True

    def read(self) -> Rows:
        """Return X and y."""
        X, y = _read(self.X), _read(self.y)
        for step in self.steps:
            X, y = step(X, y)
        return X, y

    def then(self, step: partial[Rows], rows: int | None) -> DataChunk:
        """Return this chunk with one more step, after which it has so many rows."""
        return replace(self, steps=(*self.steps, step), rows=rows)


def _read(source: Any) -> Any:
    return source() if isinstance(source, partial) else source


def pick(data: Any, rows: Any) -> Any:
    """Return some rows of an array, sparse matrix, frame or list."""
    return data.iloc[rows] if hasattr(data, "iloc") else data[rows]


def count(data: Any) -> int:
    """Return the number of rows."""
    return int(data.shape[0]) if hasattr(data, "shape") else len(data)


def _take(seed: int, part: tuple[float, float], others: bool, X: Any, y: Any) -> Rows:
    """A step: of all rows, in an order that a seed gives, those between two fractions; or all others."""
    order = np.random.default_rng(seed).permutation(count(X))
    between = slice(*(round(fraction * len(order)) for fraction in part))
    rows = np.delete(order, between) if others else order[between]
    return pick(X, rows), None if y is None else pick(y, rows)


def _taken(chunk: DataChunk, seed: int, part: tuple[float, float] = (0, 1), others: bool = False) -> DataChunk:
    rows = chunk.rows
    if rows is not None:
        between = round(part[1] * rows) - round(part[0] * rows)
        rows = rows - between if others else between
    return chunk.then(partial(_take, seed, part, others), rows)


def _on_X(function: Callable[[Any], Any], X: Any, y: Any) -> Rows:
    return function(X), y


class Chunks(Sequence[DataChunk]):
    """Data as the names of its chunks, in order; `minidask.ml.chunks` makes it. A slice is `Chunks` again."""

    def __init__(self, names: Iterable[DataChunk]) -> None:
        self._names = tuple(names)

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> DataChunk: ...
    @overload
    def __getitem__(self, index: slice) -> Chunks: ...
    def __getitem__(self, index: int | slice) -> DataChunk | Chunks:
        return Chunks(self._names[index]) if isinstance(index, slice) else self._names[index]

    def __repr__(self) -> str:
        counts = [chunk.rows for chunk in self]
        rows = "an unknown number of" if None in counts else sum(n or 0 for n in counts)
        return f"<minidask.ml.Chunks: {len(self)} chunks, {rows} rows>"

    def counted(self) -> Chunks:
        """Return the same data with all rows counted. Chunks of unknown size are read, on the cluster."""
        found = each(Chunks(chunk for chunk in self if chunk.rows is None), _count)
        return Chunks(replace(chunk, rows=next(found)) if chunk.rows is None else chunk for chunk in self)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(chunk.rows or 0 for chunk in self.counted())

    def map(self, function: Callable[[Any], Any], *, keeps_rows: bool = True) -> Chunks:
        """Return these chunks with `function(X)` in the place of X, to be called where a chunk is read.

        Args:
            keeps_rows: whether it returns a row for each row, in the same order.
        """
        step = partial(_on_X, function)
        return Chunks(chunk.then(step, chunk.rows if keeps_rows else None) for chunk in self)

    def shuffle(self, random_state: Any = None, *, within: bool = False) -> Chunks:
        """Return the chunks in a random order, and if `within`, also the rows of each."""
        rng = check_random_state(random_state)
        names = [self._names[i] for i in rng.permutation(len(self))]
        return Chunks(_taken(name, drawn_seed(rng)) if within else name for name in names)

    def split(self, test_size: float = 0.25, *, by: str = "chunk", random_state: Any = None) -> tuple[Chunks, Chunks]:
        """Return training and test data.

        Args:
            test_size: the fraction that is test data, above 0 and below 1; at least one chunk.
            by: "chunk": some chunks are test data. "row": some rows of each chunk are, which is then read for both.
                Take this if the chunks differ, because the rows are sorted.
            random_state: a seed, or what else scikit-learn takes for one.

        Raises:
            ValueError: an argument makes no sense, or there are too few chunks.
        """
        if not 0 < test_size < 1:
            raise ValueError(f"test_size must be above 0 and below 1, got {test_size!r}")
        return self._pairs([0.0, test_size], by, random_state)[0]

    def folds(self, n: int, *, by: str = "chunk", random_state: Any = None) -> list[tuple[Chunks, Chunks]]:
        """Return `n` pairs of training and test data. Each row is in one pair's test data. `by` is that of `split`."""
        if n < 2:
            raise ValueError(f"n must be at least 2, got {n!r}")
        return self._pairs([i / n for i in range(n + 1)], by, random_state)

    def _pairs(self, bounds: list[float], by: str, random_state: Any) -> list[tuple[Chunks, Chunks]]:
        """Return, for each pair of neighbouring bounds, all that is outside of them, and all that is between."""
        if by not in ("chunk", "row"):
            raise ValueError(f'by must be "chunk" or "row", got {by!r}')
        rng, parts = check_random_state(random_state), list(itertools.pairwise(bounds))
        if by == "row":
            seeds = [drawn_seed(rng) for _ in self]
            rows = [[(name, seed, part) for name, seed in zip(self, seeds, strict=True)] for part in parts]
            pairs = [(filled(_taken(*of, True) for of in fold), filled(_taken(*of) for of in fold)) for fold in rows]
            if not all(train and test for train, test in pairs):
                raise ValueError("no chunk has rows enough to be split: pass rows= for larger ones")
            return pairs
        if len(self) < max(2, len(bounds) - 1):
            raise ValueError(f'{len(self)} chunks are too few to be split: pass rows= for smaller ones, or by="row"')
        order, found = rng.permutation(len(self)), []
        for low, high in parts:
            first = round(low * len(self))
            test = {*order[first : min(max(round(high * len(self)), first + 1), first + len(self) - 1)]}
            sides = [[name for i, name in enumerate(self) if (i in test) is side] for side in (False, True)]
            found.append((Chunks(sides[0]), Chunks(sides[1])))
        return found


def filled(names: Iterable[DataChunk]) -> Chunks:
    """The chunks that are not known to be empty: hardly any estimator takes no rows."""
    return Chunks(name for name in names if name.rows != 0)


def _count(X: Any, y: Any) -> int:
    return count(X)


def numbered(data: Chunks) -> Chunks:
    """Return chunks that have their number in the place of y."""
    return Chunks(chunk.then(partial(_numbered, n), chunk.rows) for n, chunk in enumerate(data))


def _numbered(number: int, X: Any, y: Any) -> Rows:
    return X, number


def labels(X: Any, y: Any) -> Any:
    """Return all values of the target."""
    return np.unique(np.asarray(y))


def drawn_seed(rng: Any) -> int:
    """Return a new seed."""
    return int(rng.randint(2**31 - 1))


class Sender:
    """Makes of names what a task is given. What steps have, such as a model, is sent once."""

    def __init__(self, client: Any) -> None:
        self._sent = functools.cache(client.scatter_one)

    def sendable(self, chunk: DataChunk) -> DataChunk:
        """Return this name, or one with the rows in it if workers cannot read them."""
        X, y = (source if chunk.shared else _read(source) for source in (chunk.X, chunk.y))
        steps = (self._sent(step) if step.func is _on_X else step for step in chunk.steps)
        return replace(chunk, X=X, y=y, steps=tuple(steps))

    def all(self, data: Iterable[DataChunk]) -> list[DataChunk]:
        """Return what `sendable` makes of each name."""
        return [self.sendable(chunk) for chunk in data]


def each(data: Chunks, function: Callable[..., Any], *args: Any) -> Iterator[Any]:
    """Call `function(X, y, *args)` on the cluster for each chunk; yield the results in the order of the chunks.

    At most two chunks a worker are under way. The arguments are sent once.
    """
    if not len(data):
        return
    client = get_client()
    sender, shared = Sender(client), client.scatter((args,))[0]
    futures: deque[Any] = deque()
    try:
        for chunk in data:
            futures.append(client.submit(_call, function, sender.sendable(chunk), shared))
            if len(futures) >= 2 * max(1, client.slots()):
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        client.cancel(list(futures), force=True)


def _call(function: Callable[..., Any], chunk: DataChunk, args: tuple[Any, ...]) -> Any:
    return function(*read_here(chunk), *args)


def read_here(chunk: DataChunk) -> Rows:
    """Read a chunk in a worker.

    Raises:
        MinidaskError: the worker does not have its file.
    """
    try:
        return chunk.read()
    except FileNotFoundError as error:
        raise MinidaskError(
            f"a worker cannot read {error.filename}: either put it where all machines have it under the same path, or"
            " have your program read it and send it, by chunks(…, shared=False)"
        ) from error


def imported(name: str) -> Any:
    """Import a module that only some data need.

    Raises:
        MinidaskError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MinidaskError(f"{package} is needed for this, and is not installed: pip install {package}") from error
