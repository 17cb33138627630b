"""`minidask.Client`: the way into a cluster, from any thread of the user's process."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from minidask.addresses import Address
from minidask.blobfiles import blob_id
from minidask.blobstore import BlobStore
from minidask.client.blobs import HeldBlobs
from minidask.client.connection import Connection
from minidask.client.core import Lost, Outcome, PendingTable, Returned, outcome_of
from minidask.client.executor import ClientExecutor
from minidask.client.future import Future
from minidask.client.group import TaskGroup
from minidask.client.reading import Reading
from minidask.client.registry import live_clients
from minidask.client.results import Results
from minidask.client.screen import client_table, show_output
from minidask.client.session import Session
from minidask.client.workers import WorkerTable
from minidask.errors import MinidaskError, NoWorkersError, SchedulerLost, SerializationError
from minidask.folders import sweep
from minidask.interning import Interner, Scattered
from minidask.nesting import TaskSlot
from minidask.payload import LARGE_BYTES, SHARED, dumps_naming, taken
from minidask.wire.messages import (
    Answer,
    Ask,
    BlobPart,
    Cancel,
    FetchPart,
    Goodbye,
    Idle,
    Message,
    NoBlob,
    ResultOffered,
    Shutdown,
    Submit,
    TaskDone,
    TaskLost,
    TaskOutput,
    TaskRaised,
    WorkerChanged,
    Workers,
)

if TYPE_CHECKING:
    from minidask.client.progress import Calls
    from minidask.local import LocalCluster


class Client:
    """A connection to a cluster; without an address, to a cluster of its own on this machine.

    Args:
        address: of a scheduler: `host:port`, `tcp://host:port`, `unix:///path`; or a `LocalCluster`. None starts one.
        n_workers: workers of the cluster that is started; None for as many as there are usable cores.
        processes: whether those are processes, or threads of this process.
        memory_limit: bytes each of those may use, as a number or "4GiB"; "auto" guards the machine's memory only;
            None: no limit.
        name: what the scheduler calls this client.
        timeout: seconds to connect in, and to wait for answers about the cluster.
        access_file: the file with the shared secret; None for the usual places.
        forward_output: whether to show here what tasks print.

    Raises:
        SchedulerLost: nobody answers at the address.
        AuthenticationError: the secrets differ, or there is none.
        VersionMismatch: the scheduler speaks another protocol version.
        ValueError: the address or a number makes no sense.
    """

    def __init__(
        self,
        address: str | LocalCluster | None = None,
        *,
        n_workers: int | None = None,
        processes: bool = True,
        memory_limit: str | int | None = "auto",
        name: str | None = None,
        timeout: float = 10.0,
        access_file: str | Path | None = None,
        forward_output: bool = True,
    ) -> None:
        self.cluster: LocalCluster | None = None
        self._owns_cluster = address is None
        if address is None:
            from minidask.local import LocalCluster as Cluster  # noqa: PLC0415 - only whoever needs it loads it

            address = Cluster(n_workers, processes=processes, memory_limit=memory_limit)
        elif n_workers is not None:
            raise ValueError("n_workers is for a cluster that Client starts itself; this one connects to an address")
        if not isinstance(address, str):
            self.cluster = address
            address = address.scheduler_address
        self.name = name or f"{Path(sys.argv[0] or 'python').name}-{os.getpid()}"
        self._slot = self._find_slot()
        self.timeout = timeout
        self._pending: PendingTable[Future] = PendingTable()
        self._table_lock = threading.RLock()  # garbage collection may lead from inside it to a cancel()
        self._dropped: collections.deque[list[bytes]] = collections.deque()
        self._answers: dict[int, Callable[[dict[str, Any] | None], None]] = {}
        self.bars: tuple[Calls, ...] = ()  # where what is submitted now is counted
        self.workers = WorkerTable()
        self._groups = 0
        self._requests = 0
        self._why_closed = ""
        self._pid = os.getpid()
        self._forked = False
        sweep()
        try:
            self._connection = self._connect(address, access_file, forward_output)
        except BaseException:
            if self._owns_cluster and self.cluster is not None:
                self.cluster.close()
            raise
        self._store = BlobStore.of(self._connection.peer_info)
        own_store = self._store if self._slot is None else self._slot.store
        self.blobs = HeldBlobs(self._send_one, self._send_one_if_connected, own_store)
        self._results = Results(self._send_if_connected, self._pending.knows)
        self._session = Session(self.blobs.put, self._release_blob)
        self._scatterer = Interner(self.blobs.put, self._dropped.append, functions=False, files=self.is_here)
        self.reading = Reading(self._connection, self._handle, self._lost, self._slot)
        self.workers.wait(lambda: self.workers.known or self._why_closed, timeout)
        live_clients.append(self)

    def _connect(self, address: str, access_file: str | Path | None, forward_output: bool) -> Connection:
        parsed = Address.parse(address)
        info = {"name": self.name, "host": socket.gethostname(), "pid": self._pid, "forward_output": forward_output}
        info["nested"] = self._slot is not None
        return Connection(parsed, access_file, info, self.timeout)

    def _find_slot(self) -> TaskSlot | None:
        """The slot whose tasks this client is for: see `TaskClient`."""
        return None

    # --- work ---

    def submit(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        priority: int = 0,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Future:
        """Run `fn(*args, **kwargs)` on the cluster.

        Args:
            priority: higher ones of this client start first.
            timeout: seconds that the call may run, waiting not counted; it is stopped then, and `TaskTimeout` raised.

        Raises:
            SerializationError: the function or an argument cannot be pickled.
            SchedulerLost: there is no connection any more.
        """
        if not callable(fn):
            raise TypeError(f"submit() needs a function to call, got {type(fn).__name__}")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, got {timeout}")
        return self._submit((fn, args, kwargs), name=_name_of(fn), priority=priority, timeout=timeout)

    def map(self, fn: Callable[..., Any], /, *iterables: Iterable[Any], priority: int = 0) -> list[Future]:
        """Run `fn` on the items of the iterables, as the built-in `map` pairs them; one future for each."""
        group = self.group()
        try:
            return [
                group.submit(fn, args, name=_name_of(fn), priority=priority) for args in zip(*iterables, strict=False)
            ]
        finally:
            group.close()

    def gather(self, futures: Iterable[Future], errors: Literal["raise", "skip", "return"] = "raise") -> list[Any]:
        """Wait for all and return their results in order.

        Args:
            errors: what to do with failed tasks: raise the first one's exception, leave them out, or return the
                exceptions in their places.
        """
        if errors not in ("raise", "skip", "return"):
            raise ValueError(f'errors must be "raise", "skip" or "return", got {errors!r}')
        results = []
        for future in futures:
            try:
                results.append(future.result())
            except (Exception, concurrent.futures.CancelledError) as error:
                if errors == "raise":
                    raise
                if errors == "return":
                    results.append(error)
        return results

    def scatter(self, data: Any) -> Any:
        """Send data ahead, once; the handle that this returns stands for it in the arguments of tasks, at any depth.

        A list or tuple is scattered item by item, into a list of handles; a dict by value. Arrays arrive read-only.
        """
        if isinstance(data, list | tuple):
            return [self.scatter(item) for item in data]
        if isinstance(data, dict):
            return {key: self.scatter(item) for key, item in data.items()}
        return self.scatter_one(data)

    def scatter_one(self, data: Any) -> Scattered:
        """As `scatter`, for one object as a whole, be it a list or a dict."""
        self._check()
        self._release_dropped()
        interner = Interner(self.blobs.put, self._dropped.append, functions=False, large=LARGE_BYTES)
        payload, parts = dumps_naming(data, f"the scattered {type(data).__name__}", interner)
        blob = blob_id(payload)
        self.blobs.put({blob: payload})
        self.blobs.hold(parts)
        interner.close()
        return Scattered(blob, parts, type(data).__name__, self.blobs.release, self._dropped.append)

    def cancel(self, futures: Future | Iterable[Future], force: bool = False) -> None:
        """Give up on these tasks; with `force`, those that run are stopped too."""
        futures = [futures] if isinstance(futures, Future) else list(futures)
        numbers = [future.number for future in futures if not future.done() or (force and future.cancelled())]
        for future in futures:
            future.cancel_here()
        with self._table_lock:
            for number in numbers:
                self._pending.take(number)
        if numbers:
            self._send_if_connected([Cancel(numbers, force)])

    def run(self, fn: Callable[..., Any], /, *args: Any) -> dict[str, Any]:
        """Run `fn(*args)` once on every worker machine, in a slot of it; returns `{worker address: result}`."""
        futures = {
            address: self._submit((fn, args, {}), name=_name_of(fn), pin=address) for address in self.workers.entries
        }
        return {address: future.result() for address, future in futures.items()}

    @overload
    def progress(self) -> contextlib.AbstractContextManager[None]: ...
    @overload
    def progress(self, futures: Future | Iterable[Future]) -> None: ...
    def progress(
        self, futures: Future | Iterable[Future] | None = None
    ) -> contextlib.AbstractContextManager[None] | None:
        """Show a progress bar: `with client.progress():` of all that this client submits within the block, which does
        not wait for it; `client.progress(futures)` of these, until they are done, however they end.

        Raises:
            MinidaskError: tqdm is not installed.
        """
        from minidask.client.progress import Bar  # noqa: PLC0415 - only whoever asks for a bar loads it

        if futures is None:
            return Bar().over(self)
        futures = [futures] if isinstance(futures, Future) else list(futures)
        if not all(isinstance(future, Future) for future in futures):
            raise TypeError("progress() takes the futures that submit() and map() return")
        Bar().wait(self, futures)
        return None

    def get_executor(self) -> concurrent.futures.Executor:
        """A standard executor whose calls run on this cluster."""
        return ClientExecutor(self)

    # --- the cluster ---

    def nthreads(self) -> dict[str, int]:
        """`{worker address: slots}`: how many tasks each worker machine runs at once."""
        return self.workers.nthreads()

    def slots(self) -> int:
        """How many tasks the whole cluster runs at once."""
        return self.workers.slots()

    def wait_for_workers(self, n: int = 1, timeout: float | None = None) -> None:
        """Wait until the cluster runs at least `n` tasks at once; `timeout` in seconds, None: the client's own.

        Raises:
            NoWorkersError: it does not, by then.
        """
        self._check()
        timeout = self.timeout if timeout is None else timeout
        self.workers.wait(lambda: self.slots() >= n or self._why_closed, timeout)
        self._check()
        if self.slots() < n:
            raise NoWorkersError(
                f"the cluster at {self.address} has {self.slots()} workers after {timeout:g} seconds, not {n}:"
                f" start some with `minidask-worker {self.address}`, and see their log if they do not join"
            )

    def scheduler_info(self) -> dict[str, Any]:
        """What the scheduler knows: its address and version, workers, clients, and how many tasks wait and run."""
        answer: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.ask(answer.put)
        try:
            info = answer.get(timeout=self.timeout)
        except queue.Empty:
            raise SchedulerLost(f"the scheduler did not answer within {self.timeout:g} seconds") from None
        if info is None:
            raise SchedulerLost(self._why_closed)
        return info

    def ask(self, on_answer: Callable[[dict[str, Any] | None], None]) -> None:
        """Have the reader call this with what `scheduler_info` returns; with None if the connection ends before."""
        with self._table_lock:
            self._requests += 1
            request = self._requests
            self._answers[request] = on_answer
        self._send([Ask(request)])

    @property
    def address(self) -> str:
        """The scheduler's address."""
        return str(self._connection.address)

    def group(self, limit: int = 0, large: int | None = LARGE_BYTES, mode: bytes = SHARED) -> TaskGroup:
        """Open a group for the tasks of one call; arguments as `TaskGroup`'s."""
        return TaskGroup(self, limit, large, mode)

    # --- the end ---

    @property
    def nested(self) -> bool:
        """Whether this is the client of a task, in its slot."""
        return self._slot is not None

    @property
    def is_here(self) -> bool:
        """Whether all of the cluster is on this machine."""
        return self._store is not None

    @property
    def closed(self) -> bool:
        """Whether this client is of no more use."""
        return bool(self._why_closed) or self._forked

    def close(self) -> None:
        """Disconnect, and end the cluster if this client has started it. Pending futures fail. May be called twice."""
        if self._forked:
            return  # a forked child leaves its parent's cluster alone
        with contextlib.suppress(ValueError):
            live_clients.remove(self)
        self._why_closed = self._why_closed or "the client was closed"
        self._connection.shut()
        self.blobs.close()
        self.reading.join(self.timeout)
        if self._owns_cluster and self.cluster is not None:
            self.cluster.close()

    def shutdown(self) -> None:
        """End the whole cluster, scheduler and all workers, whoever started it; then close."""
        if self._forked:
            self._check()
        self._send_if_connected([Shutdown()])
        if not self._owns_cluster:
            self.workers.wait(lambda: self._why_closed, self.timeout)
        self.close()

    def _abandon(self) -> None:
        """In a forked child: let go of what is the parent's."""
        self._forked = True
        self._connection.abandon()
        self.blobs.abandon()
        self._table_lock = threading.RLock()
        self.workers.abandon()
        for future in self._pending.take_all():
            future.abandon(
                MinidaskError(f"task {future.name!r} belongs to process {self._pid}, which this one forked off")
            )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return f"<minidask.Client closed: {self._why_closed or 'this is a forked process'}>"
        return f"<minidask.Client {self.address} {len(self.workers.entries)} machines, {self.slots()} workers>"

    def __reduce__(self) -> Any:
        raise SerializationError(
            "a Client cannot be sent to a task or another process: in a task use what was submitted or scattered,"
            f" in a process make one with minidask.Client({self.address!r})"
        )

    def _repr_html_(self) -> str:
        return client_table(repr(self).strip("<>"), self.workers.entries)

    def count_on(self, calls: Calls) -> None:
        """Count there what is submitted from now on."""
        with self._table_lock:
            self.bars = (*self.bars, calls)

    def count_no_more_on(self, calls: Calls) -> None:
        with self._table_lock:
            self.bars = tuple(other for other in self.bars if other is not calls)

    # --- sending ---

    def _submit(
        self,
        call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]],
        *,
        name: str,
        priority: int = 0,
        timeout: float | None = None,
        group: int = 0,
        pin: str | None = None,
        interner: Interner | None = None,
        on_done: Callable[[Future], None] | None = None,
        counted: bool = False,
    ) -> Future:
        self._check()
        self._release_dropped()
        payload, blobs = dumps_naming(call, f"task {name!r}", interner or self._scatterer)
        used = self.blobs.use(blobs)
        with self._table_lock:
            session = self._session.blob()
            number = self._pending.next_number()
            future = self._new_future(number, name)
            future.group = group
            if on_done is not None:
                future.add_done_callback(on_done)  # type: ignore[arg-type]
            if used:
                future.add_done_callback(lambda _: self._dropped.append(used))
            self._pending.add(number, future)
        try:
            parent = self._slot.call if self._slot is not None else []
            self._send([Submit(number, name, priority, timeout, group, pin, [session, *blobs], parent, payload)])
        except MinidaskError:
            with self._table_lock:
                self._pending.take(number)
            self._dropped.append(used)
            raise
        if not counted:
            for calls in self.bars:
                calls.watch(future)
        return future

    def _new_future(self, number: int, name: str) -> Future:
        return Future(number, name, self._cancelled, self.reading.in_this_thread)

    def _next_group(self) -> int:
        with self._table_lock:
            self._groups += 1
            return self._groups

    def _release_blob(self, blob: bytes) -> None:
        self.blobs.release([blob])

    def _release_dropped(self) -> None:
        """Release what dropped handles and done tasks used: they may end anywhere, inside any lock."""
        while self._dropped:
            self.blobs.release(self._dropped.popleft())

    def _cancelled(self, future: Future) -> None:
        with self._table_lock:
            self._pending.take(future.number)
        self._send_if_connected([Cancel([future.number], False)])

    def _send(self, messages: Sequence[Message]) -> None:
        self._check()
        self._connection.send(messages)

    def _send_one(self, message: Message) -> None:
        self._send([message])

    def _send_one_if_connected(self, message: Message) -> None:
        self._send_if_connected([message])

    def _send_if_connected(self, messages: Sequence[Message]) -> None:
        """Send what only tidies up: where the connection is gone, there is nothing to tidy."""
        if not self.closed:
            with contextlib.suppress(SchedulerLost):
                self._connection.send(messages)

    def _check(self) -> None:
        if self._forked:
            raise MinidaskError(
                f"this Client belongs to process {self._pid}, of which this one is a fork: make a new Client here"
            )
        if self._why_closed:
            raise SchedulerLost(f"this Client is of no more use: {self._why_closed}")

    # --- receiving, in whichever thread reads ---

    def _lost(self, why: str) -> None:
        self._why_closed = self._why_closed or f"the connection to the scheduler at {self.address} is gone: {why}"
        self._connection.close()
        with self._table_lock:
            lost = self._pending.take_all()
        for future in lost:
            future.settle(Lost(SchedulerLost(f"task {future.name!r} was pending when {self._why_closed}")))
        for on_answer in list(self._answers.values()):
            on_answer(None)
        self.workers.wake()

    def _handle(self, message: Message) -> None:
        match message:
            case TaskDone() | TaskRaised() | TaskLost():
                with self._table_lock:
                    future = self._pending.take(message.task)
                outcome = self._complete(outcome_of(message))
                self._results.forget_others()
                if future is not None:
                    future.settle(outcome)
            case TaskOutput(worker, stream, text):
                show_output(worker, stream, text)
            case Workers(workers):
                self.workers.told(workers)
            case WorkerChanged(address, name, slots):
                self.workers.told_of(address, name, slots)
            case Answer(request, info):
                on_answer = self._answers.pop(request, None)
                if on_answer is not None:
                    on_answer(info)
            case ResultOffered():
                self._results.offered(message)
            case BlobPart():
                self._results.part(message)
            case NoBlob():
                self._results.refused(message)
            case FetchPart():
                self._send_if_connected([self.blobs.part(message)])
            case Idle(idle):
                self.told_idle(idle)
            case Goodbye(reason):
                self._why_closed = f"the scheduler at {self.address} said goodbye: {reason}"

    def _complete(self, outcome: Outcome) -> Outcome:
        """The outcome with the large parts of it that were left in the store."""
        if not isinstance(outcome, Returned) or len(outcome.payload) == 1:
            return outcome
        take = self._results.take if self._store is None else self._store.take
        try:
            return outcome._replace(payload=taken(outcome.payload, take))
        except (SerializationError, OSError) as error:
            return Lost(SerializationError(f"a task's large result cannot be had: {error}"))

    def told_idle(self, idle: bool) -> None:
        """There are slots with nothing to do, or none: of use to `TaskClient`."""


def _name_of(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)
