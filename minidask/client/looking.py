"""What a client can be asked about its cluster: the part of `minidask.Client` that submits nothing.

questions ─► shell ─ Ask, Explain ─► scheduler ─ Answer ─► here
events, trace, dashboard: those who look while something happens
"""

from __future__ import annotations

import contextlib
import functools
import queue
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minidask.client.core import OnAnswer
from minidask.client.eventreader import EventReader
from minidask.client.events import why_of
from minidask.client.future import Future
from minidask.client.screen import client_table
from minidask.client.shell import ClientShell
from minidask.client.versions import all_versions
from minidask.errors import MinidaskError, NoWorkersError, SchedulerLost, VersionMismatch
from minidask.host import checks
from minidask.host.packages import versions
from minidask.host.sizes import count
from minidask.host.texts import printable
from minidask.net.tls_options import TLSChoice

if TYPE_CHECKING:
    from minidask.client.dashboards import DashboardLink, DashboardProcess

LEASES_SECONDS = 0.5
"""A question waits so long for leases without calls to end. Those that have not begun may wait for others' tasks."""


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
        return client_table(title, self.shell.workers.entries) + (link._repr_html_() if link is not None else "")
