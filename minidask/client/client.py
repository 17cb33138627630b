"""`minidask.Client`: the way into a cluster, from any thread of the user's process.

A `Client` checks what users pass and words what they read; the work is done by its `ClientShell`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from minidask.client.connecting import Entry, connect, own_name
from minidask.client.executor import ClientExecutor
from minidask.client.future import Future
from minidask.client.gather import gathered
from minidask.client.group import TaskGroup
from minidask.client.looking import ClusterView
from minidask.client.places import ClusterOfProgram, address_in, address_of, address_of_environment
from minidask.client.registry import live_clients, remove
from minidask.client.returning import Return
from minidask.client.shell import NONE, ClientShell
from minidask.client.versions import VersionWatch, warn_of_left_out
from minidask.errors import MinidaskError, NoWorkersError, SerializationError
from minidask.host import checks
from minidask.host.folders import sweep
from minidask.host.packages import versions
from minidask.host.sizes import count
from minidask.net.tls_options import TLSFiles, checked_tls
from minidask.pickling.functions import name_of
from minidask.pickling.scattered import Scattered
from minidask.task.preload import import_modules
from minidask.task.retries import Retried
from minidask.wire.messages import Shutdown

if TYPE_CHECKING:
    from minidask.local.cluster import LocalCluster

RECONNECT_SECONDS = 60.0


class Client(ClusterView):
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
        self._refuse_in_task("restart")
        if self._ask(self.shell.restart, timeout) is None:
            raise NoWorkersError(
                f"not all workers of the cluster at {self.address} were replaced within {count(timeout, 'second')}:"
                " those that run tasks of other clients are when these end, the others as soon as they can start"
            )

    def preload(self, *modules: str, timeout: float | None = 60.0) -> None:
        """Have all workers import modules now, so that no first call waits for that: `client.preload("sklearn")`.

        Each worker is replaced by a fresh one, as by `restart`, but no task is cancelled: one that works is replaced
        when its task has ended. Workers that these machines start later import the modules too. For machines that join
        later, see `minidask-worker --preload`.

        Args:
            modules: names, as "sklearn.ensemble".
            timeout: seconds to wait until all workers are ready, 0 or more; None: the client's own.

        Raises:
            TypeError, ValueError: there is no module, one has no name of a module, or the timeout makes no sense.
            ImportError: a machine cannot import one. Nothing has changed then.
            Exception: what else a module raises when it is imported; what `run` raises.
            NoWorkersError: not all workers are ready by then; they are still replaced.
            MinidaskError: a task calls this, and its own worker would have to go.
        """
        __tracebackhide__ = True
        timeout = self.timeout if timeout is None else checks.seconds("timeout", timeout)
        if not modules:
            raise TypeError("preload() needs at least one name of a module")
        for name in modules:
            if not isinstance(name, str):
                raise TypeError(f"preload() takes names of modules, got {name!r}")
            if not checks.is_module_name(name):
                raise ValueError(f"{name!r} is no name of a module, as sklearn.ensemble is")
        self._refuse_in_task("preload")
        self.run(import_modules, list(modules))
        if self._ask(functools.partial(self.shell.preload, modules=list(dict.fromkeys(modules))), timeout) is None:
            raise NoWorkersError(
                f"not all workers of the cluster at {self.address} have imported {', '.join(modules)} within"
                f" {count(timeout, 'second')}: those that run tasks do it after these, the others as soon as they can"
            )

    def _refuse_in_task(self, method: str) -> None:
        self.shell.check()
        if self.shell.parent():
            raise MinidaskError(
                f"a task cannot {method}() the workers, as it runs in one of them: do it where it is from"
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

    # --- the end ---

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

    def __reduce__(self) -> Any:
        raise SerializationError(
            "a Client cannot be sent to a task or another process: in a task use what was submitted or scattered,"
            f" in a process make one with minidask.Client({self.address!r})"
        )


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
