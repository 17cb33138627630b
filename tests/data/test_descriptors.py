"""Descriptors: as many as there are processes and connections, whatever the number of large objects."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from minidask.data import files as blobfiles
from minidask.data.store import BlobStore
from minidask.wire.large import blob_id
from tests.data.stores import new_store
from tests.helpers import Programs

MIB = 2**20


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def maps_of(folder: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(folder))


def taken(store: BlobStore, name: bytes) -> memoryview:
    assert store.accept(name)
    return store.take(name)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return new_store(tmp_path, 1000 * MIB)


def test_what_is_mapped_keeps_no_descriptor_and_is_given_back_with_its_last_view(store: BlobStore) -> None:
    gc.collect()  # of what other tests have left
    before = descriptors()
    names = [store.hand_over(bytes([number]) * 5000) for number in range(100)]
    store.put_all({blob_id([bytes([number]) * 7000]): bytes([number]) * 7000 for number in range(100)})
    results = [taken(store, name) for name in names]
    blobs = [store.map(blob_id([bytes([number]) * 7000]), private=number % 2 == 0) for number in range(100)]
    arrays = [np.frombuffer(view, np.uint8)[10:] for view in results]
    assert descriptors() == before
    assert maps_of(store.folder) >= 200
    del results, names
    gc.collect()
    assert [array[0] for array in arrays] == list(range(100))
    arrays[3][:] = 9
    assert arrays[3].sum() == 9 * 4990
    assert [view[5] for view in blobs] == list(range(100))
    assert [view.readonly for view in blobs[:2]] == [False, True]
    del arrays, blobs
    gc.collect()
    assert maps_of(store.folder) == 0
    assert descriptors() == before


def test_a_result_outlives_its_store(store: BlobStore) -> None:
    view = taken(store, store.hand_over(b"x" * 5000))
    store.remove()
    view[0] = ord("y")
    assert bytes(view[:3]) == b"yxx"


def test_blobs_that_are_under_way_keep_no_descriptor(store: BlobStore) -> None:
    before = descriptors()
    data = [number.to_bytes(2, "little") * 3000 for number in range(200)]
    coming = [store.begin(blob_id([each]), len(each)) for each in data]
    for incoming, each in zip(coming, data, strict=True):
        incoming.write(0, each)
        assert incoming.read(2, 4) == each[2:6]
    assert descriptors() == before
    assert all(incoming.finish() for incoming in coming)
    assert [store.map(blob_id([each])) == each for each in data] == [True] * len(data)


def test_many_pieces_are_mapped_where_few_descriptors_are_to_be_had(store: BlobStore) -> None:
    pieces = [bytes([number % 251]) * mmap.PAGESIZE for number in range(900)]
    store.put_all({blob_id([piece]): piece for piece in pieces})
    before = descriptors()
    view = store.map(*(blob_id([piece]) for piece in pieces))
    assert view == b"".join(pieces)
    assert descriptors() == before


def test_what_cannot_be_mapped_leaves_nothing(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(blob_id([b"there"]), b"there")
    before = descriptors()
    monkeypatch.setattr(blobfiles, "_mmap", lambda: lambda *_: blobfiles.MAP_FAILED)
    with pytest.raises(OSError, match="cannot map 5 bytes"):
        store.map(blob_id([b"there"]))
    assert descriptors() == before


def test_where_no_more_maps_are_to_be_had_data_is_copied(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_all({blob_id([b"ab" * 2048]): b"ab" * 2048, blob_id([b"cd"]): b"cd"})
    name = store.hand_over(b"result")

    def no_more_maps(*_: object) -> int | None:
        ctypes.set_errno(errno.ENOMEM)
        return blobfiles.MAP_FAILED

    monkeypatch.setattr(blobfiles, "_mmap", lambda: no_more_maps)
    both = store.map(blob_id([b"ab" * 2048]), blob_id([b"cd"]))
    assert both.readonly
    assert both == b"ab" * 2048 + b"cd"
    result = taken(store, name)
    result[:3] = b"RES"
    assert result == b"RESult"


MANY = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
import minidask, numpy as np

def make(i):
    return np.full(2**17, i)

def check(arrays):
    import os
    assert [array[-1] for array in arrays] == list(range(len(arrays)))
    return len(os.listdir("/proc/self/fd"))

with minidask.Client(n_workers=2) as client:
    results = client.gather(client.map(make, range(300)))
    assert [result[0] for result in results] == list(range(300))
    here = len(os.listdir("/proc/self/fd"))
    there = client.submit(check, client.scatter(results)).result(60)
    there = max(there, client.map(check, [results])[0].result(60))
    ranges = client.submit(lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0]).result(30)
for result in results:
    result += 1
print("descriptors", here, there, "limit", ranges, flush=True)
"""


def test_hundreds_of_large_results_and_arguments_at_a_limit_of_a_hundred_descriptors(programs: Programs) -> None:
    program = programs.script(MANY)
    assert program.exit_code(60) == 0, program.text
    words = program.text.split()
    assert int(words[1]) < 40, program.text
    assert int(words[2]) < 40, program.text
    assert words[-1] == "100", "a task has the limit that the user's program has"
