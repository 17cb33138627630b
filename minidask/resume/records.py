"""A file of records that stays readable whatever ends its writers: a kill, a full disk, a power cut, a flipped bit.

    │ mark, key, size, check │ payload, digest │ mark, key, size, check │ payload, digest │ …
      header, 40 bytes         `size` bytes, 16

Records are only ever appended, under the file's lock. So two programs may use one file. A record survives the end of
all programs once `add` has returned, and a power cut once `sync` has.

What is damaged is found, and is never taken for a record:

- A header has a check of its own. If it is wrong, the next header is looked for, by its mark. What lies between becomes
  a record without meaning, so that it is told once.
- A payload has a digest over key and content, which is compared each time that the record is read.
- A writer that was ended within `add` leaves a torn record, as the last one. It is cut off by whoever next reads the
  end of the file, under the lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import weakref
from collections.abc import Sequence
from pathlib import Path

from minidask.errors import MinidaskError
from minidask.host.signals import pass_on
from minidask.wire.frames import Buffer

KEY_BYTES = DIGEST_BYTES = 16
MARK = b"\x9dmdsk\r\n1"
_HEADER = struct.Struct(f"<{len(MARK)}s{KEY_BYTES}sQ8s")
_SIZE = struct.Struct("<Q")
_LOOK_BYTES = 1 << 20
_NOTHING = bytes(KEY_BYTES)
"""The key of a record without meaning."""


def packed(key: bytes, payload: Sequence[Buffer]) -> bytes:
    """Return the bytes of a record. `key` has `KEY_BYTES`; the content of the buffers is copied."""
    content = b"".join([_SIZE.pack(len(payload)), *(_SIZE.pack(len(buffer)) for buffer in payload), *payload])
    return b"".join([_header(key, len(content)), content, _digest(key, content)])


def _header(key: bytes, size: int) -> bytes:
    start = MARK + key + _SIZE.pack(size)
    return start + hashlib.blake2b(start, digest_size=8).digest()


def _digest(key: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES, key=key).digest()


def _unpacked(content: bytes) -> list[Buffer]:
    count = _SIZE.unpack_from(content)[0]
    at, buffers = _SIZE.size * (1 + count), list[Buffer]()
    for number in range(count):
        size = _SIZE.unpack_from(content, _SIZE.size * (1 + number))[0]
        part = content[at : at + size]
        buffers.append(part if not number else bytearray(part))  # a task's arrays are writable, and so are these
        at += size
    return buffers


class Records:
    """The records of one file, which is made if it is not there.

    Args:
        path: of the file.

    Raises:
        MinidaskError: the file has something else in it.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._damaged = 0
        self._places: dict[bytes, tuple[int, int]] = {}  # by key: where the content is, and its size
        self._end = 0  # what is before it was looked at
        new = not path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._close = weakref.finalize(self, os.close, self._file)
        try:
            if new:
                _sync_folder(path.parent)
            self._lock()
            try:
                self._look_on()
            finally:
                self._unlock()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._places)

    def take_damaged(self) -> int:
        """Return how many damaged places were found since this was last called."""
        damaged, self._damaged = self._damaged, 0
        return damaged

    def get(self, key: bytes) -> list[Buffer] | None:
        """Return the payload of the record with this key; None if there is none, or it is damaged."""
        place = self._places.get(key)
        if place is None:
            return None
        at, size = place
        found = _read(self._file, at, size + DIGEST_BYTES)
        content, digest = found[:size], found[size:]
        if len(found) != size + DIGEST_BYTES or digest != _digest(key, content):
            self._damaged += 1
            del self._places[key]
            return None
        return _unpacked(content)

    def add(self, record: bytes) -> None:
        """Append a record, as `packed` makes it.

        Raises:
            OSError: there is no room, or the disk fails. The file is as before then.
        """
        self._lock()
        try:
            self._look_on()
            written = 0
            try:
                while written < len(record):
                    written += os.pwrite(self._file, memoryview(record)[written:], self._end + written)
            except BaseException:
                os.ftruncate(self._file, self._end)
                raise
            self._look_on()
        finally:
            self._unlock()

    def sync(self) -> None:
        """Have all that was added written to the disk.

        Raises:
            OSError: the disk fails.
        """
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        self._close()

    # --- reading on, under the lock ---

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError as error:  # a file system without: one program at a time has to use the file there
            pass_on(error)

    def _unlock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        except OSError as error:
            pass_on(error)

    def _look_on(self) -> None:
        """Note the records that have come since the last look, those of other programs too; cut off a torn one."""
        size = os.fstat(self._file).st_size
        if size < self._end:  # somebody has emptied it
            self._places, self._end = {}, 0
        while self._end < size:
            place = self._record(self._end, size)
            if place is not None:
                key, at, length = place
                if key != _NOTHING:
                    self._places[key] = at, length
                self._end = at + length + DIGEST_BYTES
                continue
            following = self._next_header(self._end + 1, size)
            if following is None and not self._is_ours():
                raise MinidaskError(f"{self.path} is no file of kept outcomes: give another name, or remove it")
            self._damaged += 1
            if following is None:
                os.ftruncate(self._file, self._end)
                return
            between = following - self._end - _HEADER.size - DIGEST_BYTES
            if between >= 0:
                os.pwrite(self._file, _header(_NOTHING, between), self._end)
            self._end = following

    def _record(self, at: int, size: int) -> tuple[bytes, int, int] | None:
        """Key, place and size of the record that begins here; None if none does, or it is not whole."""
        data = _read(self._file, at, _HEADER.size)
        if len(data) < _HEADER.size:
            return None
        _, key, length, _ = _HEADER.unpack(data)
        start = at + _HEADER.size
        whole = data == _header(key, length) and start + length + DIGEST_BYTES <= size
        return (key, start, length) if whole else None

    def _next_header(self, at: int, size: int) -> int | None:
        """Where the next whole record begins; None if there is none."""
        while at < size:
            found = _read(self._file, at, _LOOK_BYTES + len(MARK)).find(MARK)
            if found < 0:
                at += _LOOK_BYTES
            elif self._record(at + found, size) is not None:
                return at + found
            else:
                at += found + 1
        return None

    def _is_ours(self) -> bool:
        """Whether the file has a record, or had one that is torn. A disk may have zeros in the place of its end."""
        start = _read(self._file, 0, _LOOK_BYTES).rstrip(b"\0")
        return bool(self._places) or start.startswith(MARK) or MARK.startswith(start)


def _read(file: int, at: int, size: int) -> bytes:
    parts = []
    while size and (part := os.pread(file, size, at)):
        parts.append(part)
        at, size = at + len(part), size - len(part)
    return b"".join(parts)


def _sync_folder(folder: Path) -> None:
    """Have the name of a new file written to the disk."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    except OSError as error:  # not every file system knows this
        pass_on(error)
    finally:
        os.close(number)
