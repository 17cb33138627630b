"""One run of a `joblib.Parallel` object: its tasks, and who runs joblib's callbacks for them.

Nothing of joblib is imported here; `joblib_backend.py` explains how the two meet.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from minidask.backend.inside_joblib import InsideParallel
from minidask.backend.total import calls_in_all
from minidask.client.client import Client
from minidask.client.core import Lost
from minidask.client.future import Future
from minidask.client.group import TaskGroup
from minidask.client.interrupts import INTERRUPT_SECONDS
from minidask.client.reading import Leadership
from minidask.errors import MinidaskError
from minidask.host.signals import Uninterrupted, start
from minidask.pickling.functions import name_of
from minidask.pickling.sharing import Scattered

if TYPE_CHECKING:
    from minidask.client.progress import Bar, CallCounter

Callback = Callable[[Future], None]
RunBatch = Callable[[list[Any], int | None, int | None], list[Any]]
NOBODY = Future(0, "")


class Job(NamedTuple):
    """One batch: its calls, as `(function, args, kwargs)` each, and joblib's callback for when it is done."""

    items: list[Any]
    nesting_level: int | None
    callback: Callback | None


class ParallelRun:
    """One run of a `Parallel` object: its tasks, and who runs joblib's callbacks for them.

    With `slots`, those that the cluster has now, it makes use of those that come later too.
    """

    def __init__(
        self,
        client: Client,
        group: TaskGroup,
        inside: InsideParallel,
        run_batch: RunBatch,
        inner_threads: int | None,
        shared: list[tuple[Any, Scattered]],
        slots: int = 0,
        bar: Bar | None = None,
    ) -> None:
        self._client = client
        self._group = group
        self._inside = inside
        self._run_batch = run_batch
        self._inner_threads = inner_threads
        self._done: queue.SimpleQueue[tuple[Callback, Future] | None] = queue.SimpleQueue()
        self._slots = slots
        self._under_way = self._most = 0  # batches
        self._call_id = inside.call_id
        self._bars = list(dict.fromkeys([calls.bar for calls in client.shell.bars] + ([bar] if bar else [])))
        self._counts: list[CallCounter] = []
        self._aborted = False
        self._shared = {id(obj): handle for obj, handle in shared}
        for obj, handle in shared:
            self._group.interner.alias(obj, handle)
        if slots:
            client.shell.workers.on_change.add(self._workers_changed)
            self._workers_changed()
        self._start_collecting()

    def _start_collecting(self) -> None:
        """See to the callbacks of a generator; for a list, `collect_until_done` does."""
        if self._inside.is_generator:
            start(threading.Thread(target=self._collect_forever, name="minidask-callbacks", daemon=True))

    def submit(self, batch: Any, callback: Callback | None, nesting_level: int | None) -> Future:
        """Send a batch. What goes wrong is the outcome of the future: joblib expects no exception here."""
        self._inside.remember_batch_class(callback)
        job = Job(batch.items if hasattr(batch, "items") else [(batch, (), {})], nesting_level, callback)
        self._count(job.items)
        try:
            return self._send(job)
        except MinidaskError as error:
            return self._fail(job, error)

    def _fail(self, job: Job, error: MinidaskError) -> Future:
        """A batch cannot be run, and why."""
        future = Future(0, "batch")
        future.settle(Lost(error))
        self._is_done(len(job.items), job.callback, future)
        return future

    def _send(self, job: Job) -> Future:
        """Have the cluster run a batch.

        Raises:
            MinidaskError: it cannot be sent.
        """
        arguments = (self._with_handles(job.items), job.nesting_level, self._inner_threads)
        count, callback = len(job.items), job.callback  # not the job: its arguments go once they were sent

        def on_done(future: Future) -> None:
            self._under_way -= 1
            self._is_done(count, callback, future)

        name = name_of(job.items[0][0])
        future = self._group.submit(self._run_batch, arguments, name=name, on_done=on_done, counted=True)
        self._under_way += 1
        self._most = max(self._most, self._under_way)
        return future

    def _is_done(self, count: int, callback: Callback | None, future: Future) -> None:
        """A batch of so many calls is over."""
        if future.cancelled():
            return
        for calls in self._counts:
            calls.over(future, count)
        if callback is not None:
            self._done.put((callback, future))

    def _count(self, items: list[Any]) -> None:
        """Show on bars, if there are any, that these are submitted."""
        if self._bars and not self._counts:  # only now, where joblib sees to it that the call will be closed
            with Uninterrupted():
                for bar in self._bars:
                    self._counts.append(
                        bar.begin(self._client.shell, name_of(items[0][0]), self._inside.parallel.n_tasks)
                    )
        for calls in self._counts:
            calls.submitted(len(items))

    def count_all(self) -> None:
        """Tell the bars how many there will be, if that is known by now."""
        total = calls_in_all(self._inside) if self._counts else None
        if total is not None:
            for calls in self._counts:
                calls.expect(total)

    def _with_handles(self, items: list[Any]) -> list[Any]:
        """Put handles in the place of scattered lists and dicts, which the pickler does not ask about."""
        if not self._shared:
            return items
        get = self._shared.get
        return [
            (function, tuple(get(id(a), a) for a in args), {key: get(id(a), a) for key, a in kwargs.items()})
            for function, args, kwargs in items
        ]

    # --- slots that come during the call ---

    def _workers_changed(self) -> None:
        if self._client.slots() > self._slots:
            self._done.put((self._widen, NOBODY))

    def _widen(self, nobody: Future) -> None:
        """Dispatch more: joblib keeps so many batches under way as it chose to for the slots of the beginning."""
        inside, slots = self._inside, self._client.slots()
        with inside.dispatching():
            if inside.call_id != self._call_id or slots <= self._slots:
                return
            if not isinstance(inside.parallel.pre_dispatch, str):
                return  # a number is the user's own choice
            more = -(-self._most * slots // self._slots) - self._most
            self._slots = slots
            inside.dispatch_for(slots, more)

    # --- collecting ---

    def collect_until_done(self) -> None:
        """Run joblib's callbacks here until the call is complete, aborted or timed out."""
        self._collect(self._inside.must_wait)

    def _collect(self, go_on: Callable[[], bool]) -> None:
        head = 0
        while go_on():
            with self._client.shell.reader.lead() as leadership:
                while go_on():
                    if not self._done.empty():
                        self._run_callbacks(leadership)
                        continue
                    if self._work_here(leadership):
                        continue
                    wait, head = self._inside.seconds_left(head)
                    if leadership is not None:
                        if self._client.shell.reader.wanted_back:
                            break  # it is another thread's turn
                        leadership.read(wait)
                    elif not self._wait_for_others(wait):
                        break  # to look whether it is our turn now

    def _wait_for_others(self, seconds: float | None) -> bool:
        """Wait until there may be callbacks to run, while another thread reads; False to try to read again."""
        seconds = INTERRUPT_SECONDS if seconds is None else min(seconds, INTERRUPT_SECONDS)
        with contextlib.suppress(queue.Empty):
            self._done.put(self._done.get(timeout=seconds))  # whose turn it is does not matter
        return True

    def _run_callbacks(self, leadership: Leadership | None) -> None:
        if leadership is None:
            self._run_all()
        else:
            leadership.run(self._run_all)

    def _run_all(self) -> None:
        while not self._done.empty():
            item = self._done.get()
            if item is not None:
                item[0](item[1])

    def _work_here(self, leadership: Leadership | None) -> bool:
        """Do something useful before waiting; False if there is nothing to do."""
        return False

    def _collect_forever(self) -> None:
        while (item := self._done.get()) is not None:
            try:
                item[0](item[1])
            except BaseException as error:  # noqa: BLE001 - raised where the results are asked for
                self._inside.fail(error)

    # --- the end ---

    def abort(self) -> None:
        self._aborted = True
        self._group.cancel()

    def close(self) -> None:
        self._client.shell.workers.on_change.discard(self._workers_changed)
        self._done.put(None)
        self._client.shell.channels.flush()
        self._group.close()
        for calls in self._counts:
            calls.end(not self._aborted)


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
