"""The scheduler's core under any order of events, with its invariants checked after each of them."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, invariant, precondition, rule

from minidask.errors import ProtocolError
from minidask.host.versions import fits
from minidask.scheduler import invariants
from minidask.scheduler.amounts import free_of, suffice
from minidask.scheduler.attempts import MAX_DEATHS
from minidask.scheduler.core import HEARTBEAT_TIMEOUT, MOST_BETWEEN_TICKS, NO_WORKERS_SECONDS
from minidask.scheduler.events import Joined, Lagging, Left, Received, Tick
from minidask.scheduler.tasks import Cancelled, Ready, Running
from minidask.wire import messages as m
from tests.scheduler.bad_words import HUGE, bad_words_of_a_client, bad_words_of_a_worker
from tests.scheduler.book import Book

RESOURCES = st.sampled_from([{}, {}, {"gpu": 1}, {"gpu": 2}, {"gpu": 1, "big": 0.3}, {"big": 0.1}])
PYTHONS = st.sampled_from(["3.11.7", "3.11.2", "3.12.1", ""])


class SchedulerMachine(Book):
    """Clients and workers join, submit, finish, fail, die, cancel, go silent and vanish.

    The book, which the machine extends, checks each message that the core sends.
    """

    workers = Bundle("workers")
    clients = Bundle("clients")

    # --- peers ---

    @rule(
        target=workers, slots=st.integers(0, 3), prefetch=st.integers(0, 2), serves=st.booleans(), python=PYTHONS,
        resources=RESOURCES,
    )  # fmt: skip
    def worker_joins(self, slots: int, prefetch: int, serves: bool, python: str, resources: dict[str, float]) -> int:
        self.peers += 1
        self.holding[self.peers], self.blobs[self.peers], self.waiting[self.peers] = {}, set(), {}
        address = f"tcp://w:{self.peers}" if serves else ""
        info = {
            "name": f"w{self.peers}", "slots": slots, "prefetch": prefetch, "serves": address, "python": python,
            "resources": resources,
        }  # fmt: skip
        self.pythons[self.peers] = python
        self.send(Joined(self.peers, "worker", f"tcp://w:{self.peers}", info))
        return self.peers

    @rule(target=clients, python=PYTHONS)
    def client_joins(self, python: str) -> int:
        self.peers += 1
        self.wanted[self.peers], self.limits[self.peers] = set(), {}
        info = {"name": f"c{self.peers}", "python": python}
        self.send(Joined(self.peers, "client", f"tcp://c:{self.peers}", info))
        return self.peers

    @rule(worker=workers)
    def worker_vanishes(self, worker: int) -> None:
        self.forget_worker(worker)
        self.send(Left(worker, "gone"))

    @rule(target=clients, worker=workers)
    def a_slot_connects_for_its_tasks(self, worker: int) -> int:
        self.peers += 1
        self.wanted[self.peers], self.limits[self.peers] = set(), {}
        self.nested[worker] = self.peers
        info = {"name": "nested", "nested": True, "python": self.pythons[worker]}
        self.send(Joined(self.peers, "client", f"tcp://n:{self.peers}", info))
        return self.peers

    @rule(client=clients, lags=st.booleans())
    def client_lags(self, client: int, lags: bool) -> None:
        began = {worker: set(held) for worker, held in self.holding.items()}
        self.send(Lagging(client, lags))
        if lags:
            assert began == {worker: set(held) for worker, held in self.holding.items()}

    @rule(client=clients)
    def client_vanishes(self, client: int) -> None:
        self.wanted.pop(client, None)
        self.restarts = {key: workers for key, workers in self.restarts.items() if key[0] != client}
        self.send(Left(client, "gone"))

    # --- clients ---

    @rule(client=clients, limit=st.integers(0, 2))
    def client_opens_group(self, client: int, limit: int) -> None:
        if client in self.wanted:
            group = len(self.limits[client]) + 1
            self.limits[client][group] = limit
            self.send(Received(client, m.OpenGroup(group, limit, [])))

    @rule(
        client=clients,
        count=st.integers(1, 4),
        priority=st.integers(-1, 1),
        blob=st.sampled_from([b"", b"a" * 16, b"b" * 16, b"L" * 16, b"M" * 16]),
        group=st.integers(0, 3),
        pin=st.none() | workers,
        resources=RESOURCES,
    )
    def client_submits(
        self, client: int, count: int, priority: int, blob: bytes, group: int, pin: int | None,
        resources: dict[str, float],
    ) -> None:  # fmt: skip
        if client not in self.wanted:
            return
        if blob:
            large = m.OfferBlob(blob, 1 << 20, "place")
            self.send(Received(client, large if blob < b"a" else m.PutBlob(blob, [b"data"])))
        group = group if group in self.limits[client] and pin is None else 0
        pinned = f"tcp://w:{pin}" if pin is not None else None
        for _ in range(count):
            self.tasks += 1
            self.wanted[client].add(self.tasks)
            blobs = [blob] if blob else []
            needs = {} if pinned else resources
            submit = m.Submit(self.tasks, "f", priority, None, group, pinned, blobs, [], False, needs, [b"call"])
            self.send(Received(client, submit))
        if blob:
            self.send(Received(client, m.ReleaseBlobs([blob])))

    @rule(client=clients, force=st.booleans(), data=st.data())
    def client_cancels(self, client: int, force: bool, data: st.DataObject) -> None:
        if self.wanted.get(client):
            number = data.draw(st.sampled_from(sorted(self.wanted[client])))
            self.wanted[client].remove(number)
            self.send(Received(client, m.Cancel([number], force)))

    @rule(client=clients, force=st.booleans())
    def client_cancels_all(self, client: int, force: bool) -> None:
        if client in self.wanted:
            self.send(Received(client, m.CancelAll(force)))
            assert not self.wanted[client], "a task of a client that gave up on all was not told"

    @rule(client=clients)
    def client_wants_fresh_slots(self, client: int) -> None:
        if client in self.wanted:
            self.requests += 1
            self.restarts[client, self.requests] = set(self.holding)
            self.send(Received(client, m.Restart(self.requests)))

    @precondition(lambda self: self.told_to_restart)
    @rule(again=st.booleans(), data=st.data())
    def worker_has_fresh_slots(self, again: bool, data: st.DataObject) -> None:
        worker, number, asked = data.draw(st.sampled_from(self.told_to_restart))
        if worker in self.holding:
            self.restarts.get(asked, set()).discard(worker)
        if not again:
            self.told_to_restart.remove((worker, number, asked))
        self.report(worker, m.Restarted(number))

    @rule(client=clients, group=st.integers(1, 3))
    def client_closes_group(self, client: int, group: int) -> None:
        if client in self.wanted and group in self.limits[client]:
            self.send(Received(client, m.CloseGroup(group)))
            self.send(Received(client, m.OpenGroup(group, 0, [])))  # the number may be used again

    # --- tasks within tasks ---

    def held(self, worker: int, data: st.DataObject) -> m.Run | None:
        """One of the attempts that a worker holds."""
        held = self.holding.get(worker)
        return held[data.draw(st.sampled_from(sorted(held)))] if held else None

    @rule(
        worker=workers, count=st.integers(1, 4), limit=st.integers(0, 2), pin=st.none() | workers,
        resources=RESOURCES, data=st.data(),
    )  # fmt: skip
    def task_submits(
        self, worker: int, count: int, limit: int, pin: int | None, resources: dict[str, float], data: st.DataObject
    ) -> None:
        client, run = self.nested.get(worker, 0), self.held(worker, data)
        if run is None or client not in self.wanted:
            return
        group = len(self.limits[client]) + 1
        self.limits[client][group] = limit
        self.send(Received(client, m.OpenGroup(group, limit, [])))
        pinned = f"tcp://w:{pin}" if pin is not None else None
        for _ in range(count):
            self.tasks += 1
            self.wanted[client].add(self.tasks)
            submit = m.Submit(
                self.tasks,
                "g",
                0,
                None,
                group if pin is None else 0,
                pinned,
                [],
                [run.task, run.attempt],
                False,
                resources if pin is None else {},
                [b"call"],
            )
            self.send(Received(client, submit))

    @rule(worker=workers, data=st.data())
    def task_waits(self, worker: int, data: st.DataObject) -> None:
        run = self.held(worker, data)
        if run is not None and run.task not in self.waiting[worker]:
            self.waiting[worker][run.task] = 0
            self.report(worker, m.Waiting(run.task, run.attempt))

    @rule(worker=workers, data=st.data())
    def task_goes_on(self, worker: int, data: st.DataObject) -> None:
        """It does so when nothing runs in its slot; or what was sent there crosses with its word, and comes back."""
        run = self.held(worker, data)
        if run is not None and run.task in self.waiting[worker]:
            guest = self.holding[worker].pop(self.waiting[worker].pop(run.task), None)
            self.report(worker, m.Resumed(run.task, run.attempt))
            if guest is not None:
                self.waiting[worker].pop(guest.task, None)
                self.report(worker, m.GaveBack(guest.task, guest.attempt))

    # --- leases ---

    @rule(client=clients, count=st.integers(1, 3), priority=st.integers(-1, 1), group=st.integers(0, 3))
    def client_asks_for_leases(self, client: int, count: int, priority: int, group: int) -> None:
        if client not in self.wanted or self.core.clients[client].nested:
            return
        group = group if group in self.limits[client] else 0
        for _ in range(count):
            self.tasks += 1
            self.wanted[client].add(self.tasks)
            submit = m.Submit(self.tasks, "f", priority, None, group, None, [], [], True, {}, [b"queue"])
            self.send(Received(client, submit))

    @rule(worker=workers, raises=st.booleans(), data=st.data())
    def a_call_is_over(self, worker: int, raises: bool, data: st.DataObject) -> None:
        run = self.held(worker, data)
        if run is None:
            return
        said = (
            m.CallFailed(run.task, run.attempt, HUGE, 0.1, "traceback", [b"error"])
            if raises
            else m.CallDone(run.task, run.attempt, HUGE, 0.1, [b"result"])
        )
        told = self.core.handle(Received(worker, said), self.now)
        task = self.core.attempts.tasks.get(run.task)
        if run.lease and task is not None and isinstance(task.state, Running) and run.attempt == task.attempt:
            assert [(peer, type(message)) for peer, message in told] == [
                (run.client, m.TaskRaised if raises else m.TaskDone)
            ]
        else:
            assert told == []

    @rule(
        worker=workers,
        blob=st.sampled_from([b"a" * 16, b"b" * 16, b"L" * 16, b"M" * 16]),
        holds=st.booleans(),
        data=st.data(),
    )
    def a_call_wants_a_blob(self, worker: int, blob: bytes, holds: bool, data: st.DataObject) -> None:
        run = self.held(worker, data)
        if run is None or not run.lease or run.client not in self.wanted:
            return
        if not holds:
            blob = b"n" * 16  # that nobody ever announces
        else:
            large = m.OfferBlob(blob, 1 << 20, "place")
            self.send(Received(run.client, large if blob < b"a" else m.PutBlob(blob, [b"data"])))
        said = self.core.handle(Received(worker, m.WantBlobs(run.task, run.attempt, [blob])), self.now)
        if not isinstance(self.core.attempts.tasks[run.task].state, Running):
            assert said == [], "a lease that was cancelled, or whose result is being delivered, runs no calls"
        elif holds:
            self.wanted_by_calls.setdefault((worker, run.task), set()).add(blob)
            self.deliver(said)
            assert blob in self.blobs[worker] or (worker, run) in self.undone, "it neither came nor will not come"
        else:
            assert said == [], "it may come yet"
        if holds:
            self.send(Received(run.client, m.ReleaseBlobs([blob])))

    # --- workers ---

    @rule(worker=workers, duration=st.sampled_from([0.001, 1.0]), data=st.data())
    def worker_finishes(self, worker: int, duration: float, data: st.DataObject) -> None:
        run = self.take(worker, data)
        if run is not None:
            self.report(worker, m.Done(run.task, run.attempt, duration, [b"result"]))

    @rule(worker=workers, data=st.data())
    def worker_offers_a_result(self, worker: int, data: st.DataObject) -> None:
        if self.holding.get(worker):
            run = self.holding[worker][data.draw(st.sampled_from(sorted(self.holding[worker])))]
            self.offer(worker, run, m.OfferResult(run.task, run.attempt, b"r" * 16, 9))

    def offer(self, worker: int, run: m.Run, offer: m.OfferResult) -> None:
        said = self.core.handle(Received(worker, offer), self.now)
        answer = type(said[-1][1])
        assert answer in (m.ResultOffered, m.ResultTaken)
        if answer is m.ResultOffered and self.waiting[worker].get(run.host) == run.task:
            self.waiting[worker][run.host] = 0  # it runs no more
        if answer is m.ResultOffered:
            self.waiting[worker].pop(run.task, None)  # and lends no slot
            self.offered.add((worker, run.task))
        self.deliver(said)  # the ends of the tasks within
        self.send(Tick())

    @rule(worker=workers, data=st.data())
    def task_tells_its_caller_something(self, worker: int, data: st.DataObject) -> None:
        run = self.held(worker, data)
        if run is not None:
            said = self.core.handle(Received(worker, m.TaskMessage(run.task, run.attempt, "channel", [b"x"])), self.now)
            assert said == [(run.client, m.CallerMessage("channel", [b"x"]))], "it is for whoever made the outermost"

    @rule(worker=workers, client=clients)
    def parts_of_results_go_to_and_fro(self, worker: int, client: int) -> None:
        if client in self.wanted:
            wanted = self.core.handle(Received(client, m.FetchChunk(b"r" * 16, 0, 1, worker)), self.now)
            assert [peer for peer, _ in wanted] == [worker if worker in self.holding else client]
            if worker in self.holding:
                part = m.Chunk(b"r" * 16, 0, client, [b"x"])
                sent = self.core.handle(Received(worker, part), self.now)
                assert sent == [(client, part._replace(peer=worker))]

    @rule(worker=workers, data=st.data())
    def task_raises(self, worker: int, data: st.DataObject) -> None:
        run = self.take(worker, data)
        if run is not None:
            self.report(worker, m.Failed(run.task, run.attempt, 0.1, "traceback", [b"error"]))

    @rule(worker=workers, data=st.data())
    def slot_dies(self, worker: int, data: st.DataObject) -> None:
        run = self.take(worker, data)
        if run is not None:
            self.report(worker, m.Died(run.task, run.attempt, "SIGSEGV", "a crash"))

    @rule(worker=workers, reason=st.sampled_from(["cancelled", "timeout"]), data=st.data())
    def worker_stops_task(self, worker: int, reason: str, data: st.DataObject) -> None:
        run = self.take(worker, data)
        if run is not None:
            self.report(worker, m.Stopped(run.task, run.attempt, reason, "stopped"))

    @rule(worker=workers, data=st.data())
    def worker_returns_task(self, worker: int, data: st.DataObject) -> None:
        run = self.take(worker, data)
        if run is not None:
            self.report(worker, m.GaveBack(run.task, run.attempt))

    @precondition(lambda self: self.fetching)
    @rule(works=st.booleans(), data=st.data())
    def worker_has_fetched_or_could_not(self, works: bool, data: st.DataObject) -> None:
        worker, blob = data.draw(st.sampled_from(sorted(self.fetching)))
        source = self.fetching.pop((worker, blob))
        if works:
            self.failed = {entry for entry in self.failed if entry[:2] != (worker, blob)}
            self.report(worker, m.HaveBlob(blob))
        else:
            self.failed.add((worker, blob, int(source.rpartition(":")[2]) if source else 0))
            self.report(worker, m.FetchFailed(blob, source, "gone"))

    @precondition(lambda self: self.fetching)
    @rule(data=st.data(), client=clients)
    def parts_go_to_and_fro(self, data: st.DataObject, client: int) -> None:
        worker, blob = data.draw(st.sampled_from(sorted(self.fetching)))
        wanted = self.core.handle(Received(worker, m.FetchChunk(blob, 0, 1, 0)), self.now)
        assert [type(message) for _, message in wanted] in ([m.FetchChunk], [m.NoBlob])
        if client in self.wanted:
            sent = self.core.handle(Received(client, m.Chunk(blob, 0, worker, [b"x"])), self.now)
            due = not self.fetching[worker, blob] and wanted[0][0] == client
            assert [peer for peer, _ in sent] == ([worker] if due else []), "only of the client that was asked"

    @rule(data=st.data())
    @precondition(lambda self: self.stale)
    def worker_repeats_itself(self, data: st.DataObject) -> None:
        worker, run = data.draw(st.sampled_from(self.stale))
        if run.task not in self.holding.get(worker, {}):
            self.report(worker, m.Done(run.task, run.attempt, 0.1, [b"late"]))

    @rule(worker=workers, slots=st.integers(0, 3))
    def worker_is_resized(self, worker: int, slots: int) -> None:
        self.report(worker, m.Resized(slots))

    # --- what nobody may say ---

    def say_badly(self, peer: int, message: m.Message) -> bool:
        """Whether the core puts up with it; the shell ends the connection if not."""
        try:
            self.send(Received(peer, message))
        except ProtocolError:
            return False
        return True

    @rule(worker=workers, which=st.integers(0, 100), data=st.data())
    def worker_talks_nonsense(self, worker: int, which: int, data: st.DataObject) -> None:
        if worker in self.holding:
            run = self.held(worker, data)
            words = bad_words_of_a_worker(*((run.task, run.attempt) if run is not None else (HUGE, 1)))
            word = words[which % len(words)]
            if isinstance(word, m.OfferResult) and run is not None:
                self.offer(worker, run, word)  # the wire sees to what is wrong with it
            elif not self.say_badly(worker, word):
                self.worker_vanishes(worker)

    @rule(client=clients, which=st.integers(0, 100))
    def client_talks_nonsense(self, client: int, which: int) -> None:
        if client in self.wanted:
            words = bad_words_of_a_client(min(self.wanted[client], default=-2))
            word = words[which % len(words)]
            if isinstance(word, m.Submit):
                self.wanted[client].add(word.task)
            if not self.say_badly(client, word):
                self.client_vanishes(client)

    # --- time ---

    @rule(seconds=st.sampled_from([1.0, HEARTBEAT_TIMEOUT + 1, NO_WORKERS_SECONDS + 1]), data=st.data())
    def time_passes(self, seconds: float, data: st.DataObject) -> None:
        """In steps that count in full: more time between two ticks is one in which the scheduler stood still."""
        heard = [worker for worker in self.holding if data.draw(st.booleans())]
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + MOST_BETWEEN_TICKS)
            for worker in heard:
                self.report(worker, m.Heartbeat(0))
            self.send(Tick())

    @rule(seconds=st.sampled_from([HEARTBEAT_TIMEOUT + 1, 3600.0]))
    def scheduler_stands_still(self, seconds: float) -> None:
        """What the workers have sent meanwhile is not read yet."""
        for worker in self.holding:
            self.report(worker, m.Heartbeat(0))
        self.send(Tick())
        there = set(self.core.workers)
        self.now += seconds
        self.send(Tick())
        assert set(self.core.workers) == there

    # --- what must hold ---

    @invariant()
    def state_is_consistent(self) -> None:
        invariants.check(self.core)

    @invariant()
    def every_wanted_task_is_known(self) -> None:
        for client, numbers in self.wanted.items():
            assert numbers <= self.core.clients[client].tasks.keys(), "a task was lost without a word"

    @invariant()
    def whoever_waits_for_fresh_slots_does_so_for_these_workers(self) -> None:
        waiters = self.core.restarts.waiters.values()
        assert {(waiter.client, waiter.request): waiter.workers for waiter in waiters} == self.restarts

    @invariant()
    def no_slot_idles_beside_work(self) -> None:
        if self.core.pool.idle:
            assert self.core.ready.peek(self.core.pool.idle) is None
        for task in self.core.attempts.tasks.values():
            may_begin = not (task.group and task.group.full) and not task.root.lags
            if task.needs and isinstance(task.state, Ready) and may_begin:
                assert not self.core.pool.has_room(task.client.python, task.needs), f"{task} could begin"

    @invariant()
    def whoever_may_have_a_lease_back_has_one_asked_for(self) -> None:
        self.check_leases()

    @invariant()
    def no_lent_slot_idles_beside_work(self) -> None:
        assert self.core.nesting.next_assignment() is None
        for task in self.core.attempts.tasks.values():
            if not isinstance(task.state, Ready) or task.pin is not None or (task.group and task.group.full):
                continue
            host = task.parent
            while host is not None:
                if host.nest is not None and host.nest.can_host:
                    assert isinstance(host.state, Running | Cancelled)
                    assert not suffice(free_of(host.state.worker, host), task.needs), f"{task} could be a guest"
                host = host.parent

    @invariant()
    def whoever_runs_batches_of_its_own_knows_of_idle_slots(self) -> None:
        for peer, (client, groups) in self.core.idle_notices.subscribers.items():
            above = [task.parent for task in groups.values() if task is not None]
            for task in above:
                above += [task.parent] if task is not None else []
            hosts = [task for task in above if task is not None and task.nest is not None and task.nest.can_host]
            assert self.idle[peer] == (fits(client.python, self.core.pool.idle) or bool(hosts))

    @invariant()
    def nobody_dies_too_often(self) -> None:
        assert all(task.deaths < MAX_DEATHS for task in self.core.attempts.tasks.values())

    def teardown(self) -> None:
        """When every client has gone and every worker has reported, nothing is left."""
        for client in list(self.wanted):
            self.client_vanishes(client)
        for worker in list(self.holding):
            for run in list(self.holding[worker].values()):
                self.report(worker, m.Done(run.task, run.attempt, 0.1, [b"result"]))
        assert not self.core.attempts.tasks
        assert not self.core.blobs.records
        assert not len(self.core.ready)


SchedulerMachine.TestCase.settings = settings(max_examples=400, stateful_step_count=50, deadline=None)
TestScheduler: Any = pytest.mark.timeout(240)(SchedulerMachine.TestCase)
