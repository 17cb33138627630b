"""Why a task waits: each reason that scheduler/waiting.py knows, as the one who asks reads it."""

from __future__ import annotations

from typing import Any

from minidask.scheduler.core import SchedulerCore
from minidask.scheduler.events import Event, Joined, Lagging, Left, Received
from minidask.scheduler.invariants import check
from minidask.wire import messages as m
from minidask.wire.observing import Explain

CLIENT, OTHER, SLOT, FIRST, SECOND = 1, 2, 3, 11, 12


class Cluster:
    """A core with two clients, and whoever else a test has join."""

    def __init__(self, *workers: dict[str, Any]) -> None:
        self.core = SchedulerCore()
        self.runs: dict[str, tuple[int, m.Run]] = {}
        self.do(Joined(CLIENT, "client", "a", {"name": "sarah", "python": "3.11.4"}))
        self.do(Joined(OTHER, "client", "b", {"name": "tom", "python": "3.11.4"}))
        for peer, info in enumerate(workers, FIRST):
            self.do(Joined(peer, "worker", f"tcp://m{peer}", {"name": f"m{peer}", "slots": 1, **info}))

    def do(self, event: Event) -> list[tuple[int, m.Message]]:
        out = [*self.core.handle(event, 0.0), *self.core.assign(0.0)]
        check(self.core)
        self.runs.update({message.name: (peer, message) for peer, message in out if isinstance(message, m.Run)})
        return out

    def submit(self, number: int, client: int = CLIENT, **fields: Any) -> None:
        task = m.Submit(number, f"{client}-{number}", 0, None, 0, None, [], [], False, {}, [b"call"])
        self.do(Received(client, task._replace(**fields)))

    def says(self, kind: Any, name: str, *fields: Any) -> None:
        peer, run = self.runs[name]
        self.do(Received(peer, kind(run.task, run.attempt, *fields)))

    def why(self, number: int, client: int = CLIENT, *, own: bool = True) -> str:
        out = self.do(Received(client, Explain(9, number, own)))
        ((peer, answer),) = [(peer, message) for peer, message in out if isinstance(message, m.Answer)]
        assert peer == client and answer.request == 9
        return str(answer.info["why"])


def test_a_task_that_is_over_or_never_was() -> None:
    cluster = Cluster({})
    assert cluster.why(1) == "it is over, or was never submitted here"
    cluster.submit(1)
    cluster.says(m.Done, "1-1", 0.1, [b"result"])
    assert cluster.why(1) == "it is over, or was never submitted here"


def test_there_is_no_worker() -> None:
    cluster = Cluster()
    cluster.submit(1)
    assert cluster.why(1) == "it waits: there is no worker in the cluster; start some with minidask-worker"


def test_no_worker_has_that_python() -> None:
    cluster = Cluster({"python": "3.11.2"}, {"python": "3.12.1"}, {"python": "3.13.0"})
    cluster.do(Left(FIRST, "gone"))
    cluster.submit(1)
    assert cluster.why(1) == "it waits: no worker has Python 3.11; those that are there have 3.12, 3.13"


def test_all_workers_are_busy_and_others_are_before_it() -> None:
    cluster = Cluster({}, {})
    for number in range(1, 6):
        cluster.submit(number)
    assert cluster.why(3) == "it waits: all 2 workers are busy; it is the next one"
    assert cluster.why(4) == "it waits: all 2 workers are busy; of its own client 1 is before it"
    assert cluster.why(5) == "it waits: all 2 workers are busy; of its own client 2 are before it"


def test_tasks_of_higher_priority_are_before_it() -> None:
    cluster = Cluster({})
    cluster.submit(1)
    cluster.submit(2, priority=1)
    cluster.submit(3, priority=5)
    cluster.submit(4, priority=5)
    assert cluster.why(2) == "it waits: the only worker is busy; of its own client 2 are before it"
    assert cluster.why(3).endswith("it is the next one")


def test_clients_take_turns() -> None:
    cluster = Cluster({})
    cluster.submit(1)
    cluster.submit(2)
    for number in range(3):
        cluster.submit(number, OTHER)
    assert cluster.why(2) == "it waits: the only worker is busy; its client takes turns with tom (3 wait)"


def test_only_workers_of_the_own_python_count() -> None:
    cluster = Cluster({"python": "3.11.2"}, {"python": "3.12.1"})
    cluster.submit(1)
    cluster.submit(2)
    assert cluster.why(2) == "it waits: the only worker with Python 3.11 is busy; it is the next one"


def test_its_call_is_at_its_limit() -> None:
    cluster = Cluster({"slots": 4})
    cluster.do(Received(CLIENT, m.OpenGroup(1, 2, [])))
    for number in range(1, 5):
        cluster.submit(number, group=1)
    assert cluster.why(4) == ("it waits: its call may run 2 at once, and so many run; of its own client 1 is before it")


def test_it_may_run_on_one_machine_only() -> None:
    cluster = Cluster({}, {})
    cluster.submit(1, pin="tcp://m12")
    cluster.submit(2, pin="tcp://m12")
    assert cluster.why(2) == "it waits: only machine m12 may run it, whose only worker is busy"
    cluster.do(Lagging(SECOND, True))
    assert cluster.why(2) == "it waits: only machine m12 may run it, which does not read what it is sent"


def test_its_client_does_not_read() -> None:
    cluster = Cluster({})
    cluster.submit(1)
    cluster.do(Lagging(CLIENT, True))
    cluster.submit(2)
    assert cluster.why(2).startswith("it waits: its client does not read what it is sent")


def test_no_machine_reads() -> None:
    cluster = Cluster({}, {})
    cluster.do(Lagging(FIRST, True))
    cluster.do(Lagging(SECOND, True))
    cluster.submit(1)
    assert cluster.why(1) == (
        "it waits: no machine that could run it reads what it is sent, so the network is slow: machines m11, m12"
    )


def test_it_runs() -> None:
    cluster = Cluster({})
    cluster.submit(1)
    assert cluster.why(1) == "it runs on machine m11, attempt 1"
    assert cluster.why(cluster.runs["1-1"][1].task, OTHER, own=False) == "it runs on machine m11, attempt 1"


def test_its_data_is_being_fetched() -> None:
    cluster = Cluster({})
    blob = bytes(16)
    cluster.do(Received(CLIENT, m.OfferBlob(blob, 5 << 20, "")))
    cluster.submit(1, blobs=[blob])
    assert cluster.why(1) == "it waits on machine m11 for its data, of which 5.0 MiB are being fetched"
    cluster.do(Received(FIRST, m.HaveBlob(blob)))
    assert cluster.why(1) == "it runs on machine m11, attempt 1"


def test_it_was_sent_ahead() -> None:
    cluster = Cluster({"prefetch": 8})
    cluster.do(Received(CLIENT, m.OpenGroup(1, 0, [])))
    for number in range(1, 4):
        cluster.submit(number, group=1)
    worker = cluster.core.workers[FIRST]
    worker.round_trip = 1.0
    cluster.core.clients[CLIENT].groups[1].seconds = 0.001
    cluster.do(Lagging(FIRST, False))
    assert cluster.why(3) == (
        "it is on machine m11, which has 2 tasks more than workers: it runs, or is one of the next"
    )


def test_it_waits_for_tasks_within() -> None:
    cluster = Cluster({"uid": "u"})
    cluster.do(Joined(SLOT, "client", "s", {"nested": True, "slot_of": "u", "python": "3.11.4"}))
    cluster.submit(1)
    run = cluster.runs["1-1"][1]
    cluster.submit(7, SLOT, parent=[run.task, run.attempt])
    cluster.submit(8, SLOT, parent=[run.task, run.attempt])
    cluster.says(m.Waiting, "1-1")
    assert cluster.why(1) == "it is on machine m11, and waits for 2 tasks within it"


def test_it_was_cancelled_and_still_runs() -> None:
    cluster = Cluster({})
    cluster.submit(1)
    cluster.do(Received(CLIENT, m.Cancel([1], False)))
    assert cluster.why(1) == "it was cancelled, and runs on machine m11 until it has stopped"


def test_its_result_is_being_fetched() -> None:
    cluster = Cluster({})
    cluster.submit(1)
    cluster.says(m.OfferResult, "1-1", bytes(16), 5000)
    assert cluster.why(1) == "it has returned on machine m11, and its client fetches the result"


def test_what_has_happened_to_earlier_attempts() -> None:
    cluster = Cluster({})
    cluster.submit(1)
    cluster.says(m.Died, "1-1", "SIGSEGV", "a crash in compiled code")
    assert cluster.why(1) == (
        "it runs on machine m11, attempt 2; attempts before, 1: on m11 its process ended with SIGSEGV"
        " (a crash in compiled code)"
    )


def test_how_long_it_takes_where_that_was_measured() -> None:
    cluster = Cluster({"prefetch": 1})
    for number in range(1, 5):
        cluster.submit(number, name="fit")
    peer, run = cluster.runs["fit"]
    cluster.do(Received(peer, m.Done(run.task, run.attempt, 30.0, [b"result"])))
    assert cluster.why(4).endswith("of its own client 1 is before it; at the present pace that takes about 60 seconds")


def test_slots_are_kept_for_clients_that_were_cut_off() -> None:
    cluster = Cluster({})
    cluster.do(Joined(5, "client", "c", {"name": "away", "keys": [7], "reconnect_timeout": 60.0}))
    cluster.submit(1, 5)
    cluster.do(Left(5, "no answer", cut=True))
    cluster.submit(1)
    assert cluster.why(1) == (
        "it waits: the only worker is busy (1 of them with tasks of clients that were cut off); it is the next one"
    )
