"""The outcomes of one `Parallel` call, or of one `map`, that are kept in a file, and found there by the next run.

    a call ─► key ─► find ─► the result of an earlier run        (or None: the call is sent to the cluster)
    its result, still pickled ─► keep ─► written at once ─► the syncing thread: all that was written meanwhile, at once

**What is lost.** When all programs are killed: what ran, and what had not reached this one. When the power fails, also
what was written in the milliseconds since the last sync began. Nobody waits for a sync but `close`.

**Calls with the same content** are told apart by their number: the first one of a run finds the outcome of the first
one. So a hundred calls of a simulation without arguments have a hundred outcomes.

**A class of `__main__`** comes back as the class that the program has now. minidask's pickles name such a class by a
tracker, which only the process that sent it knows. So a record tells beside the payload what these classes are called.
"""

from __future__ import annotations

import collections
import functools
import io
import pickle
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from minidask.errors import MinidaskError
from minidask.host.signals import pass_on, start
from minidask.pickling import byvalue
from minidask.resume.content import Contents, that_count
from minidask.resume.records import Records, packed
from minidask.wire.frames import Buffer
from minidask.wire.messages import Payload


class Found(NamedTuple):
    """The result of a call, from an earlier run."""

    value: Any


class Outcomes:
    """The outcomes in one file, for one call of `Parallel` or `map`. `keep` may be called by any thread.

    Args:
        path: of the file; it is made if it is not there.
        form: of the results, part of each key: "list" for a list of one result, as batches return it, or "plain".

    Raises:
        MinidaskError: the file cannot be opened, or is no file of outcomes.
    """

    def __init__(self, path: Path, form: str) -> None:
        self.path = path
        self._form = form
        self._contents = Contents()
        self._counts: collections.Counter[bytes] = collections.Counter()
        self._lock = threading.Lock()  # held to write, and to look at the next three
        self._unsynced = False
        self._syncing: threading.Thread | None = None
        self._gave_up = False
        self._warned: set[str] = set()
        try:
            self._records = Records(path)
        except OSError as error:
            pass_on(error)
            raise MinidaskError(f"resume: {path} cannot be used for outcomes: {error.strerror}") from error
        self._tell_damage()

    def key(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
        """Return the key of the next call; None, with a warning, for one whose content cannot be told."""
        try:
            content = self._contents.key(self._form, function, args, that_count(function, kwargs))
        except Exception as error:  # noqa: BLE001 - whatever a user's object raises
            pass_on(error)
            self._warn("key", f"a call cannot be kept, as its arguments cannot be pickled: {error}")
            return None
        self._counts[content] += 1
        return self._contents.key(content, self._counts[content])

    def find(self, key: bytes | None) -> Found | None:
        """Return the result of the call with this key, if there is one."""
        payload = self._records.get(key) if key is not None else None
        self._tell_damage()
        if payload is None:
            return None
        try:
            names, text, *buffers = payload
            return Found(_Loader(text, buffers, pickle.loads(names)).load())
        except Exception as error:  # noqa: BLE001 - whatever a user's class raises
            pass_on(error)
            self._warn("load", f"a result cannot be unpickled any more, and is computed again: {error}")
            return None

    def keep(self, key: bytes, payload: Payload) -> None:
        """Write the result of a call, before anybody unpickles it, who might change its buffers."""
        with self._lock:
            if self._gave_up:
                return
            try:
                names = pickle.dumps(byvalue.classes_in(bytes(payload[0])))
                self._records.add(packed(key, [names, *payload]))
            except (OSError, MinidaskError, MemoryError) as error:
                pass_on(error)
                self._give_up(error)
                return
            self._unsynced = True
            if self._syncing is None:
                self._syncing = threading.Thread(target=self._sync, name="minidask-sync")
                try:
                    start(self._syncing)
                except RuntimeError as error:  # the program is ending: the kernel writes it to the disk, a little later
                    pass_on(error)
                    self._syncing = None

    def close(self) -> None:
        """Wait until all is on the disk, and close the file."""
        with self._lock:
            syncing = self._syncing
        if syncing is not None:
            syncing.join()
        self._records.close()

    def _sync(self) -> None:
        """Have the disk take what was written, until nothing is left."""
        while True:
            with self._lock:
                if not self._unsynced:
                    self._syncing = None
                    return
                self._unsynced = False
            try:
                self._records.sync()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._gave_up = True
        self._warn("write", f"no more results are kept, and the call goes on: {error}")

    def _tell_damage(self) -> None:
        if self._records.take_damaged():
            self._warn("damage", "some of the file was damaged; what was kept there is computed again")

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(f"resume: {self.path}: {text}", RuntimeWarning, stacklevel=2)


class _Loader(pickle.Unpickler):
    """Unpickles a result of an earlier process.

    Args:
        text: the pickle.
        buffers: those beside it.
        names: module and qualified name of classes, by tracker.
    """

    def __init__(self, text: Buffer, buffers: Payload, names: dict[str, tuple[str, str]]) -> None:
        super().__init__(io.BytesIO(text), buffers=buffers)
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        return functools.partial(_class_of_now, self._names) if found is byvalue.make_class else found


def _class_of_now(names: dict[str, tuple[str, str]], make: Callable[..., Any], *arguments: Any) -> Any:
    """Return the class that the program has under the name of a pickled one; one that it does not have is made."""
    module, name = names.get(arguments[-2], ("", ""))
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else byvalue.make_class(make, *arguments)
