"""What chunks() takes: each kind of source gives the same rows again, cut into the chunks that were asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import scipy.sparse
from sklearn.datasets import load_digits

import minidask.ml
import minidask.ml.sources
from minidask.errors import MinidaskError
from minidask.ml import Chunks, chunks

X, Y = load_digits(return_X_y=True)
FRAME = pd.DataFrame(X, columns=[f"p{i}" for i in range(64)]).assign(target=Y)


def joined(data: Chunks) -> tuple[Any, Any]:
    """All rows, as arrays."""
    read = [chunk.read() for chunk in data]
    together = [x.toarray() if hasattr(x, "toarray") else np.asarray(x) for x, _ in read]
    targets = [y for _, y in read if y is not None]
    return np.concatenate(together), np.concatenate(targets) if targets else None


def npy(folder: Path) -> Any:
    np.save(folder / "X.npy", X)
    np.save(folder / "y.npy", Y)
    return folder / "X.npy", folder / "y.npy"


def fortran(folder: Path) -> Any:
    np.save(folder / "X.npy", np.asfortranarray(X))
    return str(folder / "X.npy"), Y


def memmap(folder: Path) -> Any:
    mapped = np.memmap(folder / "X", dtype=X.dtype, mode="w+", shape=X.shape)
    mapped[:] = X
    return mapped, Y


def zarr(folder: Path) -> Any:
    import zarr as package

    package.create_array(str(folder / "X"), data=X, chunks=(100, 64))
    package.create_array(str(folder / "y"), data=Y, chunks=(100,))
    return folder / "X", package.open_array(str(folder / "y"))


def sparse(folder: Path) -> Any:
    for number, first in enumerate(range(0, len(X), 300)):
        scipy.sparse.save_npz(folder / f"{number}.npz", scipy.sparse.csr_matrix(X[first : first + 300]))
    return folder, Y


def functions(folder: Path) -> Any:
    return [lambda i=i: (X[i : i + 300], Y[i : i + 300]) for i in range(0, len(X), 300)]


def several_files(folder: Path) -> Any:
    np.save(folder / "a.npy", X[:1000])
    np.save(folder / "b.npy", X[1000:])
    return [folder / "a.npy", folder / "b.npy"], Y


@pytest.mark.parametrize(
    "source",
    [npy, fortran, memmap, zarr, sparse, functions, several_files, lambda _: (X, Y), lambda _: (pd.DataFrame(X), Y)],
    ids=lambda source: source.__name__.strip("<>"),
)
def test_all_rows_come_back_in_their_order(source: Any, tmp_path: Path) -> None:
    data = chunks(source(tmp_path), rows=300)
    assert 6 <= len(data) <= 7
    np.testing.assert_array_equal(joined(data)[0], X)
    np.testing.assert_array_equal(joined(data)[1], Y)
    assert all(chunk.rows in (None, len(chunk.read()[1])) for chunk in data)


@pytest.mark.parametrize("form", ["parquet", "csv", "feather"])
@pytest.mark.parametrize("files", [1, 3])
def test_a_table_gives_frames_with_the_target_apart(
    form: str, files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minidask.ml.sources, "CHUNK_BYTES", 20_000)
    for number, part in enumerate(np.array_split(np.arange(len(X)), files)):
        table = pa.Table.from_pandas(FRAME.iloc[part], preserve_index=False)
        path = tmp_path / f"{number}.{form}"
        if form == "parquet":
            pyarrow.parquet.write_table(table, path, row_group_size=200)
        elif form == "csv":
            FRAME.iloc[part].to_csv(path, index=False)
        else:
            pyarrow.feather.write_feather(table, str(path))
    data = chunks(tmp_path if files > 1 else path, y="target")
    read = [chunk.read() for chunk in data]
    assert len(data) > files if form == "parquet" else len(data) == files
    pd.testing.assert_frame_equal(pd.concat([x for x, _ in read], ignore_index=True), FRAME.drop(columns="target"))
    np.testing.assert_array_equal(np.concatenate([y for _, y in read]), Y)
    few = chunks(tmp_path, y="target", columns=["p5", "p7"])
    assert list(few[0].read()[0].columns) == ["p5", "p7"]


def test_row_groups_are_put_together_up_to_the_rows_asked_for(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.Table.from_pandas(FRAME), tmp_path / "a.parquet", row_group_size=100)
    assert [chunk.rows for chunk in chunks(tmp_path, rows=500)] == [500, 500, 500, 297]


def test_the_name_of_rows_in_a_file_is_small_and_reading_maps_no_more(tmp_path: Path) -> None:
    import pickle

    np.save(tmp_path / "X.npy", np.zeros((1000, 1000)))
    assert all(len(pickle.dumps(chunk)) < 1000 for chunk in chunks(tmp_path / "X.npy", rows=10))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda p: chunks(5), TypeError, "takes no int"),
        (lambda p: chunks(X, rows=0), ValueError, "rows must be at least 1"),
        (lambda p: chunks((X, Y[:-1])), ValueError, "X has 1797 rows and y has 1796"),
        (lambda p: chunks(p / "nowhere"), FileNotFoundError, "there is no"),
        (lambda p: chunks([]), ValueError, "no data"),
        (lambda p: chunks(p), TypeError, "one kind is needed"),
        (lambda p: chunks(([len, len], [len])), TypeError, "must be cut alike"),
    ],
)
def test_what_makes_no_sense_is_said_at_once(make: Any, error: Any, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(error, match=says):
        make(tmp_path)


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    monkeypatch.setitem(sys.modules, "pyarrow.dataset", None)
    with pytest.raises(MinidaskError, match="pip install pyarrow"):
        chunks(tmp_path)


def test_empty_files_are_no_chunks(tmp_path: Path) -> None:
    for name, rows in (("a", 100), ("b", 0), ("c", 50)):
        FRAME[:rows].to_parquet(tmp_path / f"{name}.parquet")
    data = chunks(tmp_path, y="target")
    assert [chunk.rows for chunk in data] == [100, 50]
    with pytest.raises(ValueError, match="there is no data"):
        chunks(tmp_path / "b.parquet", y="target")
