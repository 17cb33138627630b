"""A run of a `joblib.Parallel` object inside a task: it does its calls itself, and shares them with whoever is idle.

    submit ─► kept here ──► run here, one after the other, nothing pickled unless a call may change what others see
                  │ slots are idle
                  └────► sent, as any other call; while nothing is kept, the slot runs what was sent and not taken

So where all slots are busy, a nested call costs what a loop does. What a function that came by value keeps, in globals
or elsewhere, each batch finds as the task had it, wherever it runs; arguments are the task's own where it runs here.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from typing import Any

from minidask.backend.run import Callback, Job, ParallelRun
from minidask.client.client import Client
from minidask.client.future import Future
from minidask.client.helping import LOOK_SECONDS
from minidask.client.reading import Leadership
from minidask.errors import MinidaskError, SerializationError
from minidask.host.signals import start
from minidask.pickling.payload import dumps, run_apart
from minidask.pickling.watch import has_state, is_generator
from minidask.task.context import waiting
from minidask.wire.messages import RanInline

TELL_SECONDS = 0.25
MAX_FUNCTIONS = 1000


class NestedRun(ParallelRun):
    """See the module's docstring; arguments as `ParallelRun`'s."""

    def __init__(self, client: Client, *arguments: Any) -> None:
        self._kept: collections.deque[Job] = collections.deque()
        self._sharing = threading.Lock()
        self._thread = 0  # which collects
        self._stateful: dict[int, tuple[Any, bool]] = {}  # by id of a function: it, and `has_state` of it
        self._only_here = False  # once something cannot be sent
        self._ran = self._failed = 0  # calls that ran here, and that was not told yet
        self._told = time.monotonic()
        super().__init__(client, *arguments)
        client.shell.on_idle.append(self._share_if_busy)

    def _start_collecting(self) -> None:
        """A generator hands control back to the task, whose thread so collects whenever it wants to have a result."""
        if self._inside.is_generator:
            self._inside.wait_by(lambda: self._collect(self._inside.must_wait_for_next))

    def _send(self, job: Job) -> Future:
        with self._sharing:
            if self._may_share():
                return self._send_or_keep(job)
        self._kept.append(job)
        return _future()

    def _may_share(self) -> bool:
        """Whether to send another one: there are slots for it, and one less than the limit, as one may run here."""
        within = not self._group.limit or self._under_way < self._group.limit - 1
        return bool(self._client.shell.core.idle) and within and not self._only_here

    def _send_or_keep(self, job: Job) -> Future:
        try:
            return super()._send(job)
        except SerializationError:
            self._kept.append(job)  # it has to run here
            self._only_here = True
            return _future()
        except MinidaskError as error:
            return self._fail(job, error)

    # --- sharing ---

    def _share(self) -> None:
        """Send of what is kept as much as others can do."""
        with self._sharing:
            while self._may_share():
                try:
                    job = self._kept.popleft()
                except IndexError:
                    return  # there is none left, or the task has just begun the last one
                self._send_or_keep(job)

    def _share_if_busy(self) -> None:
        """Others have nothing to do, while the task's own thread, unless it is this one, may be busy for long."""
        if self._kept and self._may_share() and threading.get_ident() != self._thread:
            with contextlib.suppress(RuntimeError):  # there are no more threads to be had: it is done here instead
                start(threading.Thread(target=self._share, name="minidask-share", daemon=True))

    def _is_done(self, count: int, callback: Callback | None, future: Future) -> None:
        super()._is_done(count, callback, future)
        self._share_if_busy()

    def _run_callbacks(self, leadership: Leadership | None) -> None:
        self._share()  # they are a user's code, and may take long
        super()._run_callbacks(leadership)

    # --- working ---

    def _work_here(self, leadership: Leadership | None) -> bool:
        self._thread = threading.get_ident()
        if not self._kept:
            return False
        if self._client.shell.core.idle is None and leadership is not None:
            leadership.read(1.0, lend=False)  # it will be told in a moment
        if self._may_share():
            self._share()
        else:
            self._run_one(leadership)
        return True

    def _run_one(self, leadership: Leadership | None) -> None:
        try:
            job = self._kept.popleft()
        except IndexError:
            return  # it has just been sent
        future = _future()
        if leadership is None:
            self._run(job, future)
        else:
            leadership.keep_slot()
            leadership.run(lambda: self._run(job, future))
            leadership.read(0, lend=False)
        self._is_done(len(job.items), job.callback, future)

    def _run(self, job: Job, future: Future) -> None:
        began = time.perf_counter()
        future.set_running_or_notify_cancel()
        try:
            result = self._result(job)
        except Exception as error:  # noqa: BLE001 - whatever it raises is its outcome
            future.set_exception(error)
        else:
            future.set_result(result)
        future.duration = time.perf_counter() - began
        self._ran += 1
        self._failed += future.exception() is not None
        if time.monotonic() - self._told > TELL_SECONDS:
            self._tell()

    def _result(self, job: Job) -> list[Any]:
        call = (job.items, job.nesting_level, self._inner_threads)
        if not self._only_here and any(map(self._has_state, job.items)):
            try:
                payload = dumps((self._run_batch, call), "a nested call")
            except SerializationError:
                self._only_here = True
            else:
                return list(run_apart(payload))
        return self._run_batch(*call)

    def _has_state(self, item: Any) -> bool:
        """Whether what this does may depend on what was run before."""
        function, args, kwargs = item
        known = self._stateful.get(id(function))
        if known is None:
            if len(self._stateful) >= MAX_FUNCTIONS:
                self._stateful.clear()
            known = self._stateful[id(function)] = (function, has_state(function))
        return known[1] or any(map(is_generator, args)) or any(map(is_generator, kwargs.values()))

    def _tell(self) -> None:
        """Have the scheduler know how far the task is, for those who look at a progress bar."""
        self._told = time.monotonic()
        self._client.shell.send_if_open([RanInline(self._group.parent, self._ran, self._failed)])
        self._ran = self._failed = 0

    def _wait_for_others(self, seconds: float | None) -> bool:
        """The thread that reads also runs what this slot is given, and may stop to at any time."""
        with waiting(self._client.shell.reader.slot, self._group.parent):
            super()._wait_for_others(LOOK_SECONDS if seconds is None else min(seconds, LOOK_SECONDS))
        return False

    # --- the end ---

    def abort(self) -> None:
        self._kept.clear()
        super().abort()

    def close(self) -> None:
        self._client.shell.on_idle.remove(self._share_if_busy)
        self._inside.wait_as_joblib()
        if self._ran:
            self._tell()
        super().close()


def _future() -> Future:
    return Future(0, "batch")
