"""The machine's store of large data: shared by content, never torn, never over its budget, never in the way."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidask import errors
from minidask.data.store import DISK, LOOK_AFTER, BlobStore
from minidask.host import folders
from minidask.wire.large import blob_id
from tests.data.stores import KIB, blob, data, files, new_store


def test_what_is_put_is_mapped_by_all(store: BlobStore) -> None:
    store.put(blob(1), data(1))
    other = BlobStore(store.folder)
    view = other.map(blob(1))
    assert view == data(1)
    assert view.readonly


def test_a_private_map_is_written_to_by_nobody_else(store: BlobStore) -> None:
    store.put(blob(1), data(1))
    mine, theirs = store.map(blob(1), private=True), store.map(blob(1))
    mine[0] = 99
    assert (mine[0], theirs[0], store.map(blob(1))[0]) == (99, 1, 1)


def test_the_same_content_is_written_once_and_stays_for_the_next(store: BlobStore, tmp_path: Path) -> None:
    other = BlobStore(store.folder)
    store.put(blob(1), data(1))
    inode = (store.folder / blob(1).hex()).stat().st_ino
    other.put(blob(1), data(1))
    store.unpin(blob(1))
    other.unpin(blob(1))
    assert files(store) == {blob(1).hex()}
    store.put(blob(1), b"not written: a name says its content")
    assert (store.folder / blob(1).hex()).stat().st_ino == inode
    assert store.map(blob(1)) == data(1)


def test_the_least_recently_used_goes_first_and_never_one_in_use(store: BlobStore) -> None:
    for number in range(1, 9):
        store.put(blob(number), data(number))
        os.utime(store.folder / blob(number).hex(), (number, number))
    for number in range(2, 9):
        store.unpin(blob(number))
    os.utime(store.folder / blob(2).hex(), (100, 100))
    view = store.map(blob(3))
    BlobStore(store.folder).put(blob(10, 50 * KIB), data(10, 50 * KIB))
    left = {name for name in files(store) if "." not in name}
    assert left == {blob(number).hex() for number in (1, 2, 7, 8)} | {blob(10, 50 * KIB).hex()}
    assert view == data(3), "what is mapped stays, also without a name"


def test_what_has_no_room_in_memory_goes_to_disk(store: BlobStore, tmp_path: Path) -> None:
    store.put(blob(1, 80 * KIB), data(1, 80 * KIB))
    with pytest.warns(UserWarning, match="no room in shared memory"):
        store.put(blob(2, 80 * KIB), data(2, 80 * KIB))
    assert (store.folder / blob(2, 80 * KIB).hex()).is_symlink()
    assert store.map(blob(2, 80 * KIB)) == data(2, 80 * KIB)
    name = BlobStore(store.folder).hand_over(data(3, 80 * KIB))  # another warning would be an error here
    assert store.accept(name) == 80 * KIB
    assert len(list((tmp_path / "disk").iterdir())) == 2
    view = store.take(name)
    assert view == data(3, 80 * KIB)
    view[0] = 9
    assert view[0] == 9
    assert len(list((tmp_path / "disk").iterdir())) == 1
    store.unpin_all()
    store.put(blob(4, 90 * KIB), data(4, 90 * KIB))
    assert not (store.folder / blob(4, 90 * KIB).hex()).is_symlink()
    assert not list((tmp_path / "disk").iterdir()), "the file goes with its last name"


def test_what_has_no_room_anywhere_is_refused_said_once_and_leaves_nothing(store: BlobStore) -> None:
    (store.folder / DISK).unlink()
    (store.folder / DISK).symlink_to("/dev/full-of-nothing")
    before = files(store)
    with pytest.warns(UserWarning, match=f"no room for {200 * KIB} bytes .*full-of-nothing.*it is sent along instead"):
        assert not store.put(blob(1, 200 * KIB), data(1, 200 * KIB))
    assert not store.put(blob(1, 200 * KIB), data(1, 200 * KIB)), "another warning would be an error here"
    assert BlobStore(store.folder).hand_over(data(1, 200 * KIB)) is None
    assert files(store) == before
    assert store.put(blob(2), data(2))
    assert store.map(blob(2)) == data(2)


def test_a_store_that_finds_no_room_in_shared_memory_lies_on_disk_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(folders, "LEAST_BYTES", 1 << 60)
    with pytest.warns(UserWarning, match=f"no room in shared memory: large data goes to {tmp_path}"):
        store = BlobStore.make(tmp_path)
    assert store.folder.is_relative_to(tmp_path)
    assert store.put(blob(1), data(1))
    store.remove()
    assert not list(tmp_path.iterdir())


def test_a_result_is_its_takers_own(store: BlobStore) -> None:
    name = store.hand_over(data(5))
    assert store.accept(name) == len(data(5))
    view = store.take(name)
    view[0] = 7
    assert (view[0], view[1], files(store)) == (7, 5, set())
    with pytest.raises(errors.SerializationError, match="is gone"):
        store.take(name)


def test_a_store_is_removed_with_its_files_on_disk(store: BlobStore, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no room in shared memory"):
        store.put(blob(2, 200 * KIB), data(2, 200 * KIB))
    view = store.map(blob(2, 200 * KIB))
    store.remove()
    assert not list(tmp_path.iterdir())
    assert view == data(2, 200 * KIB)


def test_what_is_not_there_is_told(store: BlobStore) -> None:
    with pytest.raises(errors.SerializationError, match="not in the store"):
        store.map(blob(1))


def test_nothing_and_an_empty_buffer(store: BlobStore) -> None:
    store.put(blob(1, 0), b"")
    assert store.map(blob(1, 0)) == b""
    assert BlobStore.of(None) is None
    assert BlobStore.of({"store": "/nowhere"}) is None
    assert BlobStore.of({"store": str(store.folder)}) is not None


def test_a_killed_process_pins_nothing(store: BlobStore) -> None:
    code = (
        "import os, sys; from minidask.wire.large import blob_id; from minidask.data.store import BlobStore;"
        " from minidask.host.folders import owner;"
        " s = BlobStore(sys.argv[1]);"
        " data = bytes(40 * 1024); s.put(blob_id([data]), data);"
        " open(s.folder / f'{bytes([2]).hex() * 16}.{owner()}-9.draft', 'w');"
        " write = os.write; os.write = lambda *a: (write(*a), os.kill(os.getpid(), 9)); s.hand_over(data)"
    )
    subprocess.run([sys.executable, "-c", code, str(store.folder)], check=False, timeout=30)
    assert len(files(store)) == 4, "a blob, its pin, an unfinished one, and an unfinished result"
    store.put(blob(3, 90 * KIB), data(3, 90 * KIB))
    assert {name.partition(".")[0] for name in files(store)} == {blob(3, 90 * KIB).hex()}
    assert not (store.folder / blob(3, 90 * KIB).hex()).is_symlink()


def test_what_changes_while_it_is_written_is_refused_and_leaves_nothing(store: BlobStore) -> None:
    changed = bytearray(data(1, 64 * KIB))
    name = blob_id([changed])
    changed[-1] = 9
    with pytest.raises(errors.SerializationError, match="was changed while it was being sent"):
        store.put(name, changed)
    assert files(store) == set()


@pytest.mark.filterwarnings("ignore:no room in shared memory")
@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "unpin", "map"]), st.integers(0, 1), st.integers(1, 6), st.integers(1, 60)),
        max_size=40,
    )
)
def test_pinned_blobs_are_always_there_and_memory_is_never_over_its_budget(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int, int]]
) -> None:
    first = new_store(tmp_path_factory.mktemp("store"), 100 * KIB)
    stores = [first, BlobStore(first.folder)]
    pinned: list[set[int]] = [set(), set()]
    sizes: dict[int, int] = {}
    for step, who, number, kib in steps:
        if step == "put":
            size = sizes.setdefault(number, kib * KIB)
            stores[who].put(blob(number, size), data(number, size))
            pinned[who].add(number)
        elif step == "unpin":
            stores[who].unpin(blob(number, sizes.get(number, 0)))
            pinned[who].discard(number)
        for held in pinned[0] | pinned[1]:
            assert stores[1 - who].map(blob(held, sizes[held])) == data(held, sizes[held])
        in_memory = [first.folder / name for name in files(first) if "." not in name]
        in_memory = [path for path in in_memory if not path.is_symlink()]
        assert sum(p.stat().st_size for p in in_memory) <= (1 + 1 / LOOK_AFTER) * 100 * KIB
    for store in stores:
        store.unpin_all()
    assert not [name for name in files(first) if "." in name]


def test_room_is_made_where_the_file_system_cannot_allocate(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    incoming = store.begin(blob_id([bytes(5000)]), 5000)
    incoming.write(0, bytes(5000))
    assert incoming.finish()
