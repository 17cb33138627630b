"""The files of a blob store, one by one: how they are written, linked, mapped. `store.py` has the rules.

**Why files are mapped by hand.** Python's `mmap` keeps a descriptor for each file as long as the memory is used
(`trackfd=False` came with 3.13), so a thousand results would be the end. And it cannot map one file next to another,
as the pieces of a buffer need it. So `mmap` only makes the address space here, and gives it back when the last view
dies. The files are mapped over that space with the C function, and need no descriptor afterwards. This takes 25 µs of
processor time for 1 MiB, where `mmap` takes 15; to read the bytes once takes some 150.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import xxhash

from minidask.wire.frames import Buffer

COPY_BYTES = 256 * 1024
MAP_FIXED = 0x10
MAP_FAILED = ctypes.c_void_p(-1).value


def link(path: Path, pin: Path) -> bool:
    """Give a file a second name, a hard link. Returns False if there is no such file."""
    try:
        os.link(path, pin, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def remove(path: Path) -> None:
    """Remove a name of a file; with the last name of a symbolic link, also the file on disk that it leads to."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_symlink() and path.lstat().st_nlink == 1:
            path.resolve().unlink(missing_ok=True)
        path.unlink()


def write(path: Path, chunks: Iterable[memoryview]) -> None:
    """Write a new file whole, or leave nothing.

    Raises:
        OSError: there is no room. (Touching a mapping without room would end the process instead.)
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for chunk in chunks:
            while chunk.nbytes:
                chunk = chunk[os.write(fd, chunk) :]
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


class Hashed:
    """The bytes of a buffer in slices, to be written in that order. After the iteration, `id` is the id of those bytes.

    Another thread may change the array meanwhile. The file would then have another content than its id says, and all
    later calls would use it. So each slice of 256 KiB is copied first. The copy stays in the cache while it is hashed
    and written.
    """

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._digest = xxhash.xxh3_128()

    def __iter__(self) -> Iterator[memoryview]:
        self._digest = xxhash.xxh3_128(self._view.nbytes.to_bytes(8, "little"))
        copy = memoryview(bytearray(min(COPY_BYTES, self._view.nbytes)))
        for start in range(0, self._view.nbytes, COPY_BYTES):
            chunk = copy[: self._view.nbytes - start]
            chunk[:] = self._view[start : start + chunk.nbytes]
            self._digest.update(chunk)
            yield chunk

    @property
    def id(self) -> bytes:
        """The blob id of the bytes that the iteration has yielded."""
        return self._digest.digest()


def make_empty(path: Path, size: int) -> None:
    """Make a new file that is to grow to this size. Nothing is reserved: that many bytes were announced, and none came.

    Raises:
        OSError: there is no room for them.
    """
    room = os.statvfs(path.parent)
    if size > room.f_bavail * room.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def read(path: Path, offset: int, size: int) -> bytes | None:
    """Read `size` bytes of a file from `offset` on. Returns None if the file is shorter, or is not there."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        data = os.pread(fd, size, offset)
    finally:
        os.close(fd)
    return data if len(data) == size else None


def mapped(paths: Sequence[Path], shared: bool, writable: bool) -> memoryview:
    """Map files into memory, one after another. The size of each but the last is a multiple of the page size.

    If the process has as many maps as the kernel allows (`vm.max_map_count`), the files are copied instead.

    Args:
        shared: whether a write to the memory changes the files.
        writable: whether the memory may be written to.

    Raises:
        FileNotFoundError: a file is not there.
    """
    sizes = [os.stat(path).st_size for path in paths]
    if not sum(sizes):
        return memoryview(b"")
    try:
        view = _mapped(paths, sizes, shared, writable)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        view = memoryview(bytearray().join(path.read_bytes() for path in paths))
    return view if writable else view.toreadonly()


def _mapped(paths: Sequence[Path], sizes: Sequence[int], shared: bool, writable: bool) -> memoryview:
    space = mmap.mmap(-1, sum(sizes), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.c_char.from_buffer(space)
    address = ctypes.addressof(start)
    del start  # while it lives, the space cannot be given back
    for path, size in zip(paths, sizes, strict=True):
        _map_over(address, size, path, shared, writable)
        address += size
    return memoryview(space)


def _map_over(address: int, size: int, path: Path, shared: bool, writable: bool) -> None:
    flags = MAP_FIXED | (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE)
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    fd = os.open(path, os.O_RDWR if shared and writable else os.O_RDONLY)
    try:
        if size and _mmap()(address, size, protection, flags, fd, 0) == MAP_FAILED:
            raise OSError(ctypes.get_errno(), f"cannot map {size} bytes")
    finally:
        os.close(fd)


@functools.cache
def _mmap() -> Callable[..., int]:
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = (
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
        *(ctypes.c_int, ctypes.c_int, ctypes.c_long),
    )
    return function


class Draft:
    """The unfinished file of a blob that comes in chunks, in order.

    The file is opened for each chunk: of thousands of blobs under way, no descriptor is kept.

    Args:
        seal: called with the blob and the file when the file is finished; it makes the blob of the file.
        full: called with the file, once, when there is no room for it any more; it is to make room.
    """

    def __init__(
        self, blob: bytes, path: Path, size: int, seal: Callable[[bytes, Path], None], full: Callable[[Path], None]
    ) -> None:
        self._blob = blob
        self._path = path
        self._seal = seal
        self._full = full
        self._digest = xxhash.xxh3_128(size.to_bytes(8, "little"))

    def write(self, offset: int, data: Buffer) -> None:
        """Write the next chunk.

        Raises:
            OSError: the disk is full, or the store was removed.
        """
        self._digest.update(data)
        try:
            self._write(offset, memoryview(data))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self._full(self._path)
            self._write(offset, memoryview(data))

    def _write(self, offset: int, view: memoryview) -> None:
        fd = os.open(self._path, os.O_WRONLY)
        try:
            while view.nbytes:
                count = os.pwrite(fd, view, offset)
                view, offset = view[count:], offset + count
        finally:
            os.close(fd)

    def read(self, offset: int, size: int) -> bytes | None:
        """Read `size` bytes from `offset` on. Returns None if the file is shorter."""
        return read(self._path, offset, size)

    def finish(self) -> bool:
        """Make the finished file a blob, and pin it. If its bytes do not match the id, remove it and return False.

        Raises:
            OSError: the store was removed.
        """
        if self._digest.digest() != self._blob:
            remove(self._path)
            return False
        self._seal(self._blob, self._path)
        return True

    def abandon(self) -> None:
        """Remove the unfinished file, since nobody needs the blob any more."""
        remove(self._path)
