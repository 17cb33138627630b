"""One run of a `joblib.Parallel` object: its tasks, and who runs joblib's callbacks for them.

Nothing of joblib is imported here; `joblib_backend.py` explains how the two meet.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from minidask.client.client import Client
from minidask.client.core import Lost
from minidask.client.future import Future
from minidask.client.group import TaskGroup
from minidask.client.reading import Borrowed
from minidask.errors import MinidaskError
from minidask.payload import Scattered

LOOK_SECONDS = 0.05  # how often a task's thread looks whether it is its turn to help the slot
Callback = Callable[[Future], None]
RunBatch = Callable[[list[Any], int | None, int | None], list[Any]]


class Call:
    """One run of a `Parallel` object: its tasks, and who runs joblib's callbacks for them."""

    def __init__(
        self,
        client: Client,
        group: TaskGroup,
        parallel: Any,
        run_batch: RunBatch,
        inner_threads: int | None,
        shared: list[tuple[Any, Scattered]],
    ) -> None:
        self._client = client
        self._group = group
        self._parallel = parallel
        self._run_batch = run_batch
        self._inner_threads = inner_threads
        self._done: queue.SimpleQueue[tuple[Callback, Future] | None] = queue.SimpleQueue()
        self._pending: set[Future] = set()
        self._shared = {id(obj): handle for obj, handle in shared}
        for obj, handle in shared:
            self._group.interner.alias(obj, handle)
        if parallel.return_generator and client.nested:
            self._wait_retrieval = parallel._wait_retrieval
            parallel._wait_retrieval = self._help_while_waiting
        elif parallel.return_generator:
            threading.Thread(target=self._collect_forever, name="minidask-callbacks", daemon=True).start()

    def submit(self, batch: Any, callback: Callback | None, nesting_level: int | None) -> Future:
        """Send a batch. What goes wrong is the outcome of the future: joblib expects no exception here."""
        items = self._with_handles(batch.items) if hasattr(batch, "items") else [(batch, (), {})]

        def on_done(future: Future) -> None:
            self._pending.discard(future)
            if callback is not None and not future.cancelled():
                self._done.put((callback, future))

        try:
            arguments = (items, nesting_level, self._inner_threads)
            future = self._group.submit(self._run_batch, arguments, name=_name_of(items), on_done=on_done)
        except MinidaskError as error:
            future = Future(0, "batch", lambda future: None, lambda: False)
            future.settle(Lost(error))
            future.add_done_callback(on_done)  # type: ignore[arg-type]
            return future
        self._pending.add(future)
        if future.done():
            self._pending.discard(future)
        return future

    def _with_handles(self, items: list[Any]) -> list[Any]:
        """Put handles in the place of scattered lists and dicts, which the pickler does not ask about."""
        if not self._shared:
            return items
        get = self._shared.get
        return [
            (function, tuple(get(id(a), a) for a in args), {key: get(id(a), a) for key, a in kwargs.items()})
            for function, args, kwargs in items
        ]

    # --- collecting ---

    def collect_until_done(self) -> None:
        """Run joblib's callbacks here until the call is complete, aborted or timed out."""
        parallel = self._parallel
        self._collect(lambda: parallel._wait_retrieval() and not parallel._aborting)

    def _collect(self, go_on: Callable[[], bool]) -> None:
        head = 0
        while go_on():
            with self._client.reading.borrowed() as reading:
                while go_on():
                    if not self._done.empty():
                        self._run_callbacks(reading)
                        continue
                    wait, head = self._time_left(head)
                    if reading is not None:
                        reading.read(wait)
                    elif not self._wait_for_others(wait):
                        break  # to look whether it is our turn now

    def _wait_for_others(self, seconds: float | None) -> bool:
        """Wait until there may be callbacks to run, while another thread reads; False if there are none so far."""
        if self._client.nested:  # and that thread runs what this slot is given: it may stop to at any time
            seconds = LOOK_SECONDS if seconds is None else min(seconds, LOOK_SECONDS)
        with contextlib.suppress(queue.Empty):
            self._done.put(self._done.get(timeout=seconds))  # whose turn it is does not matter
            return True
        return not self._client.nested

    def _run_callbacks(self, reading: Borrowed | None) -> None:
        if reading is not None:
            reading.run(lambda: self._run_callbacks(None))
            return
        while not self._done.empty():
            item = self._done.get()
            if item is not None:
                item[0](item[1])

    def _help_while_waiting(self) -> bool:
        """In the place of joblib's own look whether a generator has more to come, in a task.

        joblib's would go to sleep where nothing has come yet; this one has the slot run what it waits for.
        """
        parallel = self._parallel

        def nothing_to_retrieve() -> bool:
            jobs = parallel._jobs
            come = bool(jobs) and (not parallel.return_ordered or jobs[0].status != "Pending")
            return self._wait_retrieval() and not come and not parallel._aborting

        self._collect(nothing_to_retrieve)
        return bool(self._wait_retrieval())

    def _time_left(self, head: int) -> tuple[float | None, int]:
        """Seconds until the oldest pending job has used up joblib's timeout, and its position."""
        timeout = self._parallel.timeout
        if timeout is None:
            return None, head
        jobs = self._parallel._jobs
        while head < len(jobs) and jobs[head].get_status(timeout=timeout) != "Pending":
            head += 1
        if head == len(jobs) or self._parallel._aborting:  # nothing to time, or the time is up
            return 0.01, head
        waited = time.time() - jobs[head]._completion_timeout_counter
        return max(0.0, timeout - waited) + 0.001, head

    def _collect_forever(self) -> None:
        while (item := self._done.get()) is not None:
            item[0](item[1])

    # --- the end ---

    def abort(self) -> None:
        self._client.cancel(list(self._pending), force=True)

    def close(self) -> None:
        self._parallel.__dict__.pop("_wait_retrieval", None)
        self._done.put(None)
        self._group.close()


class SharedData:
    """The objects of `scatter=`, sent ahead when the first call starts and held until the backend is forgotten."""

    def __init__(self, objects: list[Any]) -> None:
        self._objects = objects
        self._handles: list[tuple[Any, Scattered]] = []
        self._client: Client | None = None

    def handles(self, client: Client) -> list[tuple[Any, Scattered]]:
        """Each object with its handle at this client."""
        if self._objects and self._client is not client:
            self._handles = [(obj, client.scatter_one(obj)) for obj in self._objects]
            self._client = client
        return self._handles


def _name_of(items: list[Any]) -> str:
    function = items[0][0]
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)
