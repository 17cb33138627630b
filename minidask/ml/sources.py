"""What data larger than memory may come as, and how each kind is cut into chunks: by sizes alone, nothing is read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minidask.ml.data import Chunks, DataChunk, Rows, count, filled, imported

CHUNK_BYTES = 64 << 20
"""What a chunk has if nobody says how many rows."""
TABLES = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".feather": "feather", ".arrow": "feather"}

Part = tuple[Any, int | None]
"""Rows, or how to read them, and how many they are; None if that is not known."""


def chunks(
    source: Any,
    *,
    y: str | None = None,
    columns: list[str] | None = None,
    rows: int | None = None,
    shared: bool = True,
) -> Chunks:
    """Return data larger than memory as the names of its chunks.

    Args:
        source: the path of an `.npy` file, a Zarr array, a scipy sparse `.npz`, a Parquet, CSV, Feather or Arrow file,
            of a folder of one kind, or a list of paths. A `numpy.memmap`, array, sparse matrix or `zarr.Array`. A Dask
            array or frame. A list of functions that return the X, or `(X, y)`, of a chunk. A tuple `(X, y)` of these.
        y: the column of a table that is the target.
        columns: those that X has; None: all but the target.
        rows: of a chunk; None: about 64 MiB. A table's chunks are whole row groups, or files.
        shared: whether all workers have these files under the same paths. If not, this program reads each chunk and
            sends it.

    Raises:
        TypeError: the source is nothing of that kind, or X and y cannot be cut alike.
        ValueError: `rows` is below 1, or there is no data, or X and y differ in length.
        MinidaskError: a package is missing.
    """
    if rows is not None and rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows!r}")
    source, target = source if isinstance(source, tuple) else (source, None)
    wanted = columns if columns is None or y is None else [*columns, y]
    found = list(_parts(source, rows, wanted))
    if all(counted == 0 for _, counted in found):
        raise ValueError(f"there is no data in {source!r}")
    steps = (partial(_target, y),) if y is not None else (partial(_unpaired),) if isinstance(source, list) else ()
    made = Chunks(DataChunk(X, None, counted, steps, shared) for X, counted in found)
    if target is None:
        return filled(made)
    if hasattr(target, "to_delayed") or (isinstance(target, list) and callable(target[0])):
        targets = [part for part, _ in _parts(target, rows, None)]
    else:
        made, whole = made.counted(), _opened(target)
        ends = np.cumsum([0, *(chunk.rows or 0 for chunk in made)])
        if count(whole) != ends[-1]:
            raise ValueError(f"X has {ends[-1]} rows and y has {count(whole)}")
        targets = [whole[int(a) : int(b)] for a, b in itertools.pairwise(ends)]
    if len(targets) != len(made):
        raise TypeError(f"X has {len(made)} chunks and y has {len(targets)}: they must be cut alike")
    return filled(replace(chunk, y=part, steps=()) for chunk, part in zip(made, targets, strict=True))


def _target(name: str, X: Any, y: Any) -> Rows:
    """A step: one column of a frame is the target."""
    return X.drop(columns=name), X[name]


def _unpaired(X: Any, y: Any) -> Rows:
    """A step: what a function has returned may be `(X, y)`."""
    return X if isinstance(X, tuple) else (X, y)


class _Stored:
    """An array in a file: a slice of it is how to read those rows, by `where`: the path, or the array itself."""

    def __init__(self, array: Any, where: Any) -> None:
        self.shape, self.nbytes, self.chunks = array.shape, array.nbytes, getattr(array, "chunks", None)
        self._where = where

    def __getitem__(self, rows: slice) -> partial[Any]:
        return partial(_read_rows, self._where, rows.start, rows.stop)


def _read_rows(where: Any, start: int, stop: int) -> Any:
    """Read some rows of an array in a file, and keep nothing else."""
    return np.array((np.load(where, mmap_mode="r") if isinstance(where, str) else where)[start:stop])


def _opened(source: Any) -> Any:
    """What has a shape and gives rows by slices, of a path or of itself."""
    if isinstance(source, str | Path) and Path(source).suffix == ".npy":
        return _Stored(np.load(source, mmap_mode="r"), str(Path(source).resolve()))
    if isinstance(source, str | Path) and _is_zarr(Path(source)):
        source = imported("zarr").open_array(str(source), mode="r")
    if type(source).__module__.partition(".")[0] == "zarr":
        return _Stored(source, source)
    return source.iloc if hasattr(source, "iloc") else source


def _is_zarr(path: Path) -> bool:
    return (path / "zarr.json").exists() or (path / ".zarray").exists()


def _parts(source: Any, rows: int | None, columns: list[str] | None) -> Iterator[Part]:
    if isinstance(source, str | Path):
        yield from _files(Path(source), rows, columns)
    elif isinstance(source, list) and all(callable(item) for item in source):
        yield from ((partial(item), None) for item in source)
    elif isinstance(source, list) and all(isinstance(item, str | Path) for item in source):
        for item in source:
            yield from _files(Path(item), rows, columns)
    elif hasattr(source, "to_delayed"):
        if getattr(source, "numblocks", (1, 1))[1:] not in ((), (1,)):
            raise TypeError("each block of a Dask array must have all columns: array.rechunk({1: -1})")
        yield from ((partial(_computed, b), None) for b in np.ravel(np.array(source.to_delayed(), dtype=object)))
    elif hasattr(source, "shape"):
        yield from _slices(_opened(source), source.shape[0], rows)
    else:
        raise TypeError(f"chunks() takes no {type(source).__name__}; its documentation lists what it takes")


def _computed(block: Any) -> Any:
    return block.compute(scheduler="synchronous")


def _slices(whole: Any, total: int, rows: int | None) -> Iterator[Part]:
    size = getattr(whole, "nbytes", None) or getattr(getattr(whole, "data", None), "nbytes", None) or 800 * total
    step = rows or max(1, CHUNK_BYTES * total // max(1, size))
    if stored := getattr(whole, "chunks", None):  # of Zarr: none of its own chunks is read twice
        step = max(1, step // stored[0]) * stored[0]
    for start in range(0, total, step):
        yield whole[start : min(start + step, total)], min(step, total - start)


def _files(path: Path, rows: int | None, columns: list[str] | None) -> Iterator[Part]:
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    files = sorted(p for p in path.rglob("[!._]*") if p.is_file()) if path.is_dir() else [path]
    suffixes = {file.suffix for file in files}
    if _is_zarr(path) or suffixes == {".npy"}:
        for whole in map(_opened, [path] if _is_zarr(path) else files):
            yield from _slices(whole, whole.shape[0], rows)
    elif suffixes == {".npz"}:
        for file in files:
            with np.load(file) as archive:
                yield partial(_load_npz, str(file.resolve())), int(archive["shape"][0])
    elif len(suffixes) == 1 and suffixes <= {*TABLES}:
        yield from _table(str(path.resolve()), TABLES[suffixes.pop()], rows, columns)
    else:
        raise TypeError(f"{path} has files {sorted(suffixes)}; one kind is needed, of {['.npy', '.npz', *TABLES]}")


def _load_npz(path: str) -> Any:
    return imported("scipy.sparse").load_npz(path).tocsr()


def _table(path: str, form: str, rows: int | None, columns: list[str] | None) -> Iterator[Part]:
    dataset = imported("pyarrow.dataset").dataset(path, format=form, partitioning="hive")
    for fragment in sorted(dataset.get_fragments(), key=lambda fragment: str(fragment.path)):
        known = [(fragment, None if form == "csv" else fragment.count_rows())]
        for part, counted in _row_groups(fragment, rows) if form == "parquet" else known:
            yield partial(_read_table, part, dataset.schema, columns), counted


def _row_groups(fragment: Any, rows: int | None) -> Iterator[tuple[Any, int]]:
    """Cut a Parquet file where its row groups end: each chunk has as many groups as fit."""
    groups: list[Any] = []
    size = 0
    for group in [*fragment.row_groups, None]:
        more = 0 if group is None else group.num_rows if rows else group.total_byte_size
        if groups and (group is None or size + more > (rows or CHUNK_BYTES)):
            yield fragment.subset(row_group_ids=[g.id for g in groups]), sum(g.num_rows for g in groups)
            groups, size = [], 0
        groups, size = [*groups, group], size + more


def _read_table(fragment: Any, schema: Any, columns: list[str] | None) -> Any:
    return fragment.to_table(schema=schema, columns=columns).to_pandas()
