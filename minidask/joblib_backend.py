"""joblib's contract, and nothing else: how `joblib.Parallel` runs its batches on a minidask cluster.

    Parallel ─submit─► MinidaskBackend ─► Call ─► TaskGroup ─► scheduler ─► a slot: run_batch
    Parallel ◄callback─ whoever collects ◄─ queue of done futures ◄─ the client's reader thread

joblib's callbacks pull the user's iterable and submit what it yields, so they may take any time. They
never run in the reader thread. For `return_as="list"` the thread that called `Parallel` runs them, while it
waits in `retrieval_context`: it wakes when a result is there, where joblib itself would look every
10 ms. Generators hand control back to the user between results, so they have a thread for it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    ThreadingBackend,
    parallel_config,
    register_parallel_backend,
)

from minidask.client.client import Client
from minidask.client.core import Lost
from minidask.client.future import Future
from minidask.client.registry import get_client
from minidask.errors import MinidaskError, NoWorkersError
from minidask.payload import Scattered, inside_task

THREAD_VARIABLES = ParallelBackendBase.MAX_NUM_THREADS_VARS

Callback = Callable[[Future], None]


class MinidaskBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """The backend that `joblib.parallel_backend("minidask")` and `parallel_config("minidask")` make.

    Args:
        scheduler: address of a scheduler, or a `Client`. None: the last `Client` made in this process, else the
            address in `MINIDASK_SCHEDULER`, else a cluster on this machine, kept for later calls.
        scatter: list or tuple of objects that tasks share; each is sent once, and found by identity in arguments.
        wait_for_workers_timeout: seconds to wait for a first worker.

    Raises:
        TypeError: `scatter` is no list or tuple, or there is an unknown keyword.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        scheduler: str | Client | None = None,
        scatter: list[Any] | tuple[Any, ...] | None = None,
        wait_for_workers_timeout: float = 10,
        **unknown: Any,
    ) -> None:
        if unknown:
            names = ", ".join(sorted(unknown))
            raise TypeError(
                f"the minidask backend has no option {names}; it takes scheduler, scatter, wait_for_workers_timeout,"
                " n_jobs and inner_max_num_threads"
            )
        if scatter is not None and not isinstance(scatter, list | tuple):
            raise TypeError(f"scatter must be a list or tuple of objects, got {type(scatter).__name__}")
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self.wait_for_workers_timeout = wait_for_workers_timeout
        self._scheduler = scheduler
        self._shared_data = SharedData(list(scatter or ()))
        self._owned = False
        self._limit = 0
        self._call: Call | None = None
        self._measured = threading.local()

    def __reduce__(self) -> Any:
        return MinidaskBackend, ()

    # --- before a call ---

    def client(self) -> Client:
        """The client that this backend's calls go through; connects or starts a cluster if need be."""
        return self._scheduler if isinstance(self._scheduler, Client) else _client_for(self._scheduler)

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many calls may run at once; joblib runs them itself, one after the other, where that is 1.

        Raises:
            ValueError: `n_jobs` is 0.
            NoWorkersError: there is no worker within `wait_for_workers_timeout`.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs == 1 or inside_task():
            return 1  # a task's own Parallel calls run inside it
        if n_jobs is not None and n_jobs > 0:
            return n_jobs
        slots = self._slots(self.client())
        return max(slots + 1 + (-1 if n_jobs is None else n_jobs), 1)

    def _slots(self, client: Client) -> int:
        """How many workers there are, after waiting for the first."""
        if not client.slots():
            try:
                client.wait_for_workers(1, self.wait_for_workers_timeout)
            except NoWorkersError as error:
                longer = max(10, 2 * self.wait_for_workers_timeout)
                raise NoWorkersError(
                    f"{error}. To wait longer: parallel_config('minidask', wait_for_workers_timeout={longer:g})"
                ) from None
        return client.slots()

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        effective = self.effective_n_jobs(n_jobs)
        if effective == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if not self._owned:
            raise FallbackToBackend(self._copy())
        self._slots(self.client())
        self.parallel = parallel
        self._limit = 0 if n_jobs == -1 else effective
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
        shared = self._shared_data.handles(client)
        self._call = Call(client, self._limit, self.parallel, self.inner_max_num_threads, shared)

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

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        if self._call is not None and not self.parallel.return_generator:
            self._call.collect_until_done()
        if self.parallel._aborting:
            self.parallel._raise_error_fast()  # joblib itself forgets an error that came before any task
        yield

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


class Call:
    """One run of a `Parallel` object: its tasks, and who runs joblib's callbacks for them."""

    def __init__(
        self,
        client: Client,
        limit: int,
        parallel: Any,
        inner_threads: int | None,
        shared: list[tuple[Any, Scattered]],
    ) -> None:
        self._client = client
        self._group = client.group(limit)
        self._parallel = parallel
        self._inner_threads = inner_threads
        self._done: queue.SimpleQueue[tuple[Callback, Future] | None] = queue.SimpleQueue()
        self._pending: set[Future] = set()
        self._shared = {id(obj): handle for obj, handle in shared}
        for obj, handle in shared:
            self._group.interner.alias(obj, handle.blob)
        if parallel.return_generator:
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
            future = self._group.submit(run_batch, arguments, name=_name_of(items), on_done=on_done)
        except MinidaskError as error:
            future = Future(0, "batch", lambda future: None, None)
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
        head = 0
        while parallel._wait_retrieval() and not parallel._aborting:
            wait, head = self._time_left(head)
            try:
                item = self._done.get(timeout=wait)
            except queue.Empty:
                continue
            if item is not None:
                item[0](item[1])

    def _time_left(self, head: int) -> tuple[float | None, int]:
        """Seconds until the oldest pending job has used up joblib's timeout, and its position."""
        timeout = self._parallel.timeout
        if timeout is None:
            return None, head
        jobs = self._parallel._jobs
        while head < len(jobs) and jobs[head].get_status(timeout=timeout) != "Pending":
            head += 1
        if head == len(jobs) or self._parallel._aborting:
            return 0.0, head
        waited = time.time() - jobs[head]._completion_timeout_counter
        return max(0.0, timeout - waited) + 0.001, head

    def _collect_forever(self) -> None:
        while (item := self._done.get()) is not None:
            item[0](item[1])

    # --- the end ---

    def abort(self) -> None:
        self._client.cancel(list(self._pending), force=True)

    def close(self) -> None:
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


# --- which cluster ---

_clients: dict[str | None, Client] = {}
_clients_lock = threading.Lock()


def _client_for(address: str | None) -> Client:
    """The client for an address, or for no address: made if there is none, and kept."""
    if address is None:
        with contextlib.suppress(MinidaskError):
            return get_client()
    address = address or os.environ.get("MINIDASK_SCHEDULER")
    with _clients_lock:
        client = _clients.get(address)
        if client is None or client.closed:
            client = _clients[address] = Client(address)
        return client


# --- in the slot ---


def run_batch(items: list[Any], nesting_level: int | None, inner_threads: int | None) -> list[Any]:
    """Run the calls of one batch in a slot, as joblib's `BatchedCalls` does."""
    with parallel_config(backend=_nested_backend(nesting_level), n_jobs=None):
        if inner_threads is None:
            return [function(*args, **kwargs) for function, args, kwargs in items]
        with _threads_limited(inner_threads):
            return [function(*args, **kwargs) for function, args, kwargs in items]


def _nested_backend(nesting_level: int | None) -> ParallelBackendBase:
    """As joblib's own process backends: threads for the first level of nesting, none below that."""
    level = (nesting_level or 0) + 1
    return SequentialBackend(nesting_level=level) if level > 1 else ThreadingBackend(nesting_level=level)


_controllers: dict[int, Any] = {}


@contextlib.contextmanager
def _threads_limited(threads: int) -> Iterator[None]:
    """Limit the thread pools of libraries that are loaded, and of those that the task will load."""
    from threadpoolctl import ThreadpoolController  # noqa: PLC0415 - only whoever asks for a limit needs it

    loaded = len(sys.modules)
    if loaded not in _controllers:
        _controllers.clear()  # looking for libraries takes a millisecond: again only when there may be new ones
        _controllers[loaded] = ThreadpoolController()
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    try:
        with _controllers[loaded].limit(limits=threads):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _name_of(items: list[Any]) -> str:
    function = items[0][0]
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


register_parallel_backend("minidask", MinidaskBackend)
