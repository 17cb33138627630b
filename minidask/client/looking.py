"""What a client can be asked about its cluster: the part of `minidask.Client` that submits nothing.

questions ─► shell ─ Ask, Explain ─► scheduler ─ Answer ─► here
events, trace, dashboard: those who look while something happens
"""

from __future__ import annotations

import contextlib
import functools
import queue
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minidask.client.core import OnAnswer
from minidask.client.eventreader import EventReader
from minidask.client.events import ClusterEvent, EventDecoder, why_of
from minidask.client.future import Future
from minidask.client.glance import glance, names_of, shown
from minidask.client.screen import client_table
from minidask.client.shell import ClientShell
from minidask.client.state import ClusterState
from minidask.client.stories import UNKNOWN, Story, story_of
from minidask.client.versions import all_versions
from minidask.errors import MinidaskError, NoWorkersError, SchedulerLost, VersionMismatch
from minidask.host import checks
from minidask.host.logs import MOST_LINES
from minidask.host.packages import versions
from minidask.host.sizes import count
from minidask.host.texts import printable
from minidask.net.tls_options import TLSChoice
from minidask.pickling.scattered import Scattered
from minidask.wire.large import LARGE_BYTES

if TYPE_CHECKING:
    from minidask.client.dashboards import DashboardLink, DashboardProcess

LEASES_SECONDS = 0.5
"""A question waits so long for leases without calls to end. Those that have not begun may wait for others' tasks."""
PROCESSING_SECONDS, SHOWN_SECONDS = 3.0, 1.5
"""How long machines are waited for, to tell what runs there."""


class ClusterView:
    """A cluster, seen by one of its clients. The base of `Client`, which sets the attributes."""

    shell: ClientShell
    timeout: float
    access_file: str | None
    tls: TLSChoice
    _dashboard: DashboardProcess | None = None

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

        A machine is `usable` if it runs tasks of this client: the first two numbers of its Python are the same. `needs`
        has how many of the queued tasks need which resources.

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

    def processing(self, workers: str | Iterable[str] | None = None) -> dict[str, list[str]]:
        """Return what runs where now: `{machine's address: [name of the call in each busy worker]}`.

        Calls of `Parallel` are among them. It takes half a second, as the machines are asked. One that does not answer
        within 3 seconds is left out.

        Args:
            workers: the address or name of a machine, or several; None: all.

        Raises:
            TypeError, ValueError: there is no such machine.
            SchedulerLost: there is no connection any more, or no answer.
        """
        chosen = self._chosen(workers)
        machines = self._glance(PROCESSING_SECONDS).machines
        return {a: names_of(machines[a]) for a in chosen if a in machines and machines[a].usage}

    def who_has(self, data: Scattered | Iterable[Scattered] | None = None) -> dict[Any, list[str]]:
        """Return which machines have scattered data: `{handle: [machine's address]}`.

        A machine gets data when its first task needs it. On one machine all share what is there from the start.
        Results of tasks are not on machines: they are sent to the client.

        Args:
            data: what `scatter` has returned; None: all large data of all clients, be it scattered, in arguments,
                or a client's own modules, by its id.

        Raises:
            TypeError: it is something else, such as a future.
            ValueError: it was released, or another client has scattered it.
            SchedulerLost: there is no connection any more, or no answer within the client's timeout.
        """
        several = isinstance(data, Iterable) and not isinstance(data, Scattered)
        handles: list[Any] = [] if data is None else list(data) if several else [data]  # type: ignore[arg-type]
        for handle in handles:
            if not isinstance(handle, Scattered):
                raise TypeError(f"who_has() takes what scatter() has returned, not {type(handle).__name__}")
            if not handle.is_of(self.shell.blobs):
                raise ValueError(f"{handle!r} was released, or is another client's")
        with self.events() as events:
            known = self._answered(glance(events, self.timeout, wait=False)).data
        if data is None:
            return {blob: machines for blob, (size, machines) in known.items() if size >= LARGE_BYTES}
        found = {}
        for handle in handles:
            each = [known.get(blob.hex(), (0, []))[1] for blob in handle.refers_to or [handle.blob]]
            found[handle] = [address for address in each[0] if all(address in machines for machines in each)]
        return found

    def _chosen(self, workers: str | Iterable[str] | None) -> list[str]:
        """The addresses of these machines."""
        entries = self.shell.workers.entries
        if workers is None:
            return list(entries)
        found = []
        several = isinstance(workers, Iterable) and not isinstance(workers, str)
        for wanted in workers if several else [workers]:
            if not isinstance(wanted, str):
                raise TypeError(f"workers must be addresses or names of machines, got {wanted!r}")
            named = [address for address, worker in entries.items() if wanted in (address, worker.name)]
            if not named:
                names = ", ".join(worker.name for worker in entries.values()) or "none"
                raise ValueError(f"there is no machine {wanted!r}; those that are there: {names}")
            found += named
        return found

    def _glance(self, seconds: float) -> ClusterState:
        with self.events() as events:
            return self._answered(glance(events, min(seconds, self.timeout)))

    def _answered(self, state: ClusterState | None) -> ClusterState:
        if state is None:
            self.shell.check()
            raise SchedulerLost(f"the scheduler did not answer within {self.timeout:g} seconds")
        return state

    def logs(self, worker: str | Iterable[str] | None = None, n: int = 100) -> dict[str, list[str]]:
        """Return the last lines of the daemons' logs: `{"scheduler": [line], machine's address: [line]}`.

        Each daemon keeps its last 1,000 lines, from level "info" on, or from "debug" on with `--log-level debug`. On
        one machine, scheduler and worker are one daemon. With `processes=False` there is none: see this process's own
        `logging`.

        Args:
            worker: the address or name of a machine, or several: theirs alone; None: all, and the scheduler's.
            n: how many lines of each, 1 to 1,000.

        Raises:
            TypeError, ValueError: there is no such machine, or `n` makes no sense.
            SchedulerLost: there is no connection any more, or no answer within the client's timeout.
            MinidaskError: that machine does not answer. If several are asked, its line says so.
        """
        n = checks.whole("n", n, 1, MOST_LINES)
        chosen = [*self._chosen(worker), *([""] if worker is None else [])]
        self.shell.check()
        answers: dict[str, queue.SimpleQueue[dict[str, Any] | None]] = {}
        for machine in chosen:
            answers[machine] = queue.SimpleQueue()
            self.shell.read_log(answers[machine].put, machine, n)
        end = time.monotonic() + self.timeout
        found = {}
        for machine, answer in answers.items():
            info: dict[str, Any] | None = {"error": f"there was no answer within {self.timeout:g} seconds"}
            with contextlib.suppress(queue.Empty):
                info = answer.get(timeout=max(0.0, end - time.monotonic()))
            if info is None:
                raise SchedulerLost(self.shell.core.why_closed)
            if "error" in info and len(answers) == 1:
                raise MinidaskError(f"the log of {machine} cannot be read: {printable(str(info['error']))}")
            lines = info.get("lines", [f"(the log cannot be read: {info.get('error')})"])
            known = [line for line in lines if isinstance(line, str)] if isinstance(lines, list) else []
            found[machine or "scheduler"] = [printable(line, keep="\n") for line in known[-n:]]
        return found

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
        numbered = self._numbered("explain", task)
        if isinstance(task, Future) and task.done():
            return f"it is over: {'it was cancelled' if task.cancelled() else 'its future has the outcome'}"
        return why_of(self._explained(*numbered))

    def story(self, task: Future | int) -> Story:
        """Tell what has become of a task: when it was submitted, where its attempts ran, how each has ended, and why.

        Of a future, all is told. Of any other task the scheduler knows what has died, and what runs now; it forgets
        the tasks that are over, but the last 1,000 of which an attempt has died.

        Args:
            task: a future of this client, or the scheduler's number of any task, as events have it.

        Returns:
            Print it to read it. A task of which nothing is known is "unknown", and has no steps.

        Raises:
            TypeError, ValueError: it is neither, or another client's future.
            SchedulerLost: there is no connection any more, or no answer within the client's timeout.
        """
        own, asked = self._numbered("story", task)
        info = self._explained(own, asked)
        number = info.get("task")
        number = number if type(number) is int and number > 0 else 0 if own else asked
        now = info.get("now")
        told = EventDecoder().of_rows(info.get("rows"), now, time.time()) if type(now) is float else []
        events = [event._replace(task=number) for event in told]
        if isinstance(task, Future):
            events = _with_future(task, number, events)
        story = story_of(events) or Story(f"t{number}", "", state=UNKNOWN)
        return story.named({address: worker.name for address, worker in self.shell.workers.entries.items()})

    def _numbered(self, method: str, task: Future | int) -> tuple[bool, int]:
        """Check a task that a method was given. Returns whether its number is this client's own, and the number."""
        if not isinstance(task, Future):
            return False, checks.whole(f"the task that {method}() takes, if it is no future,", task, 1)
        if not task.is_of(self.shell):
            raise ValueError(f"{method}() takes futures of its own client; {task!r} is another one's: ask that")
        return True, task.number

    def _explained(self, own: bool, number: int) -> dict[str, Any]:
        """The scheduler's answer to the question where a task is."""
        info = self._ask(functools.partial(self.shell.explain, task=number, own=own), self.timeout)
        if info is None:
            raise SchedulerLost(f"the scheduler did not answer within {self.timeout:g} seconds")
        return info

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

    @property
    def closed(self) -> bool:
        """Whether this client was closed, has lost its scheduler, or belongs to a parent process."""
        return self.shell.core.closed

    def __repr__(self) -> str:
        if self.closed:
            return f"<minidask.Client closed: {self.shell.core.why_closed or 'this is a forked process'}>"
        others = len(self.shell.workers.unusable())
        machines = count(len(self.shell.workers.entries) - others, "machine")
        unused = f", {count(others, 'machine')} of another Python unused" if others else ""
        return f"<minidask.Client {self.address} {machines}, {count(self.slots(), 'worker')}{unused}{self._link()}>"

    def _link(self) -> str:
        link = self._dashboard_link()
        return f", dashboard {link}" if link else ""

    def _dashboard_link(self) -> DashboardLink | None:
        return self._dashboard.link if self._dashboard is not None and self._dashboard.running else None

    def _repr_html_(self) -> str:
        link = self._dashboard_link()
        title = repr(self).strip("<>").replace(self._link(), "")
        runs: dict[str, str] = {}
        if not self.closed:
            with contextlib.suppress(MinidaskError):  # the connection is being lost: the rest can be shown all the same
                runs = {a: shown(machine) for a, machine in self._glance(SHOWN_SECONDS).machines.items()}
        return client_table(title, self.shell.workers.entries, runs) + (link._repr_html_() if link is not None else "")


def _with_future(future: Future, number: int, told: list[ClusterEvent]) -> list[ClusterEvent]:
    """All that has happened to a future's task: what its client knows, and in between what the scheduler has told."""
    task = ClusterEvent("", 0.0, task=number, name=printable(future.name))
    events = [task._replace(kind="submitted", time=future.submitted), *told]
    if future.done():
        known = bool(told) and told[-1].kind == "started"  # it has ended while the scheduler was asked
        if future.duration is not None and future.worker is not None and not known:
            attempt = 1 + max((event.attempt for event in told), default=0)
            began = max(future.submitted, future.ended - future.duration)
            events.append(task._replace(kind="started", time=began, machine=printable(future.worker), attempt=attempt))
        seconds = future.duration or 0.0
        events.append(
            task._replace(kind="ended", time=future.ended, how=future.how, text=printable(future.why), seconds=seconds)
        )
    return events
