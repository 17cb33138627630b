"""The files of a blob store, one by one: written, linked, mapped; what `blobstore.py` does under its rules."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import xxhash

from minidask.parts import Parts
from minidask.wire.frames import Buffer

COPY_BYTES = 256 * 1024
MAP_FIXED = 0x10
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


def reserve(path: Path, size: int) -> int:
    """A new file of that size, whose memory it has already; returns it open."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
    except BaseException:
        os.close(fd)
        os.unlink(path)
        raise
    return fd


def read(fd: int, offset: int, size: int) -> bytes | None:
    """So many bytes from `offset` on; None if there are fewer."""
    data = os.pread(fd, size, offset)
    return data if len(data) == size else None


def mapped(path: Path, access: int) -> memoryview:
    """The bytes of a file, mapped; `access` as `mmap` has it."""
    fd = os.open(path, os.O_RDWR if access == mmap.ACCESS_WRITE else os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        return memoryview(mmap.mmap(fd, size, access=access)) if size else memoryview(b"")
    finally:
        os.close(fd)


def mapped_together(paths: Sequence[Path], private: bool) -> memoryview:
    """The bytes of several files, one after another; all but the last are whole pages.

    Address space for all of them first, and each file over its part of that; Python's `mmap` cannot say where.
    """
    with contextlib.ExitStack() as stack:
        fds = []
        for path in paths:
            fds.append(os.open(path, os.O_RDONLY))
            stack.callback(os.close, fds[-1])
        sizes = [os.fstat(fd).st_size for fd in fds]
        libc = _libc()
        space = _map(libc, None, sum(sizes), mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
        region = (ctypes.c_char * sum(sizes)).from_address(space)
        weakref.finalize(region, libc.munmap, space, sum(sizes)).atexit = False
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if private else 0)
        flags = (mmap.MAP_PRIVATE if private else mmap.MAP_SHARED) | MAP_FIXED
        for fd, size in zip(fds, sizes, strict=True):
            _map(libc, space, size, protection, flags, fd)
            space += size
    view = memoryview(region).cast("B")
    return view if private else view.toreadonly()


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
        *(ctypes.c_int, ctypes.c_int, ctypes.c_long),
    )
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return libc


def _map(libc: ctypes.CDLL, address: int | None, size: int, protection: int, flags: int, fd: int) -> int:
    mapped: int = libc.mmap(address, size, protection, flags, fd, 0)
    if mapped == MAP_FAILED:
        raise OSError(ctypes.get_errno(), f"cannot map {size} bytes")
    return mapped


class Incoming:
    """A blob on its way into a store, part by part; there once all of it is what its name says.

    Args:
        path: its unfinished file, which is open as `fd`.
        seal: called with the blob and the file when it is finished.
    """

    def __init__(self, blob: bytes, path: Path, fd: int, size: int, seal: Callable[[bytes, Path], None]) -> None:
        self.parts = Parts(size)
        self._blob = blob
        self._path = path
        self._fd = fd
        self._seal = seal
        self._digest = xxhash.xxh3_128(size.to_bytes(8, "little"))

    def write(self, offset: int, data: Buffer) -> None:
        """Take the next part; any other is ignored."""
        if self.parts.came(offset, len(data)):
            self._digest.update(data)
            view = memoryview(data)
            while view.nbytes:
                count = os.pwrite(self._fd, view, offset)
                view, offset = view[count:], offset + count

    def read(self, offset: int, size: int) -> bytes | None:
        """Bytes that have come already; None if they have not."""
        return read(self._fd, offset, size) if offset + size <= self.parts.have else None

    def finish(self) -> bool:
        """Have it in the store, pinned; False if it is not what its name says, and therefore refused."""
        os.close(self._fd)
        if self._digest.digest() != self._blob:
            remove(self._path)
            return False
        self._seal(self._blob, self._path)
        return True

    def abandon(self) -> None:
        """It is not wanted any more."""
        os.close(self._fd)
        remove(self._path)
