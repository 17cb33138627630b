"""The file of records: whatever happens to its bytes, it gives what was put in, or nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidask.errors import MinidaskError
from minidask.resume.records import MARK, Records, packed

PAYLOADS = {bytes([n]) * 16: [bytes([n]) * (7 * n), *([b"beside" * n] if n % 2 else [])] for n in range(1, 6)}


def filled(path: Path) -> bytes:
    """A file with some records, and its bytes."""
    with closing(Records(path)) as records:
        for key, payload in PAYLOADS.items():
            records.add(packed(key, payload))
        records.sync()
    return path.read_bytes()


@contextmanager
def opened(path: Path, content: bytes) -> Iterator[Records]:
    path.write_bytes(content)
    with closing(Records(path)) as records:
        yield records


def right(records: Records) -> int:
    """How many of the records are there; none may be wrong."""
    found = {key: records.get(key) for key in PAYLOADS}
    assert all(found[key] in (None, payload) for key, payload in PAYLOADS.items())
    return sum(payload is not None for payload in found.values())


def test_what_was_added_is_found_by_the_next_one(tmp_path: Path) -> None:
    filled(tmp_path / "f")
    with closing(Records(tmp_path / "f")) as records:
        assert right(records) == len(records) == len(PAYLOADS)
        assert records.get(b"?" * 16) is None
        assert records.take_damaged() == 0


def test_buffers_are_writable_as_those_of_a_task_are(tmp_path: Path) -> None:
    with closing(Records(tmp_path / "f")) as records:
        records.add(packed(b"k" * 16, [b"pickle", b"beside"]))
        found = records.get(b"k" * 16)
    assert found is not None
    memoryview(found[1])[0] = 0


def test_every_flipped_bit_costs_one_record_and_is_told(tmp_path: Path) -> None:
    whole = filled(tmp_path / "f")
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        with opened(tmp_path / "g", bytes(flipped)) as records:
            assert right(records) == len(PAYLOADS) - 1, f"byte {at}"
            assert records.take_damaged() == 1
            for key, payload in PAYLOADS.items():
                if records.get(key) is None:
                    records.add(packed(key, payload))
        with closing(Records(tmp_path / "g")) as records:
            assert right(records) == len(PAYLOADS)
            assert records.take_damaged() == 0, "it is told once"


def test_a_file_that_ends_anywhere_has_all_whole_records(tmp_path: Path) -> None:
    whole = filled(tmp_path / "f")
    sizes = [len(packed(key, payload)) for key, payload in PAYLOADS.items()]
    ends = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    for size in range(len(whole) + 1):
        for torn in (whole[:size], whole[:size].ljust(size + 50, b"\0")):
            with opened(tmp_path / "g", torn) as records:
                assert right(records) == sum(size >= end for end in ends[1:])
                assert bool(records.take_damaged()) == (torn not in [whole[:end] for end in ends])
                records.add(packed(b"new" + bytes(13), [b"new"]))
            with closing(Records(tmp_path / "g")) as records:
                assert records.get(b"new" + bytes(13)) == [b"new"]
                assert records.take_damaged() == 0, "a torn record was not cut off"


@given(st.data())
def test_no_damage_gives_a_wrong_record(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("damage")
    content = bytearray(filled(folder / "f"))
    for _ in range(data.draw(st.integers(1, 4))):
        at, length = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 60))
        content[at : at + length] = data.draw(st.binary(max_size=60) | st.just(MARK * 3) | st.just(bytes(content[:80])))
    try:
        with opened(folder / "g", bytes(content)) as records:
            right(records)
    except MinidaskError:
        assert MARK not in content or not content.startswith(MARK), "a file of ours was refused"


def test_two_programs_append_to_one_file(tmp_path: Path) -> None:
    with closing(Records(tmp_path / "f")) as one, closing(Records(tmp_path / "f")) as other:
        for number, (key, payload) in enumerate(PAYLOADS.items()):
            (one, other)[number % 2].add(packed(key, payload))
        assert right(one) >= 4, "what others have added is seen with the next record of one's own"
    with closing(Records(tmp_path / "f")) as records:
        assert right(records) == len(PAYLOADS)


def test_a_record_that_another_program_has_left_torn_is_cut_off(tmp_path: Path) -> None:
    with closing(Records(tmp_path / "f")) as records:
        records.add(packed(b"a" * 16, [b"first"]))
        with (tmp_path / "f").open("ab") as file:
            file.write(packed(b"b" * 16, [b"second"])[:-5])
        records.add(packed(b"c" * 16, [b"third"]))
    with closing(Records(tmp_path / "f")) as records:
        assert [records.get(letter * 16) for letter in (b"a", b"b", b"c")] == [[b"first"], None, [b"third"]]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = filled(tmp_path / "f")
    write = os.pwrite

    def full(file: int, data: Any, at: int) -> int:
        if at > len(whole):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:30], at)

    with closing(Records(tmp_path / "f")) as records:
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            records.add(packed(b"new" + bytes(13), [b"new" * 20]))
        monkeypatch.undo()
        assert (tmp_path / "f").read_bytes() == whole
        records.add(packed(b"new" + bytes(13), [b"new"]))
        assert records.get(b"new" + bytes(13)) == [b"new"]


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"\x93NUMPY" * 100, b"\0" * 9 + b"x"])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(MinidaskError, match="no file of kept outcomes"):
        Records(tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == content


def test_a_file_that_was_emptied_is_begun_anew(tmp_path: Path) -> None:
    with closing(Records(tmp_path / "f")) as records:
        records.add(packed(b"a" * 16, [b"first" * 100]))
        os.truncate(tmp_path / "f", 0)
        records.add(packed(b"b" * 16, [b"second"]))
        assert records.get(b"b" * 16) == [b"second"]
        assert records.get(b"a" * 16) is None
