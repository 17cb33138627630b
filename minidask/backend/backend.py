"""joblib's contract, and nothing else: how `joblib.Parallel` runs its batches on a minidask cluster.

    Parallel ─submit─► MinidaskBackend ─► ParallelRun ─► TaskGroup ─► scheduler ─► a slot: run_batch
    Parallel ◄callback─ whoever collects ◄─ queue of done futures ◄─ the client's reader thread

joblib's callbacks pull the user's iterable and submit what it yields, so they may take any time. They
never run in the reader thread. For `return_as="list"` the thread that called `Parallel` runs them, while it
waits in `retrieval_context`: it wakes when a result is there, where joblib itself would look every
10 ms. Generators hand control back to the user between results, so they have a thread for it.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import weakref
from collections.abc import Callable
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

from minidask.backend.initializer import initialized
from minidask.backend.inside_joblib import InsideParallel, evaluate_one_at_a_time, pools_pickle_by_value
from minidask.backend.nested_run import NestedRun
from minidask.backend.run import Callback, ParallelRun, SharedData
from minidask.client import registry
from minidask.client.client import Client
from minidask.client.future import Future
from minidask.client.nested import find_client, get_client
from minidask.client.places import address_of_environment
from minidask.errors import NoWorkersError
from minidask.host import checks
from minidask.host.forks import Layer, on_fork
from minidask.net.addresses import Address
from minidask.pickling.payload import PRIVATE, SHARED
from minidask.task.batch import joblib_is_loaded, run_batch
from minidask.task.context import current_slot, is_slot_process
from minidask.wire.large import LARGE_BYTES

if TYPE_CHECKING:
    from minidask.client.progress import Bar


class MinidaskBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """The backend that `joblib.parallel_backend("minidask")` and `parallel_config("minidask")` make.

    Args:
        scheduler: address of a scheduler, or a `Client`. None: the last `Client` made in this process that was not
            closed, else the address in `MINIDASK_SCHEDULER`, else a cluster on this machine, kept for later calls.
        scatter: list or tuple of objects that tasks share; each is sent once, and found by identity in arguments.
        wait_for_workers_timeout: seconds, 0 or more, to wait for a first worker.
        progress: whether to show a progress bar.
        initializer: called once in every worker's process, before the first batch of a call that it gets.
        initargs: the arguments of that.

    Raises:
        TypeError, ValueError: an option makes no sense, or there is an unknown keyword.
        MinidaskError: `progress` needs tqdm, which is not installed.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1
    # Between these many seconds a batch is to last. joblib's own 0.2 and 2 are for engines with more to hide; what is
    # in a batch with a long task waits for that.
    MIN_IDEAL_BATCH_DURATION = 0.05
    MAX_IDEAL_BATCH_DURATION = 0.5

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        scheduler: str | Client | None = None,
        scatter: list[Any] | tuple[Any, ...] | None = None,
        wait_for_workers_timeout: float = 10,
        progress: bool = False,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        **unknown: Any,
    ) -> None:
        if unknown:
            names = ", ".join(sorted(unknown))
            raise TypeError(
                f"the minidask backend has no option {names}; it takes scheduler, scatter, wait_for_workers_timeout,"
                " progress, initializer, initargs, n_jobs and inner_max_num_threads"
            )
        if scatter is not None and not isinstance(scatter, list | tuple):
            raise TypeError(f"scatter must be a list or tuple of objects, got {type(scatter).__name__}")
        if not isinstance(scheduler, str | Client | None):
            raise TypeError(f"scheduler must be an address or a minidask.Client, got {type(scheduler).__name__}")
        if isinstance(scheduler, str):
            Address.parse(scheduler)
        if inner_max_num_threads is not None:
            inner_max_num_threads = checks.whole("inner_max_num_threads", inner_max_num_threads, 1)
        wait_for_workers_timeout = checks.seconds("wait_for_workers_timeout", wait_for_workers_timeout)
        progress = checks.flag("progress", progress)
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self.wait_for_workers_timeout = wait_for_workers_timeout
        self._scheduler = scheduler
        self._shared_data = SharedData(list(scatter or ()))
        self._bar = self._new_bar() if progress and current_slot() is None else None
        self._owned = False
        self._initializer = initializer, initargs
        self._limit = 0
        self._large: int | None = LARGE_BYTES
        self._mode = SHARED
        self._call: ParallelRun | None = None
        self._measured = threading.local()

    def __reduce__(self) -> Any:
        return MinidaskBackend, ()

    def _new_bar(self) -> Bar:
        from minidask.client.progress import Bar  # noqa: PLC0415 - only whoever asks for a bar loads it

        bar = Bar(gathers=True)
        weakref.finalize(self, bar.release)  # at the end of the `with` block, where nothing else is told of it
        return bar

    # --- before a call ---

    def client(self) -> Client:
        """The client that this backend's calls go through; connects or starts a cluster if need be."""
        if isinstance(self._scheduler, Client):
            self._scheduler.shell.check()
            return self._scheduler
        return _client_for(self._scheduler)

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many calls may run at once; joblib runs them itself, one after the other, where that is 1.

        Raises:
            TypeError, ValueError: `n_jobs` is no whole number, or 0.
            NoWorkersError: there is no worker within `wait_for_workers_timeout`.
        """
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
        """How many workers there are, after waiting for the first; a task has one at least, its own."""
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
        **others: Any,
    ) -> int:
        """Prepare for a call; joblib's options for large data mean here what they mean there.

        Raises:
            TypeError: there is an option that no backend of joblib's has.
            ValueError: `mmap_mode` would have tasks write to data that others see.
            TypeError, ValueError: `n_jobs` or `max_nbytes` makes no sense, or `mmap_mode` would have tasks write to
                data that others see.
            SchedulerLost: the client that was made for this process has lost its scheduler.
            NoWorkersError: there is no worker within `wait_for_workers_timeout`.
        """
        effective = self.effective_n_jobs(n_jobs)
        if effective == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if not self._owned:
            raise FallbackToBackend(self._copy())
        self._slots(self.client())
        self.parallel = parallel
        if getattr(parallel, "verbose", 0):
            InsideParallel(parallel).print_beside_bars()
        self._limit = 0 if n_jobs == -1 else effective
        self._large, self._mode = _large_data(max_nbytes, mmap_mode)
        if initializer is not None:
            self._initializer = initializer, initargs
        _refuse_unknown(others)
        return effective

    def _copy(self) -> MinidaskBackend:
        """One for a single `Parallel` object: all those within a `parallel_config` share this one, and may overlap."""
        own = type(self).__new__(type(self))
        own.__dict__.update(self.__dict__, _owned=True)
        return own

    def get_nested_backend(self) -> tuple[ParallelBackendBase, int | None]:
        # Never leaves this process: `run_batch` makes the same at the other end.
        return _nested_backend(self.nesting_level), None

    # --- during a call ---

    def start_call(self) -> None:
        client = self.client()
        initializer, initargs = self._initializer
        run = run_batch if initializer is None else initialized(client, initializer, initargs)
        shared = self._shared_data.handles(client)
        group = client.group(self._limit, self._large, self._mode)
        inside = InsideParallel(self.parallel)
        slots = 0 if self._limit else inside.slots
        kind = NestedRun if client.nested else ParallelRun
        self._call = kind(client, group, inside, run, self.inner_max_num_threads, shared, slots, self._bar)

    def submit(self, func: Any, callback: Callback | None = None) -> Future:
        assert self._call is not None, "joblib submits only between start_call and stop_call"
        return self._call.submit(func, callback, self.nesting_level)

    def retrieve_result_callback(self, out: Future) -> Any:
        self._measured.seconds = out.duration
        return out.result()

    def batch_completed(self, batch_size: int, duration: float) -> None:
        """Give auto-batching the seconds that the batch ran, which joblib takes to include its wait in the queue."""
        measured = getattr(self._measured, "seconds", None)
        super().batch_completed(batch_size, duration if measured is None else measured)

    def retrieval_context(self) -> contextlib.AbstractContextManager[None]:
        return _Retrieval(self._call, InsideParallel(self.parallel))

    # --- after a call ---

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what waits and stop what runs of the call; the cluster stays as it is."""
        if self._call is not None:
            self._call.abort()

    def stop_call(self) -> None:
        if self._call is not None:
            self._call.close()
            self._call = None

    def terminate(self) -> None:
        self.reset_batch_stats()


class _Retrieval(contextlib.AbstractContextManager[None]):
    """What joblib enters before it looks for results: for a list, all are there when the block begins.

    A class, and no generator: its frame, and contextlib's, would stand in the traceback of a task's error.
    """

    def __init__(self, call: ParallelRun | None, inside: InsideParallel) -> None:
        self._call = call
        self._inside = inside

    def __enter__(self) -> None:
        __tracebackhide__ = True
        if self._call is not None:
            self._call.count_all()
            if not self._inside.is_generator:
                self._call.collect_until_done()
        self._inside.raise_error()

    def __exit__(self, *_: object) -> None:
        """There is nothing to end."""


def _refuse_unknown(options: dict[str, Any]) -> None:
    """joblib passes on whatever it does not know itself, so what is misspelt would have no effect."""
    known = {*joblib_parallel.default_parallel_config, "context", "idle_worker_timeout"}  # those of its own backends
    if unknown := sorted(set(options) - known):
        raise TypeError(
            f"Parallel has no option {', '.join(unknown)}, nor has the minidask backend, which takes initializer and"
            " initargs here; what else it takes is for parallel_config"
        )


def _large_data(max_nbytes: int | None, mmap_mode: str | None) -> tuple[int | None, bytes]:
    """From what size on buffers are shared by all tasks, None for never; and how tasks see them."""
    if mmap_mode not in (None, "r", "c"):
        raise ValueError(
            f"mmap_mode={mmap_mode!r} has tasks write to data that other tasks see, which minidask does not do;"
            ' choose "r" (read-only), "c" (each task has a copy of its own, made as it writes) or None (no sharing)'
        )
    if max_nbytes == math.inf:
        max_nbytes = None
    if max_nbytes is not None:
        whole = isinstance(max_nbytes, float) and math.isfinite(max_nbytes)
        max_nbytes = checks.whole("max_nbytes", int(max_nbytes) if whole else max_nbytes, 0)
    return (None if mmap_mode is None else max_nbytes), (PRIVATE if mmap_mode == "c" else SHARED)


# --- which cluster ---

_clients: dict[str | None, Client] = {}
_clients_lock = threading.Lock()


def _client_for(address: str | None) -> Client:
    """The client for an address, or for no address: made if there is none, and kept.

    One that `Parallel` has made itself, and that has lost its scheduler, is made again: that connects to the same
    address or fails, or starts another cluster on this machine in the place of one that had come with the call.
    """
    if address is None:
        client = get_client() if current_slot() is not None else find_client()
        if client is not None:
            return client
    access_file = None
    if address is None and registry.inherited is not None:
        address, access_file = registry.inherited
    address = address or address_of_environment()
    with _clients_lock:
        client = _clients.get(address)
        if client is None or client.closed:
            if client is not None:
                client.close()
            client = Client(address, access_file=access_file)
            client.implicit = True
            _clients[address] = client
    if current_slot() is not None:
        own = get_client()
        if own.shell.connection.scheduler_id == client.shell.connection.scheduler_id:
            return own  # a task that names its own cluster
    return client


def _after_fork_in_child() -> None:
    global _clients_lock
    _clients_lock = threading.Lock()  # a thread of the parent may have held it
    _clients.clear()


on_fork(Layer.CLIENTS, _after_fork_in_child)


# --- in the slot ---


def nested_config(nesting_level: int | None) -> parallel_config:
    """What `Parallel` does in a batch from now on, until the end of the `with` block that this is for."""
    if is_slot_process():
        pools_pickle_by_value()
    return parallel_config(backend=_nested_backend(nesting_level), n_jobs=None)


@functools.cache
def _nested_backend(nesting_level: int | None) -> MinidaskBackend:
    """Calls within a task go to the cluster too, if they ask for it: without `n_jobs` they run inside their task."""
    backend = MinidaskBackend(nesting_level=(nesting_level or 0) + 1)
    backend.default_n_jobs = 1
    return backend


evaluate_one_at_a_time()
register_parallel_backend("minidask", MinidaskBackend)
joblib_is_loaded(nested_config)
