"""`client.restart()`: fresh slots on all machines, and nobody else's work is lost."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

import minidask
from minidask import errors
from minidask.scheduler import invariants
from minidask.scheduler.core import Outbox, SchedulerCore
from minidask.scheduler.events import Event, Joined, Left, Received
from minidask.wire import messages as m
from minidask.worker import core as w
from tests.helpers import Programs, wait_until
from tests.worker.test_core import Rig, done

# --- the worker's core ---


def restart(rig: Rig, request: int = 1) -> list[w.Effect]:
    return rig.do(w.FromScheduler(m.Restart(request)))


def test_idle_slots_are_replaced_at_once_and_it_is_told_when_the_old_are_gone_and_the_fresh_are_ready() -> None:
    rig = Rig(2)
    assert restart(rig) == [w.Retire(0), w.Spawn(2), w.Retire(1), w.Spawn(3)]
    assert rig.do(w.FromSlot(2, m.SlotReady())) == []
    assert rig.do(w.SlotExited(0, "exit code 0", "")) == []
    assert rig.do(w.FromSlot(3, m.SlotReady())) == []
    assert rig.do(w.SlotExited(1, "exit code 0", "")) == [w.ToScheduler(m.Restarted(1))]
    assert rig.core.next_deadline() is None


def test_a_busy_slot_is_replaced_when_its_call_is_over() -> None:
    rig = Rig()
    rig.run(1)
    rig.run(2)
    assert restart(rig) == []
    assert rig.do(w.FromSlot(0, done(1))) == [w.ToScheduler(done(1)), w.Retire(0), w.Spawn(1)]
    assert rig.do(w.SlotExited(0, "exit code 0", "")) == []
    assert rig.do(w.FromSlot(1, m.SlotReady()))[1:] == [w.ToScheduler(m.Restarted(1))]
    assert rig.core.running(1) is not None, "what waited there runs in the fresh one"


def test_a_slot_whose_call_is_killed_is_replaced_once() -> None:
    rig = Rig()
    rig.run(1)
    rig.do(w.FromScheduler(m.Stop(1, 1)))
    restart(rig)
    assert rig.pass_time(w.GRACE_SECONDS) == [w.Kill(0)]
    stopped = m.Stopped(1, 1, "cancelled", "it was cancelled")
    assert rig.do(w.SlotExited(0, "SIGKILL", "?")) == [w.ToScheduler(stopped), w.Spawn(0)]
    assert rig.do(w.FromSlot(0, m.SlotReady())) == [w.ToScheduler(m.Restarted(1))]


def test_a_slot_that_does_not_end_is_killed() -> None:
    rig = Rig()
    restart(rig)
    rig.do(w.FromSlot(1, m.SlotReady()))
    assert rig.core.next_deadline() == w.RETIRE_SECONDS
    assert rig.pass_time(w.RETIRE_SECONDS) == [w.Kill(0)]
    assert rig.do(w.SlotExited(0, "SIGKILL", "?")) == [w.ToScheduler(m.Restarted(1))]


def test_what_starts_is_fresh_and_a_second_restart_waits_for_it() -> None:
    rig = Rig()
    restart(rig, 1)
    assert restart(rig, 2) == [], "one ends already, the other one starts"
    rig.do(w.SlotExited(0, "exit code 0", ""))
    told = [w.ToScheduler(m.Restarted(1)), w.ToScheduler(m.Restarted(2))]
    assert rig.do(w.FromSlot(1, m.SlotReady())) == told


def test_a_slot_that_is_one_too_many_is_not_replaced() -> None:
    rig = Rig()
    rig.run(1)
    restart(rig)
    rig.do(w.Resize(0))
    assert rig.do(w.FromSlot(0, done(1))) == [w.ToScheduler(done(1)), w.Retire(0)]
    assert rig.do(w.SlotExited(0, "exit code 0", "")) == [w.ToScheduler(m.Restarted(1))]


def test_nobody_is_told_when_the_scheduler_is_gone() -> None:
    rig = Rig()
    restart(rig)
    rig.do(w.SchedulerGone())
    rig.do(w.SlotExited(0, "exit code 0", ""))
    assert rig.do(w.FromSlot(1, m.SlotReady())) == []


# --- the scheduler's ---

CLIENT, ONE, TWO = 1, 2, 3


class Hub:
    """A scheduler's core with a client and two workers."""

    def __init__(self) -> None:
        self.core = SchedulerCore()
        self.do(Joined(CLIENT, "client", "c", {}))
        for peer in (ONE, TWO):
            self.join(peer)

    def join(self, peer: int) -> None:
        self.do(Joined(peer, "worker", f"w{peer}", {"slots": 1}))

    def do(self, event: Event) -> Outbox:
        out = [*self.core.handle(event, 0.0), *self.core.assign(0.0)]
        invariants.check(self.core)
        return [(peer, message) for peer, message in out if not isinstance(message, m.Workers | m.WorkerChanged)]


def test_a_client_is_told_when_all_workers_that_were_there_have_done_it_or_left() -> None:
    hub = Hub()
    assert hub.do(Received(CLIENT, m.Restart(7))) == [(ONE, m.Restart(1)), (TWO, m.Restart(1))]
    hub.join(4)
    assert hub.do(Received(ONE, m.Restarted(1))) == []
    assert hub.do(Received(ONE, m.Restarted(1))) == []
    assert hub.do(Left(TWO, "gone")) == [(CLIENT, m.Answer(7, {}))]
    assert hub.do(Received(4, m.Restarted(1))) == []


def test_without_workers_there_is_nothing_to_wait_for() -> None:
    hub = Hub()
    hub.do(Left(ONE, "gone"))
    hub.do(Left(TWO, "gone"))
    assert hub.do(Received(CLIENT, m.Restart(7))) == [(CLIENT, m.Answer(7, {}))]


def test_a_client_that_left_is_told_nothing() -> None:
    hub = Hub()
    hub.do(Received(CLIENT, m.Restart(7)))
    hub.do(Left(CLIENT, "gone"))
    assert hub.do(Received(ONE, m.Restarted(1))) == hub.do(Received(TWO, m.Restarted(1))) == []


# --- on real processes ---


def change(number: int) -> int:
    json.changed = True  # type: ignore[attr-defined]
    time.sleep(0.1)  # so that each slot gets one
    return os.getpid()


def changed(number: int) -> bool:
    time.sleep(0.1)
    return hasattr(json, "changed")


def block(started: str, go: str) -> int:
    Path(started).touch()
    while not Path(go).exists():
        time.sleep(0.01)
    return os.getpid()


def test_all_workers_are_fresh_and_what_was_running_or_queued_is_cancelled() -> None:
    with minidask.Client(n_workers=2) as client:
        before = set(client.gather(client.map(change, range(8))))
        assert len(before) == 2 and all(client.gather(client.map(changed, range(4))))
        futures = client.map(time.sleep, [60] * 5)
        wait_until(lambda: client.scheduler_info()["tasks"]["running"] == 2, "they run")
        client.restart(20)
        assert all(future.cancelled() for future in futures)
        assert not any(client.gather(client.map(changed, range(8))))
        assert not before & set(client.gather(client.map(change, range(8))))
        assert client.slots() == 2
        assert not client.scheduler_info()["tasks"]["queued"]


def test_another_clients_task_is_not_lost(programs: Programs, tmp_path: Path) -> None:
    _, address = programs.scheduler()
    for name in ("one", "two"):
        programs.worker(address, "--nworkers", "1", "--name", name)
    with minidask.Client(address) as client, minidask.Client(address) as other:
        client.wait_for_workers(2, 20)
        task = other.submit(block, str(tmp_path / "started"), str(tmp_path / "go"))
        wait_until((tmp_path / "started").exists, "it runs")
        with pytest.raises(
            errors.NoWorkersError, match=r"not all workers .* replaced within 0.3 seconds.*other clients"
        ):
            client.restart(0.3)
        assert not task.done()
        over = threading.Event()
        restarting = threading.Thread(target=lambda: (client.restart(20), over.set()))
        restarting.start()
        (tmp_path / "go").touch()
        pid = task.result(20)
        restarting.join(20)
        assert over.is_set()
        assert pid not in client.gather(client.map(change, range(8)))


def test_a_worker_that_dies_or_joins_meanwhile_is_not_waited_for(programs: Programs, tmp_path: Path) -> None:
    _, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as client, minidask.Client(address) as other:
        task = other.submit(block, str(tmp_path / "started"), str(tmp_path / "go"))
        wait_until((tmp_path / "started").exists, "it runs")
        over = threading.Event()
        restarting = threading.Thread(target=lambda: (client.restart(20), over.set()))
        restarting.start()
        programs.worker(address, "--nworkers", "1")
        assert not over.is_set()
        worker.send(signal.SIGKILL)
        restarting.join(20)
        assert over.is_set()
        (tmp_path / "go").touch()
        assert task.result(20)


def test_workers_that_are_threads_are_fresh_threads(thread_client: minidask.Client) -> None:
    def thread() -> int:
        time.sleep(0.1)
        return threading.get_native_id()

    before = set(thread_client.gather(thread_client.map(lambda _: thread(), range(6))))
    stuck = thread_client.submit(time.sleep, 3)
    thread_client.restart(20)
    assert stuck.cancelled()
    assert not before & set(thread_client.gather(thread_client.map(lambda _: thread(), range(6))))


def test_a_worker_whose_task_has_left_a_thread_behind_is_replaced_too(one_worker: minidask.Client) -> None:
    def leave_a_thread() -> int:
        threading.Thread(target=time.sleep, args=(600,)).start()
        return os.getpid()

    pid = one_worker.submit(leave_a_thread).result(20)
    one_worker.restart(20)
    assert one_worker.submit(os.getpid).result(20) != pid


def test_a_task_cannot_restart_its_own_worker(one_worker: minidask.Client) -> None:
    def restart_all() -> None:
        minidask.get_client().restart()

    with pytest.raises(errors.MinidaskError, match="a task cannot restart"):
        one_worker.submit(restart_all).result(20)


def test_a_client_that_is_closed_says_so() -> None:
    client = minidask.Client(n_workers=1, processes=False)
    client.close()
    with pytest.raises(errors.SchedulerLost, match="closed"):
        client.restart()
