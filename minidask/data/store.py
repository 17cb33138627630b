"""One machine's large data: a folder in shared memory, where each blob is a file that every process of the user maps.

**Ids.** A blob's id is a hash of its content, and the name of its file is that id. So a process that finds the file
need not write it again, in this call or in the next one, and a process that receives a blob can check it.

**Nobody is in charge.** Client, daemon and slots share the folder, any of them may be killed at any moment, and no
process has to be alive for the others to go on. What one process has to know of the others is written in the folder:

    3f2a…                      the blob: complete, never changed any more
    3f2a….4711-S-7             a pin of process 4711 of space S: a hard link to the same file
    3f2a….4711-S-8.draft       a file that process 4711 is writing
    lock                       the file that is locked while names change; it holds the budget, in bytes
    disk ─► /tmp/minidask-…    where files go that find no room in memory

**Pins.** A blob must not be removed while a task is on its way that will map it. A process that needs it makes a hard
link. The kernel then counts for us: a file with one link has no pin. A pin costs no memory and needs no message. It
names its owner, so any process can remove the pins of one that was killed (`minidask/host/folders.py` tells what a
space is, and which process is gone).

     put ─► draft ─rename, under the lock─► 3f2a… ◄─ map, by any process
                                              │ link, under the lock
                                              └─► 3f2a….4711-S-7 ─unlink, at any time─► (unpinned)

**Who may remove what.** Each process removes its own pins and drafts. Under the lock, a process that needs room may
remove the pins and drafts of processes that are gone, and blobs without a pin, the least recently used first. So "is
it there?" and "pin it" must be one step, also under the lock: else the blob could go in between. Reading needs no
lock. A process that has mapped a file keeps its memory, whatever happens to the names: the kernel frees it with the
last view. The lock is held for a walk through the folder at most, never while data is written, and the kernel releases
it when its holder dies.

**Torn files cannot be.** A blob gets its name by a rename, when all of it is written. If two processes write the same
blob, the second finds the name taken, and removes its draft.

**No room.** Data goes into memory as long as the budget and the machine allow. Then it goes to a disk: the blob is a
symbolic link to a file there, which readers map as any other. Files are written with `write`, which fails where there
is no room; touching a mapping would end the process. Where the disk is full too, data goes along with the message that
would have named it. Each of the two steps is said once for each store, by the process that takes it first.

**Results** have one writer and one reader, and random names, as hashing would cost more than it could save (see
docs/decisions.md). The name of the writer's process is in the name, until the daemon has accepted the result.

    hand_over ─► name.OWNER.result ─accept, by the daemon─► name.result ─take, by the client─► gone

An accepted result stays until it is taken, or until the daemon knows that nobody will take it (`worker/untaken.py`).
No age tells that: a client may be stopped for long.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import stat
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minidask.data import files as blobfiles
from minidask.data.files import Draft, Hashed
from minidask.data.pieces import side_by_side
from minidask.errors import SerializationError
from minidask.host.folders import SHARED_MEMORY, disk_folder, is_gone, memory_folder, owner
from minidask.host.locks import locked
from minidask.host.resources import blob_memory
from minidask.host.signals import pass_on
from minidask.wire.frames import Buffer

LOCK = "lock"
DISK = "disk"
WARNED = "warned"  # the file that says that data goes to disk, and that somebody was told
SENT_ALONG = "sent-along"  # the same, where the disk has no room either
NO_BLOBS = (LOCK, DISK, WARNED, SENT_ALONG)
RESULT = ".result"
PID_BYTES = 4
LOOK_AFTER = 64  # a process looks through the folder again after it has used 1/64 of the free room

_numbers = itertools.count()


class BlobStore:
    """The store in a folder. Any number of processes may open the same folder.

    Each object knows the pins that were made with it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._pins: dict[bytes, Path] = {}
        self._allowance = 0
        self._untold: list[str] = []

    @classmethod
    def make(cls, disk_parent: Path | None = None, budget: int | None = None) -> BlobStore:
        """Make a store in new folders, in shared memory if that has room.

        Args:
            disk_parent: where the folder for what finds no room in memory is to be; None: the temporary folder.
            budget: the bytes of memory that its files may take; None: a share of the machine's memory.

        Raises:
            OSError: no folder can be made.
        """
        disk = disk_folder(disk_parent)
        memory = memory_folder()
        folder = memory or disk_folder(disk)
        store = cls.create(folder, budget or blob_memory(folder), disk)
        if memory is None and os.access(SHARED_MEMORY, os.W_OK):
            store._tell_of_disk(SHARED_MEMORY, disk)
            store._tell()
        return store

    @classmethod
    def create(cls, folder: Path, budget: int, disk: Path) -> BlobStore:
        """Make a store of an empty folder.

        Args:
            budget: the bytes of memory that its files may take.
            disk: a folder for what goes beyond that.
        """
        (folder / LOCK).touch(0o600)
        (folder / LOCK).write_text(str(budget))
        (folder / DISK).symlink_to(disk.absolute())
        return cls(folder)

    @classmethod
    def of(cls, info: dict[str, Any] | None) -> BlobStore | None:
        """Open the store that a scheduler has named in its handshake. None if this process cannot use it.

        Args:
            info: the scheduler's description of itself. None if there is no scheduler.
        """
        folder = (info or {}).get("store")
        if not isinstance(folder, str) or not os.access(Path(folder) / LOCK, os.R_OK | os.W_OK):
            return None
        return cls(folder)

    def remove(self) -> None:
        """Remove the store's folders, in memory and on disk, with all files. Mapped memory stays valid."""
        for folder in ((self.folder / DISK).resolve(), self.folder):
            shutil.rmtree(folder, ignore_errors=True)

    # --- data on its way to tasks ---

    def put(self, blob: bytes, data: Buffer) -> bool:
        """Write a blob into the store, and pin it until `unpin`. Returns False if there is no room.

        Raises:
            SerializationError: the buffer was changed meanwhile, so its bytes do not match the id.
        """
        return self.put_all({blob: data})

    def put_all(self, blobs: Mapping[bytes, Buffer]) -> bool:
        """Write blobs into the store, side by side, and pin them until `unpin`.

        The kernel lets one thread at a time write to a file, but several to several.

        Returns:
            False if there is no room for all of them. Then only those are pinned that were pinned before.

        Raises:
            SerializationError: a buffer was changed meanwhile, so its bytes do not match the id.
        """
        new = [blob for blob in blobs if blob not in self._pins]
        try:
            missing = [blob for blob in new if not self.pin(blob)]
            fits = self._has_room(sum(len(blobs[blob]) for blob in missing))
            side_by_side(lambda blob: self._put(blob, blobs[blob], fits), missing)
        except BaseException as error:
            for blob in new:
                self.unpin(blob)
            if not isinstance(error, OSError):
                raise
            pass_on(error)
            self._tell_of_sending(map(blobs.__getitem__, new), error)
        self._tell()
        return all(blob in self._pins for blob in new)

    def _put(self, blob: bytes, data: Buffer, fits: bool) -> None:
        draft = self._draft(blob)
        content = Hashed(memoryview(data).cast("B"))
        self._write(draft, content, fits)
        if content.id != blob:
            blobfiles.remove(draft)
            raise SerializationError(
                "an array was changed while it was being sent: change it before a task takes it, or send a copy"
            )
        self._seal(blob, draft)

    def pin(self, blob: bytes) -> bool:
        """Keep a blob in the store until `unpin`. Returns False if the store does not have it."""
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
        """Make a finished draft a blob, and pin it."""
        pin = self._named(blob, "")
        with self._locked():
            if blobfiles.link(self._path(blob), pin):
                blobfiles.remove(draft)  # another process was faster
            else:
                os.rename(draft, self._path(blob))
                blobfiles.link(self._path(blob), pin)
        self._pins[blob] = pin

    def adopt(self, blob: bytes, folders: Sequence[str]) -> bool:
        """Link a blob's file from another store of this machine, and pin it. Returns False if none of them has it.

        The content of the file is checked against the id first.
        """
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
        """Make the draft of a blob that will come in chunks, and reserve room for all of it.

        Raises:
            OSError: there is no room for it, in memory or on disk.
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
        self._tell()
        return Draft(blob, draft, size, self._seal)

    def read(self, blob: bytes, offset: int, size: int, suffix: str = "") -> bytes | None:
        """Read bytes of a blob, or of a result with the suffix `RESULT`. None if it is shorter, or not here."""
        return blobfiles.read(self._path(blob).with_suffix(suffix), offset, size)

    def unpin_all(self) -> None:
        """Remove all pins of this process."""
        for blob in list(self._pins):
            self.unpin(blob)

    def unpin(self, blob: bytes) -> None:
        """Remove this process's pin of a blob, if there is one. The blob itself stays as long as there is room."""
        pin = self._pins.pop(blob, None)
        if pin is not None:
            pin.unlink(missing_ok=True)

    def map(self, *blobs: bytes, private: bool = False) -> memoryview:
        """Map the bytes of a blob, or of several, one after another.

        Args:
            private: whether the memory is writable, and writes are seen by this process alone. Otherwise it is
                read-only.

        Raises:
            SerializationError: a blob is not in the store.
        """
        paths = [self._path(blob) for blob in blobs]
        try:
            return blobfiles.mapped(paths, shared=not private, writable=private)
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise SerializationError(f"blob {missing} is not in the store of this machine, {self.folder}") from error

    # --- results on their way back ---

    def hand_over(self, data: Buffer) -> bytes | None:
        """Write data for the process that calls `take`.

        Returns:
            A name for `accept` and `take`; None if there is no room.
        """
        name = os.getpid().to_bytes(PID_BYTES) + os.urandom(16 - PID_BYTES)
        draft = self._draft(name)
        try:
            self._write(draft, [memoryview(data).cast("B")], self._has_room(len(data)))
            draft.rename(self._handed_over(name))
        except OSError as error:
            pass_on(error)
            self._tell_of_sending([data], error)
            return None
        finally:
            self._tell()
        return name

    def take(self, name: bytes) -> memoryview:
        """Map a result, writable, and remove its file from the store. The memory stays valid without the store.

        The file is removed even if it cannot be mapped: nobody asks for a result twice.

        Raises:
            SerializationError: the result is not there.
            OSError: the result cannot be mapped.
        """
        path = self._path(name).with_suffix(RESULT)
        try:
            # On a disk that is full, writing to a file's mapping ends the process; a private one is memory.
            return blobfiles.mapped([path], shared=not path.is_symlink(), writable=True)
        except FileNotFoundError as error:
            raise SerializationError(f"a result of the store in {self.folder} is gone") from error
        finally:
            blobfiles.remove(path)

    def accept(self, name: bytes) -> int:
        """Take over a result from the process that wrote it, so that it outlives that process.

        Returns its size in bytes; 0 if the result is gone.
        """
        path = self._path(name).with_suffix(RESULT)
        try:
            self._handed_over(name).rename(path)
            return path.stat().st_size
        except FileNotFoundError:
            return 0

    def results(self) -> set[bytes]:
        """The names of all results that were accepted, and not taken."""
        with contextlib.suppress(FileNotFoundError):
            return {bytes.fromhex(name[:32]) for name in os.listdir(self.folder) if name[32:] == RESULT}
        return set()

    def remove_result(self, name: bytes) -> None:
        """Remove a result that nobody will take."""
        blobfiles.remove(self._path(name).with_suffix(RESULT))

    # --- inside ---

    def _path(self, blob: bytes) -> Path:
        return self.folder / blob.hex()

    def _named(self, blob: bytes, suffix: str) -> Path:
        """A new file name each time, with this process as the owner."""
        return self.folder / f"{blob.hex()}.{owner()}-{next(_numbers)}{suffix}"

    def _handed_over(self, name: bytes) -> Path:
        """The file of a result that was not accepted yet. Its name has its writer, with which it goes."""
        return self.folder / f"{name.hex()}.{owner(int.from_bytes(name[:PID_BYTES]))}{RESULT}"

    def _draft(self, blob: bytes) -> Path:
        return self._named(blob, ".draft")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Hold the folder's lock; yields the budget, which is in the same file."""
        with locked(self.folder / LOCK) as lock:
            yield int(lock.read())

    def _write(self, path: Path, content: Iterable[memoryview], fits: bool) -> None:
        """Write a file whole, in memory if it fits, else on disk; or leave nothing."""
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
        """The path of a file that finds no room in memory."""
        return (self.folder / DISK).resolve() / path.name

    def _link_to_disk(self, path: Path, real: Path) -> None:
        path.symlink_to(real)
        self._tell_of_disk(self.folder.parent, real.parent)

    def _tell_of_disk(self, full: Path, disk: Path) -> None:
        text = f"no room in shared memory: large data goes to {disk}, which is slower; close what uses {full}, or give"
        self._tell_once(WARNED, f"{text} workers more with --blob-memory")

    def _tell_of_sending(self, buffers: Iterable[Buffer], error: OSError) -> None:
        self._tell_once(SENT_ALONG, _sending(buffers, error))

    def _tell_once(self, step: str, text: str) -> None:
        """Have `_tell` warn of this, unless a process has done so for this store. May run in a helper thread."""
        with contextlib.suppress(OSError):  # the file exists already, or the store is gone
            (self.folder / step).touch(0o600, exist_ok=False)
            self._untold.append(text)

    def _tell(self) -> None:
        """Give the warnings that are due. Called last, as a user may have turned warnings into errors."""
        while self._untold:
            warnings.warn(self._untold.pop(), stacklevel=4)

    def used(self) -> int:
        """How many bytes of memory the files of this store take."""
        total = 0
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                total += _in_memory(path.lstat())
        return total

    def _has_room(self, wanted: int) -> bool:
        """Whether that many bytes fit into the budget, once blobs without a pin have made room for them."""
        if wanted > self._allowance:
            with self._locked() as budget:
                free = budget - self._make_room(wanted, budget)
            if wanted > free:
                return False
            self._allowance = max(wanted, free // LOOK_AFTER)
        self._allowance -= wanted
        return True

    def _make_room(self, wanted: int, budget: int) -> int:
        """Under the lock: remove blobs without a pin, the least recently used first. Returns the bytes in use."""
        self._sweep()
        unpinned = []
        total = 0
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                size = _in_memory(status)
                total += size // status.st_nlink
                if not path.suffix and path.name not in NO_BLOBS and status.st_nlink == 1:
                    unpinned.append((status.st_mtime_ns, size, path))
        for _, size, path in sorted(unpinned):
            if total + wanted > budget or path.is_symlink():  # on disk is only what is in use
                blobfiles.remove(path)
                total -= size
        return total

    def _sweep(self) -> None:
        """Remove the pins, drafts and unaccepted results of processes that are gone."""
        for path in self.folder.iterdir():
            _, *owned = path.name.split(".")
            if owned and is_gone(owned[0]):
                blobfiles.remove(path)


def _in_memory(status: os.stat_result) -> int:
    """How many bytes a file of a store takes there: a link to the disk none, and arenas have holes."""
    return 0 if stat.S_ISLNK(status.st_mode) else min(status.st_size, status.st_blocks * 512)


def warn_of_sending(buffers: Iterable[Buffer], error: OSError) -> None:
    """Warn that large data is sent within messages, since no store could be made."""
    warnings.warn(_sending(buffers, error), stacklevel=2)


def _sending(buffers: Iterable[Buffer], error: OSError) -> str:
    return (
        f"no room for {sum(map(len, buffers))} bytes of large data ({error}): it is sent along instead,"
        " which is slower and takes more memory"
    )
