"""`minidask.Client`: the way into a cluster, from any thread of the user's process.

A `Client` checks what users pass and words what they read; the work is done by its `ClientShell`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import queue
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from minidask.client.connecting import Entry, connect, own_name
from minidask.client.core import OnAnswer
from minidask.client.eventreader import EventReader
from minidask.client.events import why_of
from minidask.client.executor import ClientExecutor
from minidask.client.future import Future
from minidask.client.gather import gathered
from minidask.client.group import TaskGroup
from minidask.client.places import ClusterOfProgram, address_in, address_of, address_of_environment
from minidask.client.registry import live_clients, remove
from minidask.client.returning import Return
from minidask.client.screen import client_table
from minidask.client.shell import NONE, ClientShell
from minidask.client.versions import VersionWatch, all_versions, warn_of_left_out
from minidask.errors import MinidaskError, NoWorkersError, SchedulerLost, SerializationError, VersionMismatch
from minidask.host import checks
from minidask.host.folders import sweep
from minidask.host.packages import versions
from minidask.host.sizes import count
from minidask.host.texts import printable
from minidask.net.tls_options import TLSFiles, checked_tls
from minidask.pickling.functions import name_of
from minidask.pickling.scattered import Scattered
from minidask.task.retries import Retried
from minidask.wire.messages import Shutdown

if TYPE_CHECKING:
    from minidask.client.dashboards import DashboardLink, DashboardProcess
    from minidask.local.cluster import LocalCluster

RECONNECT_SECONDS = 60.0
LEASES_SECONDS = 0.5
"""A question waits so long for leases without calls to end. Those that have not begun may wait for others' tasks."""


class Client:
    """A connection to a cluster; without an address, to a cluster of its own on this machine.

    Args:
        address: of a scheduler: `host:port`, `tcp://host:port`, `unix:///path`; or a `LocalCluster`,
            `SSHCluster` or the like. None: the address
            in `MINIDASK_SCHEDULER`, if that is set and none of the next four arguments is given; else a cluster on
            this machine is started.
        n_workers: workers of the cluster that is started; None for as many as there are usable cores.
        processes: whether those are processes, or threads of this process.
        memory_limit: bytes each of those may use, as a number or "4GiB"; "auto" guards the machine's memory only;
            None: no limit.
        resources: what that cluster has beside its workers, as `{"gpu": 1}`, for tasks that need some of it.
        name: what the scheduler calls this client.
        timeout: seconds above 0 to connect in, and to wait for answers about the cluster.
        access_file: the file with the shared secret; None for the usual places. A `LocalCluster` has its own.
        tls: how a TCP connection is encrypted. `minidask.TLSFiles(ca_file, cert, key)`: by certificates of your own.
            False: not at all, as that of `minidask-scheduler --no-encryption`. True: by the secret. None: as the access
            file says, which is by the secret, if the scheduler encrypts.
        forward_output: whether to show here what tasks print, and to pass their log records to `logging` here.
        output_prefix: whether each line that tasks print is marked with its worker; None: if the cluster was not
            started on this machine with `Client()` or `LocalCluster`.
        cancel_dropped: whether a task that has not begun is cancelled when nobody holds its future any more.
        reconnect_timeout: seconds to look for the scheduler again when it is lost. Tasks that are pending then wait,
            and are submitted again. Where the cluster is this client's own, its node is started again. 0: pending
            tasks fail at once.

    Raises:
        SchedulerLost: nobody answers at the address.
        AuthenticationError: the secrets differ, or there is none.
        VersionMismatch: the scheduler speaks another protocol version.
        TypeError, ValueError: an argument makes no sense, or `MINIDASK_SCHEDULER`.
    """

    implicit = False
    """Whether `Parallel` has made this client for itself."""
    nested = False
    """Whether this client is a slot's, for its tasks."""

    def __init__(
        self,
        address: str | ClusterOfProgram | None = None,
        *,
        n_workers: int | None = None,
        processes: bool = True,
        memory_limit: str | int | None = "auto",
        resources: Mapping[str, float] | None = None,
        name: str | None = None,
        timeout: float = 10.0,
        access_file: str | Path | None = None,
        tls: TLSFiles | bool | None = None,
        forward_output: bool = True,
        output_prefix: bool | None = None,
        cancel_dropped: bool = True,
        reconnect_timeout: float = RECONNECT_SECONDS,
    ) -> None:
        if output_prefix is not None and not isinstance(output_prefix, bool):
            raise TypeError(f"output_prefix must be True, False or None, got {output_prefix!r}")
        self.cluster: LocalCluster | None = None
        self.timeout = checks.seconds("timeout", timeout, zero=False)
        self.access_file = checks.path("access_file", access_file)
        self.tls = checked_tls(tls)
        self._cancel_dropped = checks.flag("cancel_dropped", cancel_dropped)
        self._reconnect_timeout = checks.seconds("reconnect_timeout", reconnect_timeout)
        forward_output = checks.flag("forward_output", forward_output)
        if name is not None:
            name = checks.text("name", name)
        local = n_workers is not None or processes is not True or memory_limit != "auto" or resources is not None
        if address is None and not local:
            address = address_of_environment() or address_in(self.access_file)
        elif address is not None and local:
            arguments = "n_workers, processes, memory_limit and resources are"
            raise ValueError(f"{arguments} for a cluster that Client starts itself; this one connects to an address")
        self._owns_cluster = address is None
        self._dashboard: DashboardProcess | None = None
        if address is None:
            from minidask.local.cluster import LocalCluster as Cluster  # noqa: PLC0415 - loaded when it is needed

            address = self.cluster = Cluster(
                n_workers, processes=processes, memory_limit=memory_limit, resources=resources
            )
        if not isinstance(address, str):
            if hasattr(address, "revive"):
                self.cluster = cast("LocalCluster", address)  # a scheduler on other machines nobody starts again
            cluster, address = address, address_of(address)
            self.access_file = cluster.access_file  # whatever the environment names is another cluster's
        self.name = name or own_name()
        sweep()
        try:
            self.shell = self._connect(address, self.access_file, forward_output)
        except BaseException:
            if self._owns_cluster and self.cluster is not None:
                self.cluster.close()
            raise
        self.shell.screen.takes_records = forward_output
        if output_prefix is not None:
            self.shell.screen.marks_output = output_prefix
        try:
            self.shell.workers.wait(lambda: self.shell.workers.known or self.shell.core.why_closed, self.timeout)
            if self.cluster is None and not self.nested:  # elsewhere all is of this Python's own
                VersionWatch(versions(), self.shell.workers).warn()
        except BaseException:  # Ctrl-C, or a warning that is an error
            self.close()
            raise
        live_clients.append(self)

    def _connect(self, address: str, access_file: str | Path | None, forward_output: bool) -> ClientShell:
        return_by = None
        if self._reconnect_timeout:
            prepare = self.cluster.revive if self.cluster is not None else lambda losses: None
            return_by = Return(self._reconnect_timeout, self.timeout, prepare)
        entry = Entry(address, access_file, self.tls, self.name, self.timeout, forward_output)
        return connect(entry, self._cancel_dropped, return_by)

    # --- work ---

    def submit(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        priority: int = 0,
        timeout: float | None = None,
        retries: int = 0,
        retry_on: type[Exception] | tuple[type[Exception], ...] = Exception,
        resources: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> Future:
        """Run `fn(*args, **kwargs)` on the cluster.

        Args:
            priority: a whole number of 64 bits; higher ones of this client start first.
            timeout: seconds above 0 that the call may run, all its tries together; it is stopped then, and
                `TaskTimeout` raised. Waiting does not count, nor does what a worker imports and unpickles before.
                None and infinity: no limit.
            retries: how many times the call is tried again if it raises. Each try finds the arguments as they were
                sent. A call that was stopped, or cancelled, is not tried again.
            retry_on: a class of exceptions, or a tuple of such, that are worth another try.
            resources: what the call needs of its machine and holds while it runs, as `{"gpu": 1}`: it begins where
                `minidask-worker --resources` has said so much, and that is free.

        Raises:
            TypeError, ValueError: one of these makes no sense, or `fn` cannot be called.
            SerializationError: the function or an argument cannot be pickled, or is scattered data of another client.
            SchedulerLost: there is no connection any more.
        """
        checks.function("submit()", fn)
        if type(priority) is not int or priority:
            priority = checks.whole("priority", priority)
        if timeout is not None:
            timeout = checks.time_limit("timeout", timeout)
        call = (_retried(fn, retries, retry_on), args, kwargs)
        needs = NONE if resources is None else checks.resources("resources", resources)
        return self.shell.submit(call, name=name_of(fn), priority=priority, timeout=timeout, resources=needs)

    def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        priority: int = 0,
        retries: int = 0,
        retry_on: type[Exception] | tuple[type[Exception], ...] = Exception,
        resume: str | Path | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> list[Future]:
        """Run `fn` on the items of the iterables, as the built-in `map` pairs them; return one future for each.

        Args:
            priority, retries, retry_on, resources: as in `submit`, for each call.
            resume: the path of a file that keeps the results. A call whose result is there already is not made again.
                A path without a suffix gets `.resume`.

        Raises:
            TypeError: there is no iterable.
            TypeError, ValueError: an argument makes no sense.
            MinidaskError: the file of `resume` cannot be used.
            Exception: what `submit` raises.
        """
        checks.function("map()", fn)
        if not iterables:
            raise TypeError("map() needs at least one iterable")
        priority = checks.whole("priority", priority)
        name, function = name_of(fn), _retried(fn, retries, retry_on)
        outcomes = None
        if resume is not None:
            from minidask.resume.outcomes import Outcomes  # noqa: PLC0415 - loaded when it is needed

            outcomes = Outcomes(checks.outcomes("resume", resume), "plain")
        group = TaskGroup(self.shell, resources=checks.resources("resources", resources))
        try:
            futures = []
            for args in zip(*iterables, strict=False):
                key = None if outcomes is None else outcomes.key(fn, args, {})
                if outcomes is None or key is None:
                    futures.append(group.submit(function, args, name=name, priority=priority))
                elif (found := outcomes.find(key)) is not None:
                    futures.append(_done(self.shell, name, found.value))
                else:
                    keep = functools.partial(outcomes.keep, key)
                    futures.append(group.submit(function, args, name=name, priority=priority, keep=keep))
            return futures
        finally:
            group.close()

    def gather(self, futures: Any, errors: Literal["raise", "skip", "return"] = "raise") -> Any:
        """Wait for futures and return their results in order.

        Args:
            futures: an iterable of futures, in which there may be further iterables and dicts: a dict gives a dict,
                every other iterable a list; or a single future, which gives its result.
            errors: what to do with failed tasks: raise the first one's exception, leave them out, or return the
                exceptions in their places. A single future that is left out gives None.

        Raises:
            TypeError: there is something else in `futures`.
            ValueError: `errors` is none of these.
        """
        __tracebackhide__ = True  # notebooks leave this frame out
        if not isinstance(errors, str) or errors not in ("raise", "skip", "return"):
            raise ValueError(f'errors must be "raise", "skip" or "return", got {errors!r}')
        try:
            return next(gathered([futures], errors), None)
        finally:
            del futures  # an interrupted call's frame lives on in its traceback: nobody holds these there

    def scatter(self, data: Any) -> Any:
        """Send data ahead, once. The handle that is returned stands for it in the arguments of tasks, at any depth.

        A list or tuple is scattered item by item, into a list of handles; a dict by value. Arrays arrive read-only.
        """
        if isinstance(data, list | tuple):
            return [self.scatter(item) for item in data]
        if isinstance(data, dict):
            return {key: self.scatter(item) for key, item in data.items()}
        return self.scatter_one(data)

    def scatter_one(self, data: Any) -> Scattered:
        """Send one object ahead as a whole, even a list or a dict; return the one handle that stands for it."""
        if isinstance(data, Scattered):
            raise TypeError(f"scatter() takes data, not {data!r}, which is scattered already")
        return self.shell.scatter(data)

    def cancel(self, futures: Future | Iterable[Future], force: bool = False) -> None:
        """Cancel tasks that have not begun; with `force`, stop those that run too.

        Raises:
            TypeError: something else than a future was passed.
            ValueError: a future is another client's. Then none is cancelled.
        """
        force = checks.flag("force", force)
        futures = _futures("cancel", futures)
        for future in futures:
            if not future.is_of(self.shell):
                raise ValueError(
                    f"cancel() takes futures of its own client; {future!r} is another one's: cancel it there"
                )
        self.shell.cancel(futures, force)

    def cancel_all(self, force: bool = False) -> None:
        """Cancel all tasks of this client, also those whose futures nobody holds; with `force`, stop those that run.

        A `Parallel` call in another thread that waits for one of them raises."""
        self.shell.cancel_all(checks.flag("force", force))

    def restart(self, timeout: float | None = None) -> None:
        """Replace all workers by fresh ones: what tasks have imported, changed, or left in memory there is gone.

        All tasks of this client are cancelled first, as by `cancel_all(force=True)`. A worker that runs another
        client's task is replaced when that has ended. With `Client(processes=False)` the workers are fresh threads;
        the modules of their process stay as they are.

        Args:
            timeout: seconds to wait until all are ready, 0 or more; None: the client's own.

        Raises:
            TypeError, ValueError: the timeout makes no sense.
            NoWorkersError: not all are ready by then; they are still replaced.
            MinidaskError: a task calls this, and its own worker would have to go.
            SchedulerLost: there is no connection any more.
        """
        timeout = self.timeout if timeout is None else checks.seconds("timeout", timeout)
        self.shell.check()
        if self.shell.parent():
            raise MinidaskError(
                "a task cannot restart() the workers, as it runs in one of them: do it where it is from"
            )
        if self._ask(self.shell.restart, timeout) is None:
            raise NoWorkersError(
                f"not all workers of the cluster at {self.address} were replaced within {count(timeout, 'second')}:"
                " those that run tasks of other clients are when these end, the others as soon as they can start"
            )

    def run(self, fn: Callable[..., Any], /, *args: Any) -> dict[str, Any]:
        """Run `fn(*args)` once on every machine, in one of its workers; return `{machine's address: result}`.

        Machines of another Python cannot run it: they are left out, with a `VersionWarning`.

        Raises:
            VersionMismatch: all machines have another Python.
            Exception: what `submit` raises, or what the function has raised.
        """
        __tracebackhide__ = True
        checks.function("run()", fn)
        self._check_for_workers()
        warn_of_left_out(self.shell.workers.unusable())
        name = name_of(fn)
        futures = {address: self.shell.submit((fn, args, {}), name=name, pin=address) for address in self.nthreads()}
        results = {}
        for address, future in futures.items():  # no comprehension: it would have a frame of its own in tracebacks
            results[address] = future.result()
        return results

    @overload
    def progress(self) -> contextlib.AbstractContextManager[None]: ...
    @overload
    def progress(self, futures: Future | Iterable[Future]) -> None: ...
    def progress(
        self, futures: Future | Iterable[Future] | None = None
    ) -> contextlib.AbstractContextManager[None] | None:
        """Show a progress bar.

        `with client.progress():` shows all tasks that this client submits in the block; the block does not wait for
        them. `client.progress(futures)` shows these futures and waits until all are done, however they end.

        Raises:
            MinidaskError: tqdm is not installed.
        """
        from minidask.client.progress import Bar  # noqa: PLC0415 - loaded when a bar is asked for

        if futures is None:
            return Bar().over(self.shell)
        Bar().wait(self.shell, _futures("progress", futures))
        return None

    def get_executor(self) -> concurrent.futures.Executor:
        """Return a standard `concurrent.futures.Executor` whose calls run on this cluster."""
        return ClientExecutor(self.shell)

    # --- the cluster ---

    def nthreads(self) -> dict[str, int]:
        """Return `{machine's address: workers}` for machines of this Python. A worker runs one task at a time."""
        return self.shell.workers.nthreads()

    def slots(self) -> int:
        """Return how many tasks the whole cluster runs at once."""
        return self.shell.workers.slots()

    def wait_for_workers(self, n: int = 1, timeout: float | None = None) -> None:
        """Wait until the cluster runs at least `n` tasks at once.

        Args:
            timeout: seconds to wait, 0 or more; None: the client's own.

        Raises:
            TypeError, ValueError: a number makes no sense.
            NoWorkersError: the cluster does not run as many by then.
            VersionMismatch: all workers that are there have another Python, so none runs a task. Raised at once.
        """
        self.shell.check()
        n = checks.whole("n", n, 0)
        timeout = self.timeout if timeout is None else checks.seconds("timeout", timeout)
        workers = self.shell.workers
        workers.wait(lambda: self.slots() >= n or self.shell.core.why_closed or workers.refusal(), timeout)
        self.shell.check()
        self._check_for_workers()
        if self.slots() < n:
            raise NoWorkersError(
                f"the cluster at {self.address} has {count(self.slots(), 'worker')} after"
                f" {count(timeout, 'second')}, not {n}:"
                f" start some with `minidask-worker {self.address}`, and see their log if they do not join"
            )

    def _check_for_workers(self) -> None:
        if self.shell.workers.refusal():
            self.scheduler_info()  # after its answer, this client knows of every worker that has joined by now
            if refusal := self.shell.workers.refusal():
                raise VersionMismatch(refusal)

    def get_versions(self, check: bool = False) -> dict[str, Any]:
        """Compare the versions of Python, minidask, and the packages that tasks use most.

        Args:
            check: whether to raise an error with a table if a machine has not exactly what this client has.

        Returns:
            dict: `{"client": {package: version}, "scheduler": {...}, "machines": {address: {...}}}`.

        Raises:
            VersionMismatch: there are differences.
        """
        return all_versions(versions(), self.scheduler_info(), check=check)

    def scheduler_info(self) -> dict[str, Any]:
        """Ask the scheduler for its address and version, machines with workers, clients, and counts of tasks.

        A machine is `usable` if it runs tasks of this client: the first two numbers of its Python are the same.

        Raises:
            SchedulerLost: there is no connection any more, or no answer within the client's timeout.
            MinidaskError: the answer is too long to be sent.
        """
        info = self._ask(self.shell.ask, self.timeout)
        if info is None:
            raise SchedulerLost(f"the scheduler did not answer within {self.timeout:g} seconds")
        if "error" in info:
            raise MinidaskError(f"the scheduler cannot describe the cluster: {printable(str(info['error']))}")
        return info

    def events(self) -> EventReader:
        """Return what happens in the whole cluster from now on, as an iterator of `ClusterEvent` that does not end.

        It begins with a snapshot. Use it in a `with` block: the cluster tells nothing when nobody listens::

            with client.events() as events:
                for event in events:
                    print(event.kind, event.name, event.text)

        Raises:
            SchedulerLost: there is no connection any more.
        """
        self.shell.check()
        return self.shell.events.open()

    def trace(self, path: str | Path) -> contextlib.AbstractContextManager[object]:
        """Return a block that writes what the whole cluster does meanwhile into a file, for https://ui.perfetto.dev.

        It has one track for each worker, with all calls, and arrows for nested calls and for data between machines::

            with client.trace("run.json"):
                search.fit(X, y)

        Raises:
            TypeError, ValueError: the path makes no sense.
            OSError: the block begins or ends, and the file cannot be written.
        """
        from minidask.client.trace import Trace  # noqa: PLC0415 - loaded when it is needed

        return Trace(Path(str(checks.path("path", path or ""))), self.events)

    def explain(self, task: Future | int) -> str:
        """Say in a sentence why a task waits, or where it is.

        Args:
            task: a future of this client, or the scheduler's number of any task, as events have it.

        Raises:
            TypeError, ValueError: it is neither, or another client's future.
            SchedulerLost: there is no connection any more, or no answer within the client's timeout.
        """
        if isinstance(task, Future):
            if not task.is_of(self.shell):
                raise ValueError(f"explain() takes futures of its own client; {task!r} is another one's: ask that")
            if task.done():
                return f"it is over: {'it was cancelled' if task.cancelled() else 'its future has the outcome'}"
            own, number = True, task.number
        else:
            own, number = False, checks.whole("task", task, 1)
        info = self._ask(functools.partial(self.shell.explain, task=number, own=own), self.timeout)
        if info is None:
            raise SchedulerLost(f"the scheduler did not answer within {self.timeout:g} seconds")
        return why_of(info)

    def dashboard(self, port: int | None = None) -> DashboardLink:
        """Show what the cluster does in a browser: start `minidask-dashboard` for this client, and return its link.

        It listens on this machine only, and ends with this client. If it runs already, its link is returned.

        Args:
            port: where it listens, 0 to 65535; 0: any that is free; None: 8787, or any if that is taken.

        Raises:
            TypeError, ValueError: that is no port.
            SchedulerLost: there is no connection any more.
            MinidaskError: it cannot begin, and says why.
        """
        from minidask.client.dashboards import DashboardProcess  # noqa: PLC0415 - loaded when it is needed

        if port is not None and checks.whole("port", port, 0) > 65535:
            raise ValueError(f"port must be at most 65535, got {port}")
        self.shell.check()
        if self._dashboard is None or not self._dashboard.running:
            if self._dashboard is not None:
                self._dashboard.close()
            self._dashboard = DashboardProcess(self.address, self.access_file, self.tls, port)
        return self._dashboard.link

    def _ask(self, ask: Callable[[OnAnswer], None], timeout: float) -> dict[str, Any] | None:
        """Ask the shell a question; return the answer, None if there is none in time.

        Raises:
            SchedulerLost: the connection has ended.
        """
        answer: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        ask(answer.put)
        try:
            info = answer.get(timeout=min(timeout, LEASES_SECONDS))
        except queue.Empty:
            self.shell.ask_anyway()
            try:
                info = answer.get(timeout=timeout)
            except queue.Empty:
                return None
        if info is None:
            raise SchedulerLost(self.shell.core.why_closed)
        return info

    @property
    def address(self) -> str:
        """The scheduler's address."""
        return str(self.shell.connection.address)

    # --- the end ---

    @property
    def closed(self) -> bool:
        """Whether this client was closed, has lost its scheduler, or belongs to a parent process."""
        return self.shell.core.closed

    def close(self) -> None:
        """Disconnect, and end the cluster if this client has started it. Pending futures fail. May be called twice."""
        if self.shell.core.forked_from:
            return  # a forked child leaves its parent's cluster alone
        if self._dashboard is not None:
            self._dashboard.close()
        self.shell.close(self.timeout)
        if self._owns_cluster and self.cluster is not None:
            self.cluster.close()
        remove(self)  # only now: what is interrupted before is tried again at exit

    def shutdown(self) -> None:
        """End the scheduler and all workers, even if another client has started them; then close this client.

        Raises:
            MinidaskError: the scheduler allows that to no client.
        """
        if self.shell.core.forked_from:
            self.shell.check()
        if not self.closed and not (self.shell.connection.peer_info or {}).get("shutdown"):
            raise MinidaskError(
                f"no client may end the cluster at {self.address}: end minidask-scheduler and minidask-worker"
                " where they run, or start minidask-scheduler with --allow-shutdown"
            )
        self.shell.send_if_open([Shutdown()])
        if not self._owns_cluster:
            self.shell.workers.wait(lambda: self.shell.core.why_closed, self.timeout)
        self.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return f"<minidask.Client closed: {self.shell.core.why_closed or 'this is a forked process'}>"
        others = len(self.shell.workers.unusable())
        machines = count(len(self.shell.workers.entries) - others, "machine")
        unused = f", {count(others, 'machine')} of another Python unused" if others else ""
        return f"<minidask.Client {self.address} {machines}, {count(self.slots(), 'worker')}{unused}{self._link()}>"

    def __reduce__(self) -> Any:
        raise SerializationError(
            "a Client cannot be sent to a task or another process: in a task use what was submitted or scattered,"
            f" in a process make one with minidask.Client({self.address!r})"
        )

    def _link(self) -> str:
        link = self._dashboard_link()
        return f", dashboard {link}" if link else ""

    def _dashboard_link(self) -> DashboardLink | None:
        return self._dashboard.link if self._dashboard is not None and self._dashboard.running else None

    def _repr_html_(self) -> str:
        link = self._dashboard_link()
        title = repr(self).strip("<>").replace(self._link(), "")
        return client_table(title, self.shell.workers.entries) + (link._repr_html_() if link is not None else "")


def _retried(fn: Callable[..., Any], retries: Any, retry_on: Any) -> Callable[..., Any]:
    """Return what is sent in the place of a function whose calls are tried again; itself for no retries.

    Raises:
        TypeError, ValueError: `retries` is no whole number from 0 on, or `retry_on` no class of exceptions.
    """
    if type(retries) is int and not retries and retry_on is Exception:
        return fn
    retries, retry_on = checks.whole("retries", retries, 0), checks.exceptions("retry_on", retry_on)
    return Retried(fn, retries, retry_on) if retries else fn


def _done(owner: ClientShell, name: str, value: Any) -> Future:
    """A future whose task was over before."""
    future = Future(0, name, owner)
    future.set_running_or_notify_cancel()
    future.set_result(value)
    return future


def _futures(method: str, futures: Future | Iterable[Future]) -> list[Future]:
    found = [futures] if isinstance(futures, Future) else list(futures)
    for future in found:
        if not isinstance(future, Future):
            kind = type(future).__name__
            raise TypeError(f"{method}() takes the futures that submit() and map() return, not {kind}")
    return found
