"""Clients that only send: the scheduler's memory is bounded, each is told, and everybody else goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from operator import neg

import psutil
import pytest

import minidask
from minidask import errors
from minidask.wire import messages as m
from minidask.wire.codec import encode
from minidask.wire.large import blob_id
from tests.helpers import Program, Programs, wait_until
from tests.hostile import Hostile

MIB = 1 << 20
LIMIT = 64


def memory(program: Program) -> float:
    """MiB."""
    return float(psutil.Process(program.process.pid).memory_info().rss / MIB)


def tasks() -> Iterator[m.Message]:
    return (m.Submit(i, "t", 0, None, 0, None, [], [], False, {}, [bytes(MIB)]) for i in range(1, 400))


def small_tasks() -> Iterator[m.Message]:
    return (m.Submit(i, "t", 0, None, 0, None, [], [], False, {}, [b"x"]) for i in range(1, 150_000))


def tasks_of_many_names() -> Iterator[m.Message]:
    return (m.Submit(i, f"{i}" + "n" * (MIB - 10), 0, None, 0, None, [], [], False, {}, [b"x"]) for i in range(1, 200))


def blobs() -> Iterator[m.Message]:
    payloads = ([i.to_bytes(8, "little") * (MIB // 8)] for i in range(400))
    return (m.PutBlob(blob_id(payload), payload) for payload in payloads)


def blobs_that_are_released_while_a_task_needs_them() -> Iterator[m.Message]:
    for number, put in enumerate(blobs(), 1):
        assert isinstance(put, m.PutBlob)
        yield put
        yield m.Submit(number, "t", 0, None, 0, None, [put.blob], [], False, {}, [b"x"])
        yield m.ReleaseBlobs([put.blob])


def offers() -> Iterator[m.Message]:
    return (m.OfferBlob(i.to_bytes(16, "little"), 9, "p" * 4000) for i in range(30_000))


def groups() -> Iterator[m.Message]:
    return (m.OpenGroup(i, 0, []) for i in range(1, 200_000))


def restarts() -> Iterator[m.Message]:
    return (m.Restart(i) for i in range(1, 20_000))


KINDS = (tasks, small_tasks, tasks_of_many_names, blobs, blobs_that_are_released_while_a_task_needs_them, offers,
         groups, restarts)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("reads", [True, False], ids=["reads", "does not read"])
def test_a_client_that_only_sends_gets_an_answer_and_costs_no_more_than_the_limit(
    kind: object, reads: bool, programs: Programs
) -> None:
    scheduler, address = programs.scheduler("--memory-limit", f"{LIMIT}MiB")
    programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as honest:
        honest.wait_for_workers(1, timeout=30)
        busy = honest.submit(time.sleep, 600)
        wait_until(lambda: honest.scheduler_info()["tasks"]["running"], "the only slot was busy")
        before = memory(scheduler)
        with Hostile(address, "client", {}) as liar:
            with contextlib.suppress(OSError):  # it is disconnected
                for message in kind():  # type: ignore[operator]
                    liar.say(message)
            if reads:
                answer = next(each for each in liar.messages() if isinstance(each, m.TaskLost | m.Goodbye))
                assert "--memory-limit" in str(answer) or "already" in str(answer) or "others are open" in str(answer)
            waits = honest.submit(neg, 1)
            assert honest.scheduler_info()["clients"], "it answers"
            assert memory(scheduler) - before < LIMIT + 40
        honest.cancel([busy], force=True)
        assert waits.result(60) == -1


def test_an_honest_client_is_told_what_to_do_and_can_go_on(programs: Programs) -> None:
    _, address = programs.scheduler("--memory-limit", f"{LIMIT}MiB")
    programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as client:
        client.wait_for_workers(1, timeout=30)
        busy = client.submit(time.sleep, 600)  # else a fast worker may be done with each before the next one comes
        futures = [client.submit(len, bytes([i]) * 900_000) for i in range(250)]
        wait_until(lambda: any(future.done() for future in futures), "a task was refused")
        client.cancel([busy], force=True)
        found = client.gather(futures, errors="return")
        lost = [each for each in found if isinstance(each, errors.MinidaskError)]
        assert lost and "--memory-limit" in str(lost[0])
        assert {each for each in found if each not in lost} == {900_000}
        assert client.submit(len, bytes(900_000)).result(30) == 900_000


def test_a_message_under_way_is_not_larger_than_the_limit(programs: Programs) -> None:
    """It is in no account of the core before it is complete."""
    scheduler, address = programs.scheduler("--memory-limit", f"{LIMIT}MiB")
    programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as honest:
        assert honest.submit(neg, 1).result(30) == -1
        with Hostile(address, "client", {}) as liar:
            part = memoryview(bytearray(MIB))
            pieces = encode(m.Submit(1, "t", 0, None, 0, None, [], [], False, {}, [part] * 2 * LIMIT))
            with contextlib.suppress(OSError):  # it may be disconnected before it has sent all
                liar.say_bytes(b"".join(pieces[:-1]))
            wait_until(lambda: "no room here" in scheduler.text, 60)
        wait_until(lambda: memory(scheduler) < LIMIT + 64, 30)
        assert honest.submit(neg, 2).result(30) == -2
