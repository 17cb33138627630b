"""A run of a `joblib.Parallel` object inside a task: the task runs its batches itself, and shares them with idle slots.

    submit ─► the local queue ──► run here, one after the other
                  │ a slot is idle
                  └────────────► sent to the cluster, as any other task

**Why batches stay local.** A task that calls `Parallel` often does so while every slot runs such a task: each tree of
a forest in a search, for instance. Batches that were sent away would only wait in a queue, and come back to this slot
after 1.2 ms of processor time. In the local queue a nested run costs what a loop does, and less than threads.

**When they are shared.** The scheduler sends an idle notice (`IdleSlots`) when the first slot has nothing to do, and
another one when the last such slot has. As long as slots are idle, batches are sent; and those in the local queue
with them, by the task's thread between two batches, or by a thread for it (`_share`) if the task's own is busy. Of a
run with `n_jobs=N`, N-1 batches are out at a time, as one may run here.

**Leapfrogging.** At some point the local queue is empty, and the run waits for batches that it has sent. A slot that
only waits is lost for the cluster; if all slots wait, nothing runs at all. Dask starts another thread, so it needs
more threads the deeper the nesting. Here the slot is lent: while this thread waits in `Leadership.read`, the scheduler
may send the slot a *descendant* of the waiting task, which runs on top of it, on the same stack.

    the slot's stack, top first          why it is there
    ─────────────────────────────────    ─────────────────────────────────────────────────
    a batch of B's run                   B's descendant, sent to this slot as a guest
    task B: Parallel(...), waits         a batch of A's run, sent away and not yet taken: A's descendant
    task A: Parallel(...), waits         the slot's own task

Only descendants may come. What a task waits for is always a descendant of its own, so the guest on top is something
that the waiting tasks below need, or a part of it; it cannot wait for anything of them. Any other task could hold up
the ones below for as long as it takes. The rule that the scheduler keeps: no lent slot idles beside a descendant that
is ready. So there is always one that goes on, and no nesting stands still.

For this file it means three things. `_run_one` ends the loan first (`keep_slot`), as the slot has work of the task's
own again, and reads once after it, as messages may have come. A thread that cannot lead says that it waits all the
same (`waiting` in `_follow`): the thread that leads runs the guests for both. And it looks again soon, since the
leader may stop to lead at any time.

**Copies.** A function that came by value may hold state: globals, closures, attributes. Sent away, each batch finds
that state as it was when the batch was submitted. So that a batch here finds the same, one whose function has state is
pickled and runs on a copy. Arguments are not copied.

**Generators.** Between two results, a generator hands control back to the task. No thread collects meanwhile, as the
run may be in the task's only thread: the task's own thread collects when the task asks for the next result
(`InsideParallel.wait_by`). joblib's own loop would sleep there, and not lend the slot.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from typing import Any

from minidask.backend.batchfuture import BatchFuture
from minidask.backend.run import Batch, ParallelRun
from minidask.client.client import Client
from minidask.client.helping import LOOK_SECONDS
from minidask.client.outcomes import Lost
from minidask.client.reading import Leadership
from minidask.errors import MinidaskError, SerializationError
from minidask.host.signals import start
from minidask.pickling.apart import run_apart
from minidask.pickling.sharing import dumps
from minidask.pickling.watch import has_state, is_generator
from minidask.task.context import waiting
from minidask.task.retries import tries_again
from minidask.wire.messages import RanInline

REPORT_SECONDS = 0.25
IDLE_NOTICE_SECONDS = 1.0
MAX_FUNCTIONS = 1000


class NestedRun(ParallelRun):
    """A run inside a task: see the module's docstring. It takes the arguments of `ParallelRun`."""

    def __init__(self, client: Client, *arguments: Any) -> None:
        self._local_queue: collections.deque[Batch] = collections.deque()
        self._sharing = threading.Lock()
        self._collecting_thread = 0
        self._stateful: dict[int, tuple[Any, bool]] = {}  # by id of a function: it, and `has_state` of it
        self._stays_local = False  # once something cannot be pickled
        self._ran = self._failed = 0  # batches that ran here since the last report
        self._last_report = time.monotonic()
        super().__init__(client, *arguments)
        client.shell.on_idle.append(self._share_if_busy)

    def _start_collecting(self) -> None:
        """Have the task's own thread collect whenever it wants a generator's next result."""
        if self._inside.is_generator:
            self._inside.wait_by(lambda: self._collect(self._inside.must_wait_for_next))

    def _send(self, batch: Batch) -> None:
        """Send a batch if a slot is idle, else put it into the local queue.

        One with a time limit is sent in any case: what runs in the task cannot be stopped without it. So is one whose
        result is to be kept, which is to be pickled, and one that needs resources.
        """
        if self._timeout is not None or self._outcomes is not None or self._group.resources:
            super()._send(batch)
            return
        with self._sharing:
            if self._may_share():
                self._send_or_queue(batch)
                return
        self._local_queue.append(batch)

    def _may_share(self) -> bool:
        """Whether to send another batch: a slot is idle, and the limit leaves one batch to run here."""
        within = not self._group.limit or self._in_flight < self._group.limit - 1
        return bool(self._client.shell.core.idle) and within and not self._stays_local

    def _send_or_queue(self, batch: Batch) -> None:
        """Send a batch; one that cannot be pickled runs here, and so do all after it."""
        try:
            self._try_to_send(batch)
        except SerializationError:
            self._local_queue.append(batch)
            self._stays_local = True
        except MinidaskError as error:
            batch.future.settle(Lost(error))

    # --- sharing ---

    def _share(self) -> None:
        """Send batches of the local queue, as many as idle slots may take."""
        with self._sharing:
            while self._may_share():
                try:
                    batch = self._local_queue.popleft()
                except IndexError:
                    return  # the task has just begun the last one
                self._send_or_queue(batch)

    def _share_if_busy(self) -> None:
        """Share the local queue from a new thread, unless this is the collecting one: that may be busy for long."""
        if self._local_queue and self._may_share() and threading.get_ident() != self._collecting_thread:
            with contextlib.suppress(RuntimeError):  # no more threads can be started: the batches run here instead
                start(threading.Thread(target=self._share, name="minidask-share", daemon=True))

    def _is_done(self, future: BatchFuture) -> None:
        super()._is_done(future)
        self._share_if_busy()

    def _run_callbacks(self, leadership: Leadership | None) -> None:
        """Run joblib's callbacks; share the local queue before that, as they are the user's code and may take long."""
        self._share()
        super()._run_callbacks(leadership)

    # --- running batches here ---

    def _work_here(self, leadership: Leadership | None) -> bool:
        """Share the local queue, or run the first batch of it; False if the queue is empty."""
        self._collecting_thread = threading.get_ident()
        if not self._local_queue:
            return False
        if self._client.shell.core.idle is None and leadership is not None:
            leadership.read(IDLE_NOTICE_SECONDS, lend=False)  # the first idle notice comes in a moment
        if self._may_share():
            self._share()
        else:
            self._run_one(leadership)
        return True

    def _run_one(self, leadership: Leadership | None) -> None:
        try:
            batch = self._local_queue.popleft()
        except IndexError:
            return  # another thread has just sent it
        if leadership is None:
            self._run(batch)
        else:
            leadership.keep_slot()
            leadership.run(lambda: self._run(batch))
            leadership.read(0, lend=False)
        self._is_done(batch.future)

    def _run(self, batch: Batch) -> None:
        began = time.perf_counter()
        result, failure = None, None
        try:
            result = self._result(batch)
        except Exception as error:  # noqa: BLE001 - any exception is the outcome of the batch
            failure = error
        batch.future.ran_here(result, failure, time.perf_counter() - began)
        self._ran += 1
        self._failed += failure is not None
        if time.monotonic() - self._last_report > REPORT_SECONDS:
            self._report()

    def _result(self, batch: Batch) -> list[Any]:
        """Run a batch, again if it is to be tried again.

        Raises:
            Exception: what a call raises.
        """
        tries = 0
        while True:
            tries += 1
            try:
                return self._tried(batch)
            except Exception as error:
                if not tries_again(self._run_batch, error, tries):
                    raise

    def _tried(self, batch: Batch) -> list[Any]:
        """Run a batch once, on a copy if a function of it has state.

        Raises:
            Exception: what a call raises.
        """
        arguments = (batch.items, batch.nesting_level, self._inner_threads)
        if not self._stays_local and any(map(self._has_state, batch.items)):
            try:
                payload = dumps((self._run_batch, arguments), "a nested call")
            except SerializationError:
                self._stays_local = True
            else:
                return list(run_apart(payload))
        return self._run_batch(*arguments)

    def _has_state(self, item: Any) -> bool:
        """Whether what a call does may depend on what ran before it."""
        function, args, kwargs = item
        known = self._stateful.get(id(function))
        if known is None:
            if len(self._stateful) >= MAX_FUNCTIONS:
                self._stateful.clear()
            known = self._stateful[id(function)] = (function, has_state(function))
        return known[1] or any(map(is_generator, args)) or any(map(is_generator, kwargs.values()))

    def _report(self) -> None:
        """Tell the scheduler how many batches ran here, for progress bars."""
        self._last_report = time.monotonic()
        self._client.shell.send_if_open([RanInline(self._group.parent, self._ran, self._failed)])
        self._ran = self._failed = 0

    def _follow(self, seconds: float | None) -> bool:
        """Wait, while the slot is lent by the thread that reads, which may stop to read at any time."""
        with waiting(self._client.shell.reader.slot, self._group.parent):
            super()._follow(LOOK_SECONDS if seconds is None else min(seconds, LOOK_SECONDS))
        return False

    # --- the end ---

    def abort(self) -> None:
        """Forget the local queue, and cancel or stop the batches that were sent."""
        self._local_queue.clear()
        super().abort()

    def close(self) -> None:
        """End the run, with a last report."""
        self._client.shell.on_idle.remove(self._share_if_busy)
        self._inside.wait_as_joblib()
        if self._ran:
            self._report()
        super().close()
