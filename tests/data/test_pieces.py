"""Large buffers as several blobs: cut on the one side, mapped as one again on the other."""

from __future__ import annotations

import gc
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joblib import Parallel, delayed

import minidask
from minidask import errors
from minidask.data import pieces
from minidask.data.store import BlobStore
from minidask.pickling import payload as p
from minidask.wire.large import blob_id

PIECE = 128 * 1024


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces so small that the tests need little data: only who sends cuts."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", PIECE)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    (tmp_path / "memory").mkdir()
    (tmp_path / "disk").mkdir()
    return BlobStore.create(tmp_path / "memory", 10 * 2**20, tmp_path / "disk")


def numbers(size: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(size).integers(0, 255, size, dtype=np.uint8)


@given(st.integers(0, 400 * 1024 * 1024))
def test_pieces_are_the_whole_and_all_but_the_last_are_whole_pages_of_one_size(size: int) -> None:
    found = pieces.cut(memoryview(mmap.mmap(-1, max(size, 1)))[:size])
    assert sum(map(len, found)) == size
    assert len(found) <= pieces.MAX_PIECES
    if len(found) > 1:
        assert {len(piece) for piece in found[:-1]} == {len(found[0])}
        assert len(found[0]) % mmap.ALLOCATIONGRANULARITY == 0
        assert 0 < len(found[0]) <= len(found[-1]) < len(found[0]) + len(found) * pieces.ALIGNMENT


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=5), st.sampled_from([p.SHARED, p.PRIVATE]))
def test_a_reference_tells_its_names(names: list[bytes], mode: bytes) -> None:
    assert pieces.names_in(pieces.reference(names, mode)) == tuple(names)


@pytest.mark.parametrize("size", [PIECE + 1, 3 * PIECE, 10 * PIECE - 5])
def test_pieces_are_mapped_next_to_one_another(store: BlobStore, size: int) -> None:
    data = numbers(size)
    names = [blob_id([piece]) for piece in pieces.cut(data)]
    store.put_all(dict(zip(names, pieces.cut(data), strict=True)))
    shared, private = store.map(*names), store.map(*names, private=True)
    assert shared == private == data
    assert shared.readonly
    private[0], private[-1] = data[0] ^ 1, data[-1] ^ 1
    assert store.map(*names) == shared == data, "a private change is seen by nobody else"
    store.unpin_all()
    store.remove()
    assert shared == data, "what is mapped stays"


def test_a_mapping_goes_with_the_last_array_on_it(store: BlobStore) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(names[0].hex())

    data = numbers(4 * PIECE)
    names = [blob_id([piece]) for piece in pieces.cut(data)]
    store.put_all(dict(zip(names, pieces.cut(data), strict=True)))
    array = np.frombuffer(store.map(*names), dtype=np.uint8)[5:10]
    assert mapped() == 1
    assert bytes(array) == bytes(data[5:10])
    del array
    gc.collect()
    assert mapped() == 0


def test_nothing_is_left_of_a_buffer_of_which_one_piece_was_changed(store: BlobStore) -> None:
    data = numbers(4 * PIECE)
    names = [blob_id([piece]) for piece in pieces.cut(data)]
    data[2 * PIECE] ^= 1
    with pytest.raises(errors.SerializationError, match="was changed while it was being sent"):
        store.put_all(dict(zip(names, pieces.cut(data), strict=True)))
    assert not [name for name in os.listdir(store.folder) if "." in name], "no pin, and nothing half done"


def test_threads_that_cannot_be_had_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert pieces.side_by_side(lambda number: -number, range(5)) == [0, -1, -2, -3, -4]


def test_an_error_in_one_thread_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        pieces.side_by_side(lambda number: 1 // (number - 3), range(9))


def test_a_missing_piece_is_named(store: BlobStore) -> None:
    store.put(blob_id([b"there"]), b"there")
    with pytest.raises(errors.SerializationError, match="78787878787878787878787878787878 is not in the store"):
        store.map(blob_id([b"there"]), b"x" * 16)


def test_pieces_that_came_along_and_pieces_in_the_store_make_one_buffer(store: BlobStore) -> None:
    data = numbers(3 * PIECE)
    cuts = pieces.cut(data)
    names = [blob_id([piece]) for piece in cuts]
    store.put(names[1], cuts[1])
    table = p.SlotBlobs(store)
    for name, piece in zip(names, cuts, strict=True):
        table.put(name, [] if name == names[1] else [piece])
    shared = table.data(pieces.reference(names, p.SHARED))
    private = table.data(pieces.reference(names, p.PRIVATE))
    assert shared == private == data
    assert memoryview(shared).readonly and not memoryview(private).readonly
    assert table.data(pieces.reference(names, p.SHARED)) is shared, "all tasks share it"
    table.forget(names[1])
    with pytest.raises(errors.SerializationError, match="was not sent along"):
        table.data(pieces.reference(names, p.SHARED))


def total(array: Any) -> tuple[int, bool]:
    return int(array.sum(dtype=np.int64)), bool(array.flags.writeable)


def overwritten(array: Any) -> int:
    array += 1
    return int(array[0])


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, client: minidask.Client) -> Iterator[list[int]]:
    """The sizes of the blobs that were written."""
    sizes: list[int] = []
    original, lock = BlobStore._put, threading.Lock()

    def watch(self: BlobStore, blob: bytes, data: Any, fits: bool) -> None:
        with lock:
            sizes.append(len(data))
        original(self, blob, data, fits)

    monkeypatch.setattr(BlobStore, "_put", watch)
    with joblib.parallel_config("minidask", scheduler=client):
        yield sizes


def test_a_change_in_one_place_costs_its_piece(written: list[int]) -> None:
    data = numbers(20 * PIECE)
    for changed, expected in ((None, 20), (None, 0), (7 * PIECE, 1)):
        if changed is not None:
            data[changed] ^= 1
        result = (int(data.sum(dtype=np.int64)), False)
        assert Parallel(n_jobs=2)(delayed(total)(data) for _ in range(6)) == [result] * 6
        assert written == [PIECE] * expected
        written.clear()


def test_equal_pieces_are_written_once(written: list[int]) -> None:
    data = np.zeros(20 * PIECE, dtype=np.uint8)
    data[-1] = 1
    assert Parallel(n_jobs=2)(delayed(total)(data) for _ in range(6)) == [(1, False)] * 6
    assert written == [PIECE] * 2


def test_a_private_copy_is_each_tasks_own(written: list[int]) -> None:
    data = numbers(18 * PIECE)
    with joblib.parallel_config("minidask", mmap_mode="c"):
        assert len(set(Parallel(n_jobs=2)(delayed(overwritten)(data) for _ in range(6)))) == 1
    assert written == [PIECE] * 18


def test_scattered_data_and_what_a_function_holds_go_in_pieces_too(written: list[int], client: minidask.Client) -> None:
    data = numbers(12 * PIECE)
    expected = (int(data.sum(dtype=np.int64)), False)
    handle = client.scatter(data)
    assert client.submit(total, handle).result(20) == expected
    assert Parallel(n_jobs=2)(delayed(lambda _: total(data))(i) for i in range(4)) == [expected] * 4
    assert written == [PIECE] * 12
    handle.release()
