"""One run of a `joblib.Parallel` object: its batches as tasks, and the loop that collects what they return.

joblib gives its backend a batch of calls and a callback, and expects the callback once the batch is over. The callback
unpickles the results, pulls the next calls from the user's iterable, and submits them as another batch. So callbacks
are the user's code: they may take any time, raise anything, and wait for other tasks.

    the reading thread                  the collecting thread
    ──────────────────                  ─────────────────────
    TaskDone comes                      collect_until_done
    BatchFuture.settle                    while joblib has more to come:
    _is_done: put the callback ─queue──►    run callbacks ──► submit the next batch
                                            or wait

**Which thread runs callbacks.** Never the client's reading thread. An iterable that waits for another task would wait
for a message which only that thread could read. For a list, the thread that called `Parallel` runs them: it has
nothing else to do until all results are there. A generator hands control back to the user between two results, and may
not be asked for the next one for a long time. Its callbacks have a thread of their own, `_run_callbacks_forever`.

**How the waiting thread waits.** It reads the socket itself (leader/followers, see `client/reading.py`), so a result
is not handed from thread to thread. While it leads, `_done` can only be filled by its own reading, and the order of
one step is: run callbacks if there are any, else wait for messages. While another thread leads, it follows: it waits at
the queue until there is a callback or that thread stops, and looks every half second whether the run is over.

**How the wait is cut short.** Four things end it early:

- A message that comes. If it completes a batch, the callback is in the queue when `read` returns.
- A nudge: another thread has an urgent use for the lead, so `wanted_back` is true and this thread leaves the lead.
- joblib's `timeout`. The oldest pending batch has a deadline, and waits are not longer than the time left until then.
- A signal. Its handler runs between two steps, or in `Leadership.run`; what it raises leaves the loop.

joblib has a loop of its own, which looks every 10 ms whether the next result is there. It comes after this one, finds
all results, and never sleeps. A nested run has more to do while it waits, see `nested_run.py`.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from minidask.backend.batchfuture import BatchFuture
from minidask.backend.inside_joblib import InsideParallel
from minidask.backend.total import total_calls
from minidask.client.client import Client
from minidask.client.group import TaskGroup
from minidask.client.interrupts import INTERRUPT_SECONDS
from minidask.client.outcomes import Lost
from minidask.client.reading import Leadership
from minidask.client.tally import CallCounts
from minidask.errors import MinidaskError
from minidask.host.signals import Uninterrupted, start
from minidask.pickling.functions import name_of
from minidask.pickling.scattered import Scattered

if TYPE_CHECKING:
    from minidask.client.progress import Bar
    from minidask.resume.outcomes import Outcomes

Callback = Callable[[BatchFuture], None]
RunBatch = Callable[[list[Any], int | None, int | None], list[Any]]


class Batch(NamedTuple):
    """Calls that joblib submits together.

    Attributes:
        items: the calls, each as `(function, args, kwargs)`.
        nesting_level: joblib's depth of the backend within other backends.
        future: gets the outcome.
    """

    items: list[Any]
    nesting_level: int | None
    future: BatchFuture


class ParallelRun:
    """Submits the batches of one run, and runs joblib's callbacks for them: see the module's docstring.

    Args:
        client: sends the batches.
        group: the run's own, with the limit of `n_jobs`.
        inside: the `Parallel` object.
        run_batch: called in the slot with the items, the nesting level and `inner_threads`.
        inner_threads: the most threads that a library may use in a batch; None: as many as the slot gives it.
        shared: objects of `scatter=` with their handles, which are sent in their place.
        slots: how many slots joblib counts with; 0: the user has set `n_jobs`, and slots that join are not used.
        bar: shows the run; bars over all that the client submits show it too.
        timeout: seconds that each batch may run; None: no limit.
        outcomes: keeps the results of batches of one call, and has those of earlier runs; None: none are kept.
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
        timeout: float | None = None,
        outcomes: Outcomes | None = None,
    ) -> None:
        self._client = client
        self._group = group
        self._inside = inside
        self._run_batch = run_batch
        self._inner_threads = inner_threads
        self._timeout = timeout
        self._outcomes = outcomes
        self._done: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._slots = slots
        self._counting = threading.RLock()  # held to count; a garbage collection may end a future, and so count too
        self._in_flight = self._most_in_flight = 0  # batches
        self._oldest = 0  # position of the oldest pending batch, among joblib's
        self._call_id = inside.call_id
        self._counts = CallCounts(inside.parallel.n_tasks)
        self._bars = dict.fromkeys([over.bar for over in client.shell.bars] + ([bar] if bar else []))
        self._bars_begun: list[Bar] = []
        self._aborted = False
        self._shared = {id(obj): handle for obj, handle in shared}
        for obj, handle in shared:
            self._group.interner.alias(obj, handle)
        if slots:
            client.shell.workers.on_change.add(self._workers_changed)
            self._workers_changed()
        self._start_collecting()

    def _start_collecting(self) -> None:
        """Start the thread for a generator's callbacks; for a list, `collect_until_done` runs them."""
        if self._inside.is_generator:
            start(threading.Thread(target=self._run_callbacks_forever, name="minidask-callbacks", daemon=True))

    # --- submitting ---

    def submit(self, calls: Any, callback: Callback | None, nesting_level: int | None) -> BatchFuture:
        """Send a batch. An error is the outcome of the future: joblib expects no exception here.

        Args:
            calls: joblib's object with `items`, or a function to be called without arguments.
            callback: called with the future, by the thread that collects.
            nesting_level: as in `Batch`.
        """
        self._inside.remember_batch_class(callback)
        items = calls.items if hasattr(calls, "items") else [(calls, (), {})]
        future = BatchFuture(len(items), callback, self._is_done, name_of(items[0][0]))
        self._count_submitted(items)
        if not self._was_made(items[0], future):
            self._send(Batch(items, nesting_level, future))
        return future

    def _was_made(self, item: Any, future: BatchFuture) -> bool:
        """Whether an earlier run has kept the result of a batch's only call; the future gets it then."""
        if self._outcomes is None:
            return False
        future.key = self._outcomes.key(*item)
        found = self._outcomes.find(future.key)
        if found is not None:
            future.ran_here(found.value, None, 0.0)
            self._is_done(future)
        return found is not None

    def _send(self, batch: Batch) -> None:
        """Have the cluster run a batch; an error is its outcome."""
        try:
            self._try_to_send(batch)
        except MinidaskError as error:
            batch.future.settle(Lost(error))

    def _try_to_send(self, batch: Batch) -> None:
        """Have the cluster run a batch.

        Raises:
            MinidaskError: the batch cannot be pickled, or the connection is lost.
        """
        items, nesting_level, future = batch
        arguments = (self._with_handles(items), nesting_level, self._inner_threads)
        with self._counting:
            self._in_flight += 1
            self._most_in_flight = max(self._most_in_flight, self._in_flight)
        try:
            self._group.submit_for(future, self._run_batch, arguments, name=future.name, timeout=self._timeout)
        except MinidaskError:
            future.number = 0  # no task runs it
            with self._counting:
                self._in_flight -= 1
            raise

    def _is_done(self, future: BatchFuture) -> None:
        """Note that a batch is over, and queue its callback; the reading thread may call this."""
        if self._outcomes is not None and future.key is not None and (payload := future.payload) is not None:
            self._outcomes.keep(future.key, payload)
        with self._counting:
            self._in_flight -= bool(future.number)
            self._counts.add(future.count, failed=future.failed)
        callback, future.callback = future.callback, None  # it holds the future, too
        if callback is not None:
            self._done.put(functools.partial(callback, future))

    def _with_handles(self, items: list[Any]) -> list[Any]:
        """Put handles in the place of scattered lists and dicts, which the pickler does not ask about."""
        if not self._shared:
            return items
        get = self._shared.get
        return [
            (function, tuple(get(id(a), a) for a in args), {key: get(id(a), a) for key, a in kwargs.items()})
            for function, args, kwargs in items
        ]

    # --- progress bars ---

    def _count_submitted(self, items: list[Any]) -> None:
        """Count calls, and show bars from the first batch on: from then joblib sees to it that the run is closed."""
        with self._counting:
            self._counts.submitted += len(items)
        if self._bars and not self._bars_begun:
            with Uninterrupted():  # each bar that was begun is to be ended
                for bar in self._bars:
                    bar.begin(self._client.shell, self._counts, name_of(items[0][0]))
                    self._bars_begun.append(bar)

    def count_all(self) -> None:
        """Tell the bars how many calls there will be, if the user's iterable tells."""
        total = total_calls(self._inside) if self._bars_begun else None
        if total is not None:
            self._counts.total = total

    # --- slots that join during the run ---

    def _workers_changed(self) -> None:
        if self._client.slots() > self._slots:
            self._done.put(self._widen)

    def _widen(self) -> None:
        """Have joblib submit more batches, as many as it would have for the slots that there are now.

        joblib keeps as many batches under way as it chose to at the start. A `pre_dispatch` that is a number is the
        user's own choice, and stays.
        """
        inside, slots = self._inside, self._client.slots()
        with inside.dispatching():
            if inside.call_id != self._call_id or slots <= self._slots:
                return
            if not isinstance(inside.parallel.pre_dispatch, str):
                return
            more = -(-self._most_in_flight * slots // self._slots) - self._most_in_flight
            self._slots = slots
            inside.dispatch_for(slots, more)

    # --- collecting ---

    def collect_until_done(self) -> None:
        """Run joblib's callbacks in this thread until the run has completed, failed or timed out."""
        self._collect(self._inside.must_wait)

    def _collect(self, must_wait: Callable[[], bool]) -> None:
        self._oldest = 0
        while must_wait():
            with self._client.shell.reader.lead() as leadership:
                while must_wait() and self._step(leadership):
                    pass

    def _step(self, leadership: Leadership | None) -> bool:
        """Run callbacks, or do other work, or wait. `leadership` is None while another thread reads.

        Returns:
            False to leave the lead, or to try to get it.
        """
        if not self._done.empty():
            self._run_callbacks(leadership)
            return leadership is not None
        if self._work_here(leadership):
            return True
        seconds, self._oldest = self._inside.seconds_left(self._oldest)
        if leadership is None:
            return self._follow(seconds)
        if self._client.shell.reader.wanted_back:
            return False
        leadership.read(seconds)
        return True

    def _follow(self, seconds: float | None) -> bool:
        """Wait, while another thread leads, until there are callbacks to run, or it stops; half a second at most.

        Returns:
            False, to try to lead.
        """
        seconds = INTERRUPT_SECONDS if seconds is None else min(seconds, INTERRUPT_SECONDS)
        with contextlib.suppress(queue.Empty), self._client.shell.reader.following(self._wake):
            self._done.put(self._done.get(timeout=seconds))  # the order of callbacks does not matter
        return False

    def _wake(self) -> None:
        self._done.put(None)

    def _run_callbacks(self, leadership: Leadership | None) -> None:
        if leadership is None:
            self._run_all()
        else:
            leadership.run(self._run_all)

    def _run_all(self) -> None:
        while not self._done.empty():
            callback = self._done.get()
            if callback is not None:
                callback()

    def _work_here(self, leadership: Leadership | None) -> bool:
        """Do something useful before waiting, as `NestedRun` does; False: there is nothing to do."""
        return False

    def _run_callbacks_forever(self) -> None:
        """Run a generator's callbacks until `close`. An error is raised where the user asks for results."""
        while (callback := self._done.get()) is not None:
            try:
                callback()
            except BaseException as error:  # noqa: BLE001 - the user gets it with the results
                self._inside.fail(error)

    # --- the end ---

    def abort(self) -> None:
        """Cancel the batches that wait, and stop those that run."""
        self._aborted = True
        self._group.cancel()

    def close(self) -> None:
        """End the run: its thread, its group, and its part of the bars."""
        try:
            self._client.shell.workers.on_change.discard(self._workers_changed)
            self._done.put(None)
            self._client.shell.channels.flush()
        finally:
            self._group.close()
            if self._outcomes is not None:
                self._outcomes.close()
        for bar in self._bars_begun:
            bar.end(self._counts, not self._aborted)
