"""The files of a blob store, one by one: written, linked, mapped; what `blobstore.py` does under its rules."""

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
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
MAP_FAILED = ctypes.c_void_p(-1).value


def blob_id(payload: Sequence[Buffer]) -> bytes:
    """The name of a blob: 16 bytes of a hash over the sizes and the content of its parts."""
    digest = xxhash.xxh3_128()
    for part in payload:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def link(path: Path, pin: Path) -> bool:
    """Whether there is such a file, which now has another name."""
    try:
        os.link(path, pin, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def remove(path: Path) -> None:
    """Remove a name, and what it was the last name of."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_symlink() and path.lstat().st_nlink == 1:
            path.resolve().unlink(missing_ok=True)
        path.unlink()


def write(path: Path, chunks: Iterable[memoryview]) -> None:
    """Write a file whole, or leave nothing. `write` tells when there is no room; touching a mapping would not."""
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
    """The bytes of a blob on their way into a file: `name` is, at the end, the name for those that went.

    Each chunk is a copy that nobody else can change. That costs nothing, as it stays in the processor's cache.
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
    def name(self) -> bytes:
        return self._digest.digest()


def reserve(path: Path, size: int) -> None:
    """A new file of that size, whose memory it has already."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            os.unlink(path)
            raise
        os.truncate(fd, size)  # such a file system tells at the writing whether there is room
    finally:
        os.close(fd)


def read(path: Path, offset: int, size: int) -> bytes | None:
    """So many bytes of a file from `offset` on; None if there are fewer, or no such file."""
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
    """The bytes of files, one after another, mapped; all but the last are whole pages.

    Python's `mmap` keeps a descriptor for each file that it maps, as long as the memory is used, and cannot map one
    next to another. So it only makes the address space here, and gives it back when the last view dies; the files are
    mapped over it by hand, and stay without a descriptor.

    Where a process has as many maps as the kernel lets it have (`vm.max_map_count`), it is a copy.

    Args:
        shared: whether the files change with what is written to the memory.
        writable: whether it may be written to.
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
    del start  # it would keep the space from being given back
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
    """

    def __init__(self, blob: bytes, path: Path, size: int, seal: Callable[[bytes, Path], None]) -> None:
        self._blob = blob
        self._path = path
        self._seal = seal
        self._digest = xxhash.xxh3_128(size.to_bytes(8, "little"))

    def write(self, offset: int, data: Buffer) -> None:
        """Write the next chunk.

        Raises:
            OSError: the disk is full, or the store was removed.
        """
        self._digest.update(data)
        view = memoryview(data)
        fd = os.open(self._path, os.O_WRONLY)
        try:
            while view.nbytes:
                count = os.pwrite(fd, view, offset)
                view, offset = view[count:], offset + count
        finally:
            os.close(fd)

    def read(self, offset: int, size: int) -> bytes | None:
        """Return bytes that were written; None if the file ends before."""
        return read(self._path, offset, size)

    def finish(self) -> bool:
        """Make the blob of the file, pinned; False if the bytes are not what the id says, and the file is removed.

        Raises:
            OSError: the store was removed.
        """
        if self._digest.digest() != self._blob:
            remove(self._path)
            return False
        self._seal(self._blob, self._path)
        return True

    def abandon(self) -> None:
        """Remove the file: the blob is not wanted any more."""
        remove(self._path)
