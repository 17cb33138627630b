"""Leases of several clients and groups on one machine, in any order of events: all get their turn."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import initialize, invariant, precondition, rule

from minidask.scheduler import invariants
from minidask.scheduler.events import Joined, Received
from minidask.scheduler.tasks import Running
from minidask.wire import messages as m
from tests.scheduler.book import Book

FIRST, SECOND, SLOT, WORKER = 1, 2, 3, 4
CLIENTS = st.sampled_from([FIRST, SECOND])
QUEUES, TASKS = st.integers(1, 2), 3


class LeaseMachine(Book):
    """Clients ask for leases and submit tasks; leases end, die and are given back. In the end all tasks had a slot."""

    @initialize(slots=st.integers(1, 4), limit=st.integers(0, 2))
    def all_join(self, slots: int, limit: int) -> None:
        self.holding[WORKER], self.blobs[WORKER], self.waiting[WORKER] = {}, set(), {}
        self.send(Joined(WORKER, "worker", "w", {"slots": slots}))
        for client in (FIRST, SECOND, SLOT):
            self.wanted[client] = set()
            self.send(Joined(client, "client", "c", {"nested": client == SLOT}))
            for group in (1, 2, 3):
                self.send(Received(client, m.OpenGroup(group, 0 if group == 1 else limit, [])))

    def submit(self, client: int, message: m.Submit) -> None:
        self.tasks += 1
        self.wanted[client].add(self.tasks)
        self.send(Received(client, message._replace(task=self.tasks)))

    @rule(client=CLIENTS, group=QUEUES, count=st.integers(1, 3))
    def client_asks_for_leases(self, client: int, group: int, count: int) -> None:
        for _ in range(count):
            self.submit(client, m.Submit(0, "f", 0, None, group, None, [], [], True, {}, [b"queue"]))

    @rule(
        client=CLIENTS,
        group=st.sampled_from([0, 0, TASKS]),
        priority=st.integers(-1, 1),
        pin=st.sampled_from([None, None, None, "w"]),
    )
    def client_submits(self, client: int, group: int, priority: int, pin: str | None) -> None:
        group = group if pin is None else 0
        self.submit(client, m.Submit(0, "f", priority, None, group, pin, [], [], False, {}, [b"call"]))

    @precondition(lambda self: self.holding[WORKER])
    @rule(data=st.data())
    def a_call_submits(self, data: st.DataObject) -> None:
        run = self.holding[WORKER][data.draw(st.sampled_from(sorted(self.holding[WORKER])))]
        self.submit(SLOT, m.Submit(0, "g", 0, None, 0, None, [], [run.task, run.attempt], False, {}, [b"call"]))

    @rule(client=CLIENTS, force=st.booleans(), data=st.data())
    def client_cancels(self, client: int, force: bool, data: st.DataObject) -> None:
        if self.wanted[client]:
            number = data.draw(st.sampled_from(sorted(self.wanted[client])))
            self.wanted[client].remove(number)
            self.send(Received(client, m.Cancel([number], force)))

    @precondition(lambda self: self.holding[WORKER])
    @rule(how=st.sampled_from(["done", "done", "done", "failed", "died", "stopped", "given back"]), data=st.data())
    def what_runs_is_over(self, how: str, data: st.DataObject) -> None:
        asked = sorted(run.task for run in self.holding[WORKER].values() if run[:2] in self.asked_back)
        run = self.take(WORKER, data) if not asked or data.draw(st.booleans()) else self.holding[WORKER].pop(asked[0])
        assert run is not None
        self.asked_back.pop((run.task, run.attempt), None)
        words: dict[str, m.Message] = {
            "done": m.Done(run.task, run.attempt, 0.1, [b"result"]),
            "failed": m.Failed(run.task, run.attempt, 0.1, "traceback", [b"error"]),
            "died": m.Died(run.task, run.attempt, "SIGKILL", "?"),
            "stopped": m.Stopped(run.task, run.attempt, "cancelled", "?"),
            "given back": m.GaveBack(run.task, run.attempt),
        }
        self.report(WORKER, words[how])

    def wants(self, run: m.Run) -> bool:
        """Whether the lease's client has not cancelled it."""
        return run.task in self.core.attempts.tasks and isinstance(self.core.attempts.tasks[run.task].state, Running)

    @invariant()
    def state_is_consistent(self) -> None:
        invariants.check(self.core)

    @invariant()
    def whoever_may_have_a_lease_back_has_one_asked_for(self) -> None:
        self.check_leases()

    @invariant()
    def what_is_asked_back_in_the_core_is_what_workers_were_told(self) -> None:
        leases = self.core.attempts._leases
        told = {task: after for (task, _), after in self.asked_back.items()}
        assert leases._asked == told
        running = {
            task.id for task in self.core.attempts.tasks.values() if task.lease and task.id in self.holding[WORKER]
        }
        assert leases._running.keys() == running

    @invariant()
    def leases_that_are_over_are_counted_nowhere(self) -> None:
        for client in self.core.clients.values():
            leases = sum(task.lease for task in client.tasks.values())
            plain = client.counts.unfinished - leases
            assert plain >= 0 and (client.nested or plain == sum(not task.lease for task in client.tasks.values()))

    def teardown(self) -> None:
        """As long as leases end that are asked for, and only those, every task gets a slot that may have a lease back.

        A lease that has ended is asked for again, as a client does whose calls are left.
        """
        tasks = self.core.attempts.tasks
        entitled = {task.id for task in tasks.values() if not task.lease and not task.parent and task.priority >= 0}
        for _ in range(100):
            if not entitled & tasks.keys():
                return
            held = self.holding[WORKER].values()
            ending = [run for run in held if not run.lease or run[:2] in self.asked_back or not self.wants(run)]
            assert ending, "tasks wait, leases run, and none is asked for"
            for run in ending:
                task, again = tasks.get(run.task), run.lease and self.wants(run)
                if self.holding[WORKER].pop(run.task, None) is None:
                    continue  # its parent has ended
                self.asked_back.pop((run.task, run.attempt), None)
                self.report(WORKER, m.Done(run.task, run.attempt, 0.1, [b"result"]))
                if task is not None and again and task.group is not None:
                    lease = m.Submit(0, "f", 0, None, task.group.number, None, [], [], True, {}, [b"queue"])
                    self.submit(task.client.peer, lease)
        raise AssertionError(f"these never get a slot: {entitled & tasks.keys()}")


LeaseMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestLeases: Any = pytest.mark.timeout(240)(LeaseMachine.TestCase)
