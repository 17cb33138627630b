"""The files of a client's queues, with real ones: what the core decides is done, and what slots give is read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minidask.client import queued, queues
from minidask.client.core import ClientCore, Settle
from minidask.client.outcomes import Returned
from minidask.client.queues import Queues
from minidask.client.shell import ClientShell
from minidask.data import callqueue
from minidask.data.callqueue import QueueEnd
from minidask.host.folders import owner
from minidask.wire import messages as m
from minidask.wire.tickets import CALL_BYTES, PIPE_BUF, QueuedCall


class Client:
    """A client's core, with the files of its queues, and slots that open them."""

    def __init__(self, folder: Path) -> None:
        self.core: ClientCore[int] = ClientCore("here")
        self.queues = Queues(self.core, folder)
        self.folder = folder
        self.group = 0
        self._slots: list[QueueEnd] = []

    def open_group(self, limit: int = 0) -> int:
        self.group, _ = self.core.open_group(limit, [])
        self.queues.add(self.group, limit)
        return self.group

    def submit(self, size: int = 10) -> list[Any]:
        """Submit a call; returns what is to be sent."""
        number = self.core.next_task()
        message = m.Submit(number, "f", 0, None, self.group, None, [], [], False, {}, [bytes(size)])
        return self.do(self.core.submit(message, [], number))

    def do(self, effects: Any) -> list[Any]:
        return self.queues.carry_out(effects)

    def slot(self, lease: m.Submit) -> QueueEnd:
        self._slots.append(QueueEnd(lease.payload[0]))
        return self._slots[-1]

    def files(self) -> set[str]:
        return {path.name.partition(".")[0] for path in self.folder.iterdir()}

    def close(self) -> None:
        for slot in self._slots:
            slot.close()
        self.queues.close()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path)
    client.open_group()
    yield client
    client.close()
    assert not list(tmp_path.iterdir())


def done(number: int) -> m.TaskDone:
    return m.TaskDone(number, 0.0, "w", [b"1"])


@pytest.mark.parametrize("size", [10, PIPE_BUF, 60_000])
def test_a_call_goes_to_a_slot_and_its_result_comes_back(client: Client, size: int) -> None:
    (lease,) = client.submit()
    slot = client.slot(lease)
    call = slot.take()
    assert isinstance(call, QueuedCall) and call.payload == [bytes(10)]
    assert slot.give(call.number, 0.5, b"r" * size)
    ((number, ticket, duration, pickle),) = client.queues.results()
    assert (number, duration, pickle) == (call.number, 0.5, b"r" * size)
    settled = client.do(client.core.call_returned(number, ticket, Returned([pickle], duration, "w")))
    assert settled == [Settle(call.number, Returned([pickle], 0.5, "w"))]


def test_a_call_that_is_larger_than_its_line_takes_memory_until_it_is_over(client: Client) -> None:
    (lease,) = client.submit(CALL_BYTES)
    assert lease.lease
    slot = client.slot(lease)
    call = slot.take()
    assert isinstance(call, QueuedCall) and call.payload == [bytes(CALL_BYTES)]
    assert len(list(client.folder.iterdir())) == 4
    assert slot.give(call.number, 0.5, b"r")
    ((number, ticket, *_),) = client.queues.results()
    client.do(client.core.call_returned(number, ticket, Returned([b"r"], 0.5, "w")))
    assert len(list(client.folder.iterdir())) == 3


def test_a_call_for_which_there_is_no_memory_is_submitted_as_a_task(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lease,) = client.submit()
    with monkeypatch.context() as patch:
        patch.setattr(callqueue, "write", full)
        (task,) = client.submit(CALL_BYTES)
    assert not task.lease and task.group == client.group and task.payload == [bytes(CALL_BYTES)]
    slot = client.slot(lease)
    assert isinstance(slot.take(), QueuedCall)
    assert [sent.lease for sent in client.submit()] == [False], "and so are all later ones"


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_calls_that_no_slot_has_begun_are_submitted_as_they_were(client: Client) -> None:
    (lease,) = client.submit()
    client.submit(20)
    client.core.close_group(client.group)
    raised = m.TaskRaised(lease.task, 0.0, "w", "OSError", [b"1"])
    first, second, closed = client.do(client.core.receive(raised))
    assert [first.payload, second.payload] == [[bytes(10)], [bytes(20)]]
    assert closed == m.CloseGroup(client.group) and type(closed) is m.CloseGroup
    assert client.files() == {"results"}


def test_a_claim_is_read_once_and_only_for_a_lease(client: Client) -> None:
    (lease,) = client.submit()
    slot = client.slot(lease)
    call = slot.take()
    assert isinstance(call, QueuedCall)
    ticket = client.core.queues.ticket(client.group, call.number)
    assert client.queues.claim(call.number) == 0, "that is a call"
    assert client.queues.claim(lease.task) == ticket
    assert client.queues.claim(lease.task) == 0


def test_a_result_of_a_queue_that_is_gone_is_nobodys(client: Client) -> None:
    (lease,) = client.submit()
    slot = client.slot(lease)
    call = slot.take()
    assert isinstance(call, QueuedCall)
    client.do(client.core.cancel([call.number], True))
    assert client.files() == {"results"}
    for size in (1, PIPE_BUF):
        assert slot.give(call.number, 0.5, bytes(size))
    for number, ticket, duration, pickle in client.queues.results():
        assert client.core.call_returned(number, ticket, Returned([pickle], duration, "w")) == ()


def test_results_are_read_before_the_end_of_their_lease_and_what_follows_from_them_is_done(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a call waits for a line, does not fit into it, and the lease cannot be followed by another one."""
    monkeypatch.setattr(queued, "LINES", 1)
    client.open_group(1)
    (lease,) = client.submit()
    assert client.submit(CALL_BYTES) == []
    slot = client.slot(lease)
    call = slot.take()
    assert isinstance(call, QueuedCall) and slot.give(call.number, 0.5, b"r")
    shell: Any = ClientShell.__new__(ClientShell)
    shell.core, shell.queues, shell.workers = client.core, client.queues, SimpleNamespace(any_name=lambda: "w")
    effects = client.do(shell._decide(m.TaskRaised(lease.task, 0.0, "w", "OSError", [b"1"])))
    assert [effect.handle for effect in effects if isinstance(effect, Settle)] == [call.number]
    (task,) = [effect for effect in effects if isinstance(effect, m.Submit)]
    assert not task.lease and task.payload == [bytes(CALL_BYTES)]
    assert len(client.core) == 1


def test_each_queue_has_files_of_its_own_and_all_share_a_pipe_of_results(client: Client, tmp_path: Path) -> None:
    assert client.queues.add(98, 0) is False, "that pipe is read already"
    assert sorted(path.name.partition(".")[0] for path in tmp_path.iterdir()) == ["arena"] * 2 + ["calls"] * 2 + [
        "results"
    ]
    assert os.stat(client.queues.fileno()).st_ino == next(tmp_path.glob(f"results.{owner()}-*")).stat().st_ino


def test_calls_go_another_way_where_slots_take_no_leases_or_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no room")

    core: ClientCore[int] = ClientCore("here")
    assert not Queues(core, None).add(1, 0)
    fallen_back = Queues(core, tmp_path)
    monkeypatch.setattr(queues, "CallQueue", full)
    assert fallen_back.add(1, 0), "its pipe is to be read for the next one"
    assert not len(core.queues)
    fallen_back.close()
    assert not list(tmp_path.iterdir())


def test_a_fork_leaves_the_files_to_its_parent(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.open_group()
    client.queues.abandon()
    assert client.files() == {"arena", "calls", "results"}
    client.close()
    assert client.files() == {"arena", "calls", "results"}
