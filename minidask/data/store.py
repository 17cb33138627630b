"""One machine's large data: a folder in shared memory, where each blob is a file that every process of the user maps.

    put ─► name.OWNER-N.draft ─rename─► name ◄─ map, by any process
                                        │ hard link
                                        └─► name.OWNER-N    a pin: while one is there, the file stays

    hand_over ─► name.OWNER.result ─accept, by the daemon─► name.result ─► take

A blob's name says its content, so whoever finds the file need not write it again, in this call or the next. There
is nobody in charge: every process follows the rules under the folder's lock, the file `lock`, which is never held
for long. A file without a pin is only kept for whoever may want it again, and goes, the least recently used
first, when the budget is used up. The kernel counts the links, and frees the memory of a file that is gone
once the last process unmaps it: data in use never vanishes. What finds no room in memory is written to a folder
on disk, to which the file is then a symbolic link.

What names an owner goes when that process is gone. A result that the daemon has accepted stays until somebody takes
it, or the daemon knows that nobody will (`worker/untaken.py`); no age tells that, as who waits may be stopped for long.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minidask.data import files as blobfiles
from minidask.data.files import Draft, Hashed
from minidask.data.pieces import side_by_side
from minidask.errors import SerializationError
from minidask.host.folders import is_gone, owner
from minidask.host.locks import locked
from minidask.host.signals import pass_on
from minidask.wire.frames import Buffer

LOCK = "lock"
DISK = "disk"
WARNED = "warned"
RESULT = ".result"
PID_BYTES = 4
LOOK_AFTER = 64  # a process looks through the folder again when it has used up this share of the free room

_numbers = itertools.count()


class BlobStore:
    """The store in a folder; any number of processes may open the same one, which one has made with `create`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._pins: dict[bytes, Path] = {}
        self._allowance = 0
        self._full: Path | None = None  # where data went that found no room, and nobody was told of it yet

    @classmethod
    def create(cls, folder: Path, budget: int, disk: Path) -> BlobStore:
        """Make a store of a folder.

        Args:
            budget: the bytes of memory that its files may take.
            disk: a folder for what goes beyond that.
        """
        (folder / LOCK).write_text(str(budget))
        (folder / DISK).symlink_to(disk.absolute())
        return cls(folder)

    @classmethod
    def of(cls, info: dict[str, Any] | None) -> BlobStore | None:
        """The store that a scheduler tells of in its handshake; None if there is none that this process can use."""
        folder = (info or {}).get("store")
        if not isinstance(folder, str) or not os.access(Path(folder) / LOCK, os.R_OK | os.W_OK):
            return None
        return cls(folder)

    def remove(self) -> None:
        """Remove the folder and that on disk, with all that is in them; what is mapped stays."""
        for folder in ((self.folder / DISK).resolve(), self.folder):
            shutil.rmtree(folder, ignore_errors=True)

    # --- data on its way to tasks ---

    def put(self, blob: bytes, data: Buffer) -> None:
        """Have the blob in the store, and keep it there until `unpin`.

        Raises:
            OSError: there is no room for it.
            SerializationError: somebody changed it meanwhile, so that what was written is not what the name says.
        """
        self.put_all({blob: data})

    def put_all(self, blobs: Mapping[bytes, Buffer]) -> None:
        """As `put`, for several, written side by side; those that this process has pinned before stay pinned.

        The kernel lets one thread write to a file at a time, but several to several.
        """
        new = [blob for blob in blobs if blob not in self._pins]
        missing = [blob for blob in new if not self.pin(blob)]
        fits = self._has_room(sum(len(blobs[blob]) for blob in missing))
        try:
            side_by_side(lambda blob: self._put(blob, blobs[blob], fits), missing)
        except BaseException:
            for blob in new:
                self.unpin(blob)
            raise
        self._warn_if_full()

    def _put(self, blob: bytes, data: Buffer, fits: bool) -> None:
        draft = self._draft(blob)
        content = Hashed(memoryview(data).cast("B"))
        self._write(draft, content, fits)
        if content.name != blob:
            blobfiles.remove(draft)
            raise SerializationError(
                "an array was changed while it was being sent: change it before a task takes it, or send a copy"
            )
        self._seal(blob, draft)

    def pin(self, blob: bytes) -> bool:
        """Keep the blob in the store until `unpin`; whether it is there at all."""
        if blob in self._pins:
            return True
        path = self._path(blob)
        pin = self._named(blob, "")
        with self._locked():
            if not blobfiles.link(path, pin):
                return False
            os.utime(path, follow_symlinks=False)
        self._pins[blob] = pin
        return True

    def _seal(self, blob: bytes, draft: Path) -> None:
        """Make the blob of a finished file, and pin it."""
        pin = self._named(blob, "")
        with self._locked():
            if blobfiles.link(self._path(blob), pin):
                blobfiles.remove(draft)  # another process was faster
            else:
                os.rename(draft, self._path(blob))
                blobfiles.link(self._path(blob), pin)
        self._pins[blob] = pin

    def adopt(self, blob: bytes, folders: Sequence[str]) -> bool:
        """Have the blob by sharing the memory of another store of this machine; whether one of them has it."""
        for folder in folders:
            draft = self._draft(blob)
            theirs = Path(folder) / blob.hex()
            with contextlib.suppress(OSError):  # it is not there, or may not be read, or is on another disk
                if not theirs.is_symlink() and blobfiles.link(theirs, draft):
                    if blobfiles.blob_id([blobfiles.mapped([draft], shared=True, writable=False)]) == blob:
                        self._seal(blob, draft)
                        return True
                    blobfiles.remove(draft)
        return False

    def begin(self, blob: bytes, size: int) -> Draft:
        """Make room for a blob that is about to come.

        Raises:
            OSError: there is none.
        """
        draft = self._draft(blob)
        if self._has_room(size):
            try:
                blobfiles.reserve(draft, size)
                return Draft(blob, draft, size, self._seal)
            except OSError:
                self._allowance = 0
        real = self._on_disk(draft)
        blobfiles.reserve(real, size)
        self._link_to_disk(draft, real)
        self._warn_if_full()
        return Draft(blob, draft, size, self._seal)

    def read(self, blob: bytes, offset: int, size: int, suffix: str = "") -> bytes | None:
        """Bytes of a blob, or with `RESULT` of a result, from `offset` on; None if it is not here, or has fewer."""
        return blobfiles.read(self._path(blob).with_suffix(suffix), offset, size)

    def unpin_all(self) -> None:
        """This process needs nothing more."""
        for blob in list(self._pins):
            self.unpin(blob)

    def unpin(self, blob: bytes) -> None:
        """This process needs the blob no more; it stays while there is room."""
        pin = self._pins.pop(blob, None)
        if pin is not None:
            pin.unlink(missing_ok=True)

    def map(self, *blobs: bytes, private: bool = False) -> memoryview:
        """The bytes of a blob, or of several, one after another, mapped.

        Args:
            private: what is written to them is seen by nobody else; they are read-only if not.

        Raises:
            SerializationError: a blob is not in the store.
        """
        paths = [self._path(blob) for blob in blobs]
        try:
            return blobfiles.mapped(paths, shared=not private, writable=private)
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise SerializationError(f"blob {missing} is not in the store of this machine, {self.folder}") from error

    # --- results on their way back: each has one writer and one reader ---

    def hand_over(self, data: Buffer) -> bytes:
        """Leave data for the one who calls `take` with the name that this returns, once it was given to `accept`.

        Raises:
            OSError: there is no room for it.
        """
        name = os.getpid().to_bytes(PID_BYTES) + os.urandom(16 - PID_BYTES)
        draft = self._draft(name)
        self._write(draft, [memoryview(data).cast("B")], self._has_room(len(data)))
        draft.rename(self._handed_over(name))
        self._warn_if_full()
        return name

    def take(self, name: bytes) -> memoryview:
        """The data, writable and this process's own from now on: it stays when the store is gone.

        Raises:
            SerializationError: it is not there.
        """
        path = self._path(name).with_suffix(RESULT)
        try:
            # On a disk that is full, writing to a file's mapping ends the process; a private one is memory.
            view = blobfiles.mapped([path], shared=not path.is_symlink(), writable=True)
            blobfiles.remove(path)
        except FileNotFoundError as error:
            raise SerializationError(f"a result of the store in {self.folder} is gone") from error
        return view

    def accept(self, name: bytes) -> int:
        """Have a result that was handed over stay, whatever becomes of who did; its bytes, 0 if it is gone."""
        path = self._path(name).with_suffix(RESULT)
        try:
            self._handed_over(name).rename(path)
            return path.stat().st_size
        except FileNotFoundError:
            return 0

    def results(self) -> set[bytes]:
        """The results that were accepted, and not taken."""
        with contextlib.suppress(FileNotFoundError):
            return {bytes.fromhex(name[:32]) for name in os.listdir(self.folder) if name[32:] == RESULT}
        return set()

    def remove_result(self, name: bytes) -> None:
        """Nobody will take it."""
        blobfiles.remove(self._path(name).with_suffix(RESULT))

    # --- inside ---

    def _path(self, blob: bytes) -> Path:
        return self.folder / blob.hex()

    def _named(self, blob: bytes, suffix: str) -> Path:
        """A name that tells whose it is, and is given once."""
        return self.folder / f"{blob.hex()}.{owner()}-{next(_numbers)}{suffix}"

    def _handed_over(self, name: bytes) -> Path:
        """A result while it is its writer's, whose number begins the name: for what it then does not say, it goes."""
        return self.folder / f"{name.hex()}.{owner(int.from_bytes(name[:PID_BYTES]))}{RESULT}"

    def _draft(self, blob: bytes) -> Path:
        return self._named(blob, ".draft")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Hold the folder's lock; yields the budget, which its file tells."""
        with locked(self.folder / LOCK) as lock:
            yield int(lock.read())

    def _write(self, path: Path, content: Iterable[memoryview], fits: bool) -> None:
        """Write a file whole, or leave nothing: in memory if it fits, else on disk."""
        if fits:
            try:
                return blobfiles.write(path, content)
            except OSError as error:  # shared memory is smaller than was thought, or others have filled it
                pass_on(error)
                self._allowance = 0
        real = self._on_disk(path)
        blobfiles.write(real, content)
        return self._link_to_disk(path, real)

    def _on_disk(self, path: Path) -> Path:
        """Where a file is to be that finds no room in memory."""
        return (self.folder / DISK).resolve() / path.name

    def _link_to_disk(self, path: Path, real: Path) -> None:
        path.symlink_to(real)
        with contextlib.suppress(FileExistsError):  # some process of those that use the store has said it
            (self.folder / WARNED).touch(exist_ok=False)
            self._full = real.parent

    def _warn_if_full(self) -> None:
        full, self._full = self._full, None
        if full is not None:
            warnings.warn(
                f"no room in shared memory: large data goes to {full}, which is slower; close what uses"
                f" {self.folder.parent}, or give workers more with --blob-memory",
                stacklevel=4,
            )

    def _has_room(self, wanted: int) -> bool:
        """Whether so many bytes fit into the budget, after forgetting what need not be kept."""
        if wanted > self._allowance:
            with self._locked() as budget:
                free = budget - self._make_room(wanted, budget)
            if wanted > free:
                return False
            self._allowance = max(wanted, free // LOOK_AFTER)
        self._allowance -= wanted
        return True

    def _make_room(self, wanted: int, budget: int) -> int:
        """Under the lock: forget what nobody has pinned, the least recently used first; returns the bytes in use."""
        self._sweep()
        unpinned = []
        total = 0
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                size = 0 if path.is_symlink() else status.st_size
                total += size // status.st_nlink
                if not path.suffix and path.name not in (LOCK, DISK, WARNED) and status.st_nlink == 1:
                    unpinned.append((status.st_mtime_ns, size, path))
        for _, size, path in sorted(unpinned):
            if total + wanted > budget or path.is_symlink():  # on disk is only what is in use
                blobfiles.remove(path)
                total -= size
        return total

    def _sweep(self) -> None:
        """Remove what is owned by processes that are gone: pins, unfinished files, results that they told nobody of."""
        for path in self.folder.iterdir():
            _, *owned = path.name.split(".")
            if owned and is_gone(owned[0]):
                blobfiles.remove(path)
