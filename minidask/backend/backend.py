"""joblib's contract, and nothing else: how `joblib.Parallel` runs its batches on a minidask cluster.

    Parallel ─submit─► MinidaskBackend ─► ParallelRun ─► TaskGroup ─► scheduler ─► a slot: run_batch
    Parallel ◄callback─ the collecting thread ◄─ queue of callbacks ◄─ the thread that reads

`run.py` has the run of one `Parallel` call, and explains which thread runs joblib's callbacks. `inside_joblib.py` has
what the contract does not offer.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib.parallel as joblib_parallel
from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    parallel_config,
    register_parallel_backend,
)

from minidask.backend.batchfuture import BatchFuture
from minidask.backend.clients import client_for
from minidask.backend.initializer import initialized
from minidask.backend.inside_joblib import InsideParallel, evaluate_one_at_a_time, pools_pickle_by_value
from minidask.backend.nested_run import NestedRun
from minidask.backend.options import CallOptions, check_config, large_data, refuse_unknown
from minidask.backend.run import Callback, ParallelRun, RunBatch
from minidask.backend.scatter import SharedData
from minidask.client.client import RECONNECT_SECONDS, Client
from minidask.client.group import TaskGroup
from minidask.errors import NoWorkersError
from minidask.host import checks
from minidask.host.signals import Uninterrupted
from minidask.pickling.payload import SHARED
from minidask.task.batch import joblib_is_loaded, run_batch
from minidask.task.context import current_slot, is_slot_process
from minidask.task.retries import Retried
from minidask.wire.large import LARGE_BYTES

if TYPE_CHECKING:
    from minidask.backend.traced import CallsTrace
    from minidask.client.progress import Bar
    from minidask.resume.outcomes import Outcomes


class MinidaskBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """The backend that `joblib.parallel_backend("minidask")` and `parallel_config("minidask")` make.

    Args:
        scheduler: address of a scheduler, or a `Client`. None: the last `Client` that you made in this process and
            did not close, else the address in `MINIDASK_SCHEDULER`, else a cluster on this machine, kept for later
            calls.
        scatter: list or tuple of objects that tasks share; each is sent once, and found by identity in arguments.
        wait_for_workers_timeout: seconds, 0 or more, to wait for a first worker.
        reconnect_timeout: seconds to look for a lost scheduler again, as of a `Client`; for a client that is made for
            this call.
        progress: whether to show a progress bar.
        initializer: called once in every worker's process, before the first batch that runs there.
        initargs: the arguments of `initializer`.
        task_timeout: seconds above 0 that each call may run; it is stopped then, and `TaskTimeout` raised. None and
            infinity: no limit.
        on_error: "raise", or "return" to have the exception of a call in the place of its result.
        retries: how many times a call is tried again if it raises.
        retry_on: a class of exceptions, or a tuple of such, that are worth another try.
        resume: the path of a file that keeps the results. A call whose result is there already is not made again. A
            path without a suffix gets `.resume`.
        trace: the path of a file for https://ui.perfetto.dev, as of `Client.trace`. It is written anew, and has what
            the cluster does while calls with this configuration run: later ones are added. The file is whole when none
            runs. At its end a call waits until each machine has told what it did, half a second mostly, 3 at most.
        resources: what each call needs of its machine and holds while it runs, as `{"gpu": 1}`; see `Client.submit`.

    Raises:
        TypeError, ValueError: an option makes no sense, or there is an unknown keyword.
        OSError: `trace` cannot be written.
        MinidaskError: `progress` needs tqdm, which is not installed.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1
    # Auto-batching aims at batches between these many seconds. joblib's own 0.2 and 2 are for engines with more to
    # hide: a batch costs 0.1 ms here, and calls in a batch with a long one wait for it. With a call of 1 s among 100 of
    # 20 ms, on 2 slots, that costs 5 % of the makespan at worst instead of 19 (simulated).
    MIN_IDEAL_BATCH_DURATION = 0.05
    MAX_IDEAL_BATCH_DURATION = 0.5

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        scheduler: str | Client | None = None,
        scatter: list[Any] | tuple[Any, ...] | None = None,
        wait_for_workers_timeout: float = 10,
        reconnect_timeout: float = RECONNECT_SECONDS,
        progress: bool = False,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        task_timeout: float | None = None,
        on_error: str | None = None,
        retries: int | None = None,
        retry_on: type[Exception] | tuple[type[Exception], ...] | None = None,
        resume: str | Path | None = None,
        trace: str | Path | None = None,
        resources: Mapping[str, float] | None = None,
        **unknown: Any,
    ) -> None:
        check_config(scheduler, scatter, unknown)
        if inner_max_num_threads is not None:
            inner_max_num_threads = checks.whole("inner_max_num_threads", inner_max_num_threads, 1)
        wait_for_workers_timeout = checks.seconds("wait_for_workers_timeout", wait_for_workers_timeout)
        self._reconnect_timeout = checks.seconds("reconnect_timeout", reconnect_timeout)
        progress = checks.flag("progress", progress)
        self._options = CallOptions().changed(
            task_timeout=task_timeout, on_error=on_error, retries=retries, retry_on=retry_on, resume=resume,
            resources=resources,
        )  # fmt: skip
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self.wait_for_workers_timeout = wait_for_workers_timeout
        self._scheduler = scheduler
        self._shared_data = SharedData(list(scatter or ()))
        self._bar = self._new_bar() if progress and current_slot() is None else None
        self._trace = None if trace is None else calls_trace(trace)
        self._traces = False  # whether the trace counts on the present call
        self._owned = False
        self._initializer = initializer, initargs
        self._limit = 0
        self._large: int | None = LARGE_BYTES
        self._mode = SHARED
        self._run: ParallelRun | None = None
        self._measured = threading.local()

    def __reduce__(self) -> Any:
        return MinidaskBackend, ()

    def _new_bar(self) -> Bar:
        from minidask.client.progress import Bar  # noqa: PLC0415 - loaded when a bar is asked for

        bar = Bar(gathers=True)
        weakref.finalize(self, bar.release)  # joblib does not say when the `with` block of the configuration ends
        return bar

    # --- before a call ---

    def client(self) -> Client:
        """Return the client of this backend's calls. It connects, or starts a cluster, if there is none.

        Raises:
            MinidaskError: the client is closed, has lost its scheduler, or there is none at the address.
        """
        if isinstance(self._scheduler, Client):
            self._scheduler.shell.check()
            return self._scheduler
        return client_for(self._scheduler, self._reconnect_timeout)

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many calls may run at once. For 1, joblib runs them itself, one after the other.

        Where options would have no effect then, joblib is told 2. The limit of the group is 1 all the same.

        Raises:
            TypeError, ValueError: `n_jobs` is no whole number, or 0.
            NoWorkersError: there is no worker within `wait_for_workers_timeout`.
        """
        return max(self._at_once(n_jobs), 2 if self._owned and self._options.on_cluster else 1)

    def _at_once(self, n_jobs: int | None) -> int:
        if n_jobs is not None:
            n_jobs = checks.whole("n_jobs", n_jobs, -checks.MOST_LIMIT, checks.MOST_LIMIT)
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs == 1:
            return 1
        if n_jobs is not None and n_jobs > 0:
            return n_jobs
        slots = self._slots(self.client())
        return max(slots + 1 + (-1 if n_jobs is None else n_jobs), 1)

    def _slots(self, client: Client) -> int:
        """Wait for a first slot, and return how many there are; in a task at least one, its own.

        Raises:
            NoWorkersError: there is no worker within `wait_for_workers_timeout`.
        """
        if client.nested:
            return max(client.slots(), 1)
        if not client.slots():
            try:
                client.wait_for_workers(1, self.wait_for_workers_timeout)
            except NoWorkersError as error:
                longer = max(10, 2 * self.wait_for_workers_timeout)
                raise NoWorkersError(
                    f"{error}. To wait longer: parallel_config('minidask', wait_for_workers_timeout={longer:g})"
                ) from None
        return client.slots()

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        max_nbytes: int | None = LARGE_BYTES,
        mmap_mode: str | None = "r",
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        task_timeout: float | None = None,
        on_error: str | None = None,
        retries: int | None = None,
        retry_on: type[Exception] | tuple[type[Exception], ...] | None = None,
        resume: str | Path | None = None,
        resources: Mapping[str, float] | None = None,
        **others: Any,
    ) -> int:
        """Prepare for a call, with the options of `Parallel`; `max_nbytes` and `mmap_mode` have joblib's meaning.

        Those that the backend takes too have the same meaning here, and go before.

        Raises:
            FallbackToBackend: joblib is to use the backend in this exception instead.
            TypeError: there is an option that no backend of joblib's has.
            TypeError, ValueError: an option makes no sense, or `mmap_mode` would have tasks write to data that others
                see.
            SchedulerLost: the client that was made for this process has lost its scheduler.
            NoWorkersError: there is no worker within `wait_for_workers_timeout`.
        """
        options = self._options.changed(
            task_timeout=task_timeout, on_error=on_error, retries=retries, retry_on=retry_on, resume=resume,
            resources=resources,
        )  # fmt: skip
        effective = self.effective_n_jobs(n_jobs)
        if effective == 1 and not options.on_cluster:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if not self._owned:
            raise FallbackToBackend(self._copy(options))
        self._slots(self.client())
        self.parallel = parallel
        if getattr(parallel, "verbose", 0):
            InsideParallel(parallel).print_beside_bars()
        if self._options.each_alone and parallel is not None:
            InsideParallel(parallel).make_batches_of_one()
        self._limit = 0 if n_jobs == -1 else self._at_once(n_jobs)
        self._large, self._mode = large_data(max_nbytes, mmap_mode)
        if initializer is not None:
            self._initializer = initializer, initargs
        refuse_unknown(others, joblib_parallel.default_parallel_config)
        return effective

    def _copy(self, options: CallOptions) -> MinidaskBackend:
        """Return a backend for one `Parallel` object.

        joblib hands one backend to all `Parallel` objects within a `parallel_config`. Two generators, or a call inside
        the iterable of another one, would share its state.
        """
        own = type(self).__new__(type(self))
        own.__dict__.update(self.__dict__, _owned=True, _options=options)
        return own

    def get_nested_backend(self) -> tuple[ParallelBackendBase, int | None]:
        """Return the backend for calls within a batch. It is not sent: `run_batch` makes the same one in the slot."""
        return _nested_backend(self.nesting_level), None

    # --- during a call ---

    def start_call(self) -> None:
        """Begin the run of a call; joblib submits batches from now on."""
        client = self.client()
        initializer, initargs = self._initializer
        options = self._options
        run: RunBatch = run_batch if initializer is None else initialized(client, initializer, initargs)
        if options.retries:
            run = Retried(run, options.retries, options.retry_on)
        shared = self._shared_data.handles(client)
        inside = InsideParallel(self.parallel)
        outcomes = None if options.resume is None else outcomes_in(options.resume)
        slots = 0 if self._limit else inside.slots
        kind = NestedRun if client.nested else ParallelRun
        try:
            with Uninterrupted():  # a group that was opened is to be closed, and its queue's results are to be read
                if self._trace is not None:
                    self._trace.begin(client)
                    self._traces = True
                timed = options.task_timeout is not None  # a daemon times tasks, and no calls
                needs = options.resources  # for which the scheduler decides where each task begins
                queued = not (client.nested or timed or needs)
                group = TaskGroup(client.shell, self._limit, self._large, self._mode, queued=queued, resources=needs)
                threads, timeout = self.inner_max_num_threads, options.task_timeout
                self._run = kind(client, group, inside, run, threads, shared, slots, self._bar, timeout, outcomes)
        except BaseException:  # joblib ends no run whose beginning has raised
            self.stop_call()
            raise

    def submit(self, func: Any, callback: Callback | None = None) -> BatchFuture:
        """Send a batch; return its future, which has errors too. `callback` gets it when the batch is over."""
        assert self._run is not None, "joblib submits only between start_call and stop_call"
        return self._run.submit(func, callback, self.nesting_level)

    def retrieve_result_callback(self, out: BatchFuture) -> Any:
        """Return the unpickled results of a batch; joblib's callback calls this.

        Raises:
            Exception: what a call of the batch raised, unless that is to be returned.
        """
        self._measured.seconds = out.duration
        return out.result() if self._options.on_error == "raise" else out.result_or_error()

    def batch_completed(self, batch_size: int, duration: float) -> None:
        """Tell auto-batching how long the batch ran in its slot. joblib's `duration` has the time in queues too."""
        measured = getattr(self._measured, "seconds", None)
        super().batch_completed(batch_size, duration if measured is None else measured)

    def retrieval_context(self) -> contextlib.AbstractContextManager[None]:
        """Return the context that joblib enters before it looks for results."""
        return _Retrieval(self._run, InsideParallel(self.parallel))

    # --- after a call ---

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel the batches that wait and stop those that run; the cluster stays as it is."""
        if self._run is not None:
            self._run.abort()

    def stop_call(self) -> None:
        """End the run of a call; joblib submits no more batches."""
        try:
            if self._run is not None:
                self._run.close()
                self._run = None
        finally:
            if self._trace is not None and self._traces:
                self._traces = False
                self._trace.end()

    def terminate(self) -> None:
        """Forget what auto-batching has learned; called when the `Parallel` object is done with."""
        self.reset_batch_stats()


class _Retrieval(contextlib.AbstractContextManager[None]):
    """Entered by joblib before it looks for results: for a list, all are there when the block begins.

    It is a class, as the frames of a generator and of contextlib would stand in the traceback of a task's error.
    """

    def __init__(self, run: ParallelRun | None, inside: InsideParallel) -> None:
        self._run = run
        self._inside = inside

    def __enter__(self) -> None:
        __tracebackhide__ = True
        if self._run is not None:
            self._run.count_all()
            if not self._inside.is_generator:
                self._run.collect_until_done()
        if self._inside.forgets_error():
            self._inside.raise_error()

    def __exit__(self, *_: object) -> None:
        """Do nothing: `stop_call` ends the run."""


def outcomes_in(path: Path) -> Outcomes:
    """Open the file that keeps the results of a call.

    Raises:
        MinidaskError: it cannot be used.
    """
    from minidask.resume.outcomes import Outcomes  # noqa: PLC0415 - loaded when it is needed

    return Outcomes(path, "list")


def calls_trace(path: object) -> CallsTrace:
    """Make the trace of a configuration.

    Raises:
        TypeError, ValueError: the path makes no sense.
        OSError: the file cannot be written.
    """
    from minidask.backend.traced import CallsTrace  # noqa: PLC0415 - loaded when it is needed

    return CallsTrace(path)


# --- in the slot ---


def nested_config(nesting_level: int | None) -> parallel_config:
    """Return a context for a task's code in a slot: `Parallel` calls in it are nested ones."""
    if is_slot_process():
        pools_pickle_by_value()
    return parallel_config(backend=_nested_backend(nesting_level), n_jobs=None)


@functools.cache
def _nested_backend(nesting_level: int | None) -> MinidaskBackend:
    """Return the backend of `Parallel` calls within a task. Without `n_jobs` they run in the task, as joblib's do."""
    backend = MinidaskBackend(nesting_level=(nesting_level or 0) + 1)
    backend.default_n_jobs = 1
    return backend


evaluate_one_at_a_time()
register_parallel_backend("minidask", MinidaskBackend)
joblib_is_loaded(nested_config)
