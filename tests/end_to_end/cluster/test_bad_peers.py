"""What a peer should not have sent, and errors of our own: they end one peer at most, and every task is settled."""

from __future__ import annotations

import os
import socket

import pytest

import minidask
from minidask import errors
from minidask.wire import messages as m
from minidask.wire.codec import encode
from tests.helpers import Programs


def test_a_slot_that_talks_nonsense_is_replaced_and_its_task_counts_as_dead(client: minidask.Client) -> None:
    """A task writes to the socket of its slot: a result that no client could take."""

    def nonsense() -> None:
        from threading import Event

        from minidask.task.context import current_slot

        slot = current_slot()
        assert slot is not None
        task, attempt = slot.call
        os.write(slot.fileno(), b"".join(encode(m.Done(task, attempt, 0.1, [b"pickle", b"short"]))))
        Event().wait(20)

    with pytest.raises(errors.KilledWorker):
        client.submit(nonsense).result(30)
    assert client.gather([client.submit(abs, -i) for i in range(4)]) == [0, 1, 2, 3]


def test_a_slot_whose_bytes_are_no_messages_is_replaced(client: minidask.Client) -> None:
    def garbage() -> None:
        from threading import Event

        from minidask.task.context import current_slot

        slot = current_slot()
        assert slot is not None
        os.write(slot.fileno(), b"garbage")
        Event().wait(20)

    with pytest.raises(errors.KilledWorker):
        client.submit(garbage).result(30)
    assert client.submit(abs, -1).result(20) == 1


def test_hundreds_of_silent_connections_cost_the_scheduler_little(programs: Programs) -> None:
    import psutil

    from tests.end_to_end.cluster.test_daemons import host_and_port

    scheduler, address = programs.scheduler()
    process = psutil.Process(scheduler.process.pid)
    before = process.memory_info().rss
    silent = []
    try:
        for _ in range(400):
            silent.append(socket.create_connection(host_and_port(address), 10))
        with minidask.Client(address):
            assert len(process.net_connections()) < 64, "there are few of them at once"
        grown = process.memory_info().rss - before
        assert grown < len(silent) * 4096, f"{grown / len(silent):.0f} bytes for each"
    finally:
        for sock in silent:
            sock.close()
    with minidask.Client(address):
        pass
