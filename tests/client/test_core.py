"""What a client waits for and holds, alone: no sockets, threads or clock."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidask.client import outcomes
from minidask.client.core import ClientCore, Settle, Tell
from minidask.client.outcomes import Lost, Raised, Returned
from minidask.errors import KilledWorker, MinidaskError, ProtocolError, SchedulerLost, SerializationError
from minidask.wire import messages as m

PAYLOAD = [b"pickle"]
SMALL, LARGE, OTHER = b"small", b"large", b"other"


@pytest.fixture
def core() -> ClientCore[str]:
    return ClientCore("tcp://here:1")


def submit(core: ClientCore[str], handle: str = "future", *, group: int = 0, blobs: list[bytes] | None = None) -> int:
    """Submit a task; returns its number."""
    number = core.next_task()
    message = m.Submit(number, "f", 0, None, group, None, blobs or [], [], False, {}, PAYLOAD)
    assert core.submit(message, [], handle) == [message]
    return number


def put(core: ClientCore[str], *blobs: bytes, stored: bool = False) -> list[m.Message]:
    """Announce blobs and have them held, as the shell does; returns what is sent."""
    offers = {blob: m.OfferBlob(blob, len(blob), "place") for blob in blobs} if stored else {}
    messages = core.announce({blob: [blob] for blob in blobs}, offers)
    core.hold(blobs, offers)
    return messages


# --- tasks ---


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        (m.TaskDone(1, 0.5, "w", PAYLOAD), Returned(PAYLOAD, 0.5, "w")),
        (m.TaskRaised(1, 0.5, "w", "text", PAYLOAD), Raised(PAYLOAD, "text", "w", 0.5)),
    ],
)
def test_a_task_is_settled_once(core: ClientCore[str], message: Any, outcome: Any) -> None:
    assert submit(core) == 1
    assert len(core) == 1
    assert core.receive(message) == [Settle("future", outcome)]
    assert core.receive(message) == [Settle(None, outcome)], "a stale outcome is nobody's"
    assert len(core) == 0


def test_a_lost_task_says_why(core: ClientCore[str]) -> None:
    number = submit(core)
    (settle,) = core.receive(m.TaskLost(number, "killed", "it was killed"))
    assert isinstance(settle, Settle) and isinstance(settle.outcome, Lost)
    assert type(settle.outcome.error) is KilledWorker
    assert str(settle.outcome.error) == "it was killed"


@pytest.mark.parametrize("force", [False, True])
def test_a_cancelled_task_is_over_at_once(core: ClientCore[str], force: bool) -> None:
    numbers = [submit(core), submit(core)]
    assert core.cancel(numbers, force) == [m.Cancel(numbers, force)]
    assert core.receive(m.TaskDone(numbers[0], 0.5, "w", PAYLOAD)) == [Settle(None, Returned(PAYLOAD, 0.5, "w"))]
    assert core.cancel([], force) == []


def test_a_task_that_is_over_may_still_be_stopped(core: ClientCore[str]) -> None:
    """It was cancelled first, and runs on."""
    number = submit(core)
    core.cancel([number], False)
    assert core.cancel([number], True) == [m.Cancel([number], True)]


def test_only_tasks_that_are_waited_for_are_dropped(core: ClientCore[str]) -> None:
    over, waiting = submit(core), submit(core)
    core.receive(m.TaskDone(over, 0.5, "w", PAYLOAD))
    assert core.drop([over, waiting]) == [m.Cancel([waiting], False)]
    assert core.drop([over, waiting]) == []


def test_another_handle_may_stand_for_a_task_that_is_waited_for(core: ClientCore[str]) -> None:
    number = submit(core, "weak")
    core.replace_handle(number, "strong")
    assert core.handle_of(number) == "strong"
    assert core.receive(m.TaskDone(number, 0.5, "w", PAYLOAD))[0].handle == "strong"  # type: ignore[union-attr]
    core.replace_handle(number, "late")
    assert core.handle_of(number) is None


def test_a_task_that_was_not_sent_is_taken_back(core: ClientCore[str]) -> None:
    put(core, LARGE, stored=True)
    number = submit(core, blobs=[LARGE])
    assert core.take_back(number) == []
    assert core.release([LARGE]) == [m.ReleaseBlobs([LARGE])]
    assert core.take_back(number) == []
    assert len(core) == 0


# --- groups ---


def test_a_group_takes_tasks_until_it_ends(core: ClientCore[str]) -> None:
    number, messages = core.open_group(2, [7, 1])
    assert messages == [m.OpenGroup(number, 2, [7, 1])]
    submit(core, "in it", group=number)
    submit(core, "outside")
    assert core.handles(number) == ["in it"]
    assert core.handles() == ["in it", "outside"]
    core.end_group(number)
    with pytest.raises(MinidaskError, match="has ended"):
        submit(core, group=number)
    assert len(core) == 2
    assert core.close_group(number) == [m.CloseGroup(number)]
    assert core.close_group(number) == []
    assert core.handles(number) == ["in it"], "what was submitted goes on"


# --- questions ---


def test_each_answer_is_told_once(core: ClientCore[str]) -> None:
    def first(info: object) -> None: ...

    def second(info: object) -> None: ...

    assert core.ask(first) == [m.Ask(1)]
    assert core.request(m.Restart, second) == m.Restart(2)
    assert core.receive(m.Answer(2, {})) == [Tell(second, {})]
    assert core.receive(m.Answer(1, {"a": 1})) == [Tell(first, {"a": 1})]
    assert core.receive(m.Answer(1, {"a": 1})) == []
    assert core.receive(m.Answer(99, {})) == []


def test_the_last_word_on_idle_slots_counts(core: ClientCore[str]) -> None:
    assert core.idle is None
    for idle in (True, False):
        assert core.receive(m.IdleSlots(idle)) == []
        assert core.idle is idle


# --- blobs ---


def test_a_blob_is_sent_once_and_released_once(core: ClientCore[str]) -> None:
    assert put(core, SMALL) == [m.PutBlob(SMALL, [SMALL])]
    assert put(core, SMALL, OTHER) == [m.PutBlob(OTHER, [OTHER])]
    assert core.release([SMALL]) == []
    assert core.release([SMALL, OTHER]) == [m.ReleaseBlobs([SMALL, OTHER])]
    assert core.release([SMALL]) == [], "what was counted too seldom is no error"
    assert put(core, SMALL) == [m.PutBlob(SMALL, [SMALL])]


def test_a_task_keeps_in_the_store_what_it_will_map(core: ClientCore[str]) -> None:
    put(core, SMALL)
    assert put(core, LARGE, stored=True) == [m.OfferBlob(LARGE, len(LARGE), "place")]
    number = submit(core, blobs=[SMALL, LARGE])
    assert core.release([SMALL, LARGE]) == [m.ReleaseBlobs([SMALL])]
    assert core.stored() == [LARGE]
    done = core.receive(m.TaskDone(number, 0.5, "w", PAYLOAD))
    assert done == [m.ReleaseBlobs([LARGE]), Settle("future", Returned(PAYLOAD, 0.5, "w"))]
    assert core.stored() == []


@pytest.mark.parametrize("over", ["cancel", "drop"])
def test_a_task_that_nobody_waits_for_keeps_nothing(core: ClientCore[str], over: str) -> None:
    put(core, LARGE, stored=True)
    number = submit(core, blobs=[LARGE])
    core.release([LARGE])
    messages = core.cancel([number], True) if over == "cancel" else core.drop([number])
    assert messages == [m.Cancel([number], over == "cancel"), m.ReleaseBlobs([LARGE])]


def test_a_task_takes_only_blobs_that_are_held(core: ClientCore[str]) -> None:
    put(core, SMALL)
    with pytest.raises(SerializationError, match="task 'f' takes scattered data"):
        submit(core, blobs=[SMALL, OTHER])
    assert len(core) == 0
    assert core.lacking([SMALL, OTHER]) == [OTHER]


@given(st.lists(st.tuples(st.sampled_from(["put", "store", "release", "submit", "done", "cancel"]), st.integers(0, 3))))
def test_the_scheduler_has_each_blob_that_is_held_and_no_other(steps: list[tuple[str, int]]) -> None:
    core: ClientCore[str] = ClientCore("tcp://here:1")
    there: set[bytes] = set()
    held: list[bytes] = []
    tasks: list[tuple[int, list[bytes]]] = []

    def send(messages: list[Any]) -> None:
        for message in messages:
            if isinstance(message, m.PutBlob | m.OfferBlob):
                assert message.blob not in there, "it was sent twice"
                there.add(message.blob)
            elif isinstance(message, m.ReleaseBlobs):
                assert there.issuperset(message.blobs), "it was released twice"
                there.difference_update(message.blobs)

    for step, number in steps:
        blob = bytes([number])
        if step in ("put", "store"):
            send(put(core, blob, stored=step == "store"))
            held.append(blob)
        elif step == "release" and blob in held:
            held.remove(blob)
            send(core.release([blob]))
        elif step == "submit" and blob in held:
            tasks.append((submit(core, blobs=[blob]), [blob] if blob in core.stored() else []))
        elif step in ("done", "cancel") and tasks:
            task, _ = tasks.pop(0)
            send(core.receive(m.TaskDone(task, 0.5, "w", PAYLOAD)) if step == "done" else core.cancel([task], True))
        assert there == {*held, *(blob for _, mapped in tasks for blob in mapped)}


# --- what it must not be sent, and the end ---


@pytest.mark.parametrize("message", [m.Ask(1), m.Heartbeat(0), m.CancelAll(False), m.Chunk(SMALL, 0, 1, [b"x"])])
def test_a_message_for_somebody_else_is_the_schedulers_fault(core: ClientCore[str], message: Any) -> None:
    number = submit(core)
    with pytest.raises(ProtocolError, match=f"{type(message).__name__} is no message for a client"):
        core.receive(message)
    assert core.handle_of(number) == "future"


def test_an_outcome_that_is_malformed_concerns_its_task_alone(core: ClientCore[str]) -> None:
    first, second = submit(core, "first"), submit(core, "second")
    (settle,) = core.receive(m.TaskLost(first, "a reason of the future", "text"))
    assert isinstance(settle, Settle) and isinstance(settle.outcome, Lost)
    assert type(settle.outcome.error) is MinidaskError
    assert core.handle_of(second) == "second"


def test_at_the_end_all_that_is_waited_for_is_told_why(core: ClientCore[str]) -> None:
    def asked(info: object) -> None: ...

    submit(core)
    core.ask(asked)
    settle, tell = core.end("it died")
    assert isinstance(settle, Settle) and isinstance(settle.outcome, Lost)
    assert type(settle.outcome.error) is SchedulerLost
    text = "task 'f' was pending when the connection to the scheduler at tcp://here:1 is gone: it died"
    assert str(settle.outcome.error) == text
    assert tell == Tell(asked, None)
    assert core.end("again") == []
    for late in (core.check, lambda: submit(core)):
        with pytest.raises(SchedulerLost, match="it died; close"):
            late()


@pytest.mark.parametrize("first", ["goodbye", "close"])
def test_the_first_reason_for_the_end_is_told(core: ClientCore[str], first: str) -> None:
    if first == "goodbye":
        assert core.receive(m.Goodbye("that was all")) == []
    else:
        core.close()
    core.end("the socket was closed")
    text = {"goodbye": "the scheduler at tcp://here:1 said goodbye: that was all", "close": "the client was closed"}
    assert core.why_closed == text[first]


# --- the list of reasons ---


def test_all_know_the_same_reasons_why_a_task_may_be_lost() -> None:
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    listed = text[text.index("`reason` is `") :].partition(".")[0]
    assert sorted(re.findall(r'"([\w-]+)"', listed)) == sorted(m.REASONS)
    assert sorted(outcomes._LOSSES) == sorted(m.REASONS)
    for reason in m.REASONS:
        outcome = outcomes.outcome_of(m.TaskLost(1, reason, "text"))
        assert isinstance(outcome, Lost)
        assert type(outcome.error) is outcomes._LOSSES[reason]
    assert type(outcomes.outcome_of(m.TaskLost(1, "of the future", "text")).error) is MinidaskError
