"""What a client tells another scheduler is what the one that was lost knew of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from minidask.client.core import ClientCore, Settle, Tell
from minidask.client.outcomes import Lost
from minidask.wire import messages as m
from minidask.wire.large import LARGE_BYTES

BLOBS = [b"a", b"b", b"c", b"d"]
FILES = m.Submit(0, "", 0, None, 0, None, [], [], False, {}, [])


class Scheduler:
    """What a scheduler knows of one client."""

    def __init__(self) -> None:
        self.blobs: set[bytes] = set()
        self.groups: dict[int, tuple[int, list[int]]] = {}
        self.tasks: dict[int, m.Submit] = {}
        self.questions: dict[int, m.Ask | m.Restart] = {}

    def take(self, messages: Iterable[Any]) -> None:
        for message in messages:
            match message:
                case m.PutBlob(blob) | m.OfferBlob(blob):
                    assert blob not in self.blobs
                    self.blobs.add(blob)
                case m.ReleaseBlobs(blobs):
                    assert self.blobs.issuperset(blobs)
                    self.blobs.difference_update(blobs)
                case m.OpenGroup(group, limit, parent):
                    assert group not in self.groups
                    self.groups[group] = limit, parent
                case m.CloseGroup(group):
                    del self.groups[group]
                case m.Submit():
                    assert message.task not in self.tasks
                    assert self.blobs.issuperset(message.blobs), "its blobs come first"
                    assert not message.group or message.group in self.groups, "its group comes first"
                    self.tasks[message.task] = message
                case m.Cancel(tasks):
                    for task in tasks:
                        self.tasks.pop(task, None)
                case m.Resubmitted():
                    pass
                case m.Ask() | m.Restart():
                    self.questions[message.request] = message
                case _:
                    raise AssertionError(message)


class Resumes(RuleBasedStateMachine):
    """A client, and a scheduler that may be replaced by one that knows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.core: ClientCore[int] = ClientCore("tcp://here:1", keeps=True)
        self.scheduler = Scheduler()
        self.held: list[bytes] = []
        self.open: list[int] = []
        self.losses = 0

    @rule(blobs=st.lists(st.sampled_from(BLOBS), min_size=1, unique=True), offered=st.booleans())
    def announce(self, blobs: list[bytes], offered: bool) -> None:
        offers = {blob: m.OfferBlob(blob, 1, "place") for blob in blobs} if offered else {}
        self.scheduler.take(self.core.announce({blob: [memoryview(b"data")] for blob in blobs}, offers))
        self.core.hold(blobs, offers)
        self.held += blobs

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        blob = data.draw(st.sampled_from(self.held))
        self.held.remove(blob)
        self.scheduler.take(self.core.release([blob]))

    @rule(limit=st.integers(0, 3), parent=st.sampled_from([[], [7, 1]]))
    def open_group(self, limit: int, parent: list[int]) -> None:
        number, messages = self.core.open_group(limit, parent)
        self.open.append(number)
        self.scheduler.take(messages)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def close_group(self, data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(self.open))
        self.open.remove(group)
        self.scheduler.take(self.core.close_group(group))

    @rule(data=st.data())
    def submit(self, data: st.DataObject) -> None:
        number = self.core.next_task()
        group = data.draw(st.sampled_from([0, *self.open]))
        blobs = data.draw(st.lists(st.sampled_from(self.held), unique=True)) if self.held else []
        message = FILES._replace(task=number, group=group, blobs=blobs, payload=[bytearray(b"call")])
        self.scheduler.take(self.core.submit(message, [], number))

    @precondition(lambda self: self.scheduler.tasks)
    @rule(data=st.data(), how=st.sampled_from(["done", "raised", "lost", "cancel"]))
    def end(self, data: st.DataObject, how: str) -> None:
        task = data.draw(st.sampled_from(sorted(self.scheduler.tasks)))
        if how == "cancel":
            self.scheduler.take(self.core.cancel([task], force=False))
            return
        outcomes = {
            "done": m.TaskDone(task, 1.0, "w", [b""]),
            "raised": m.TaskRaised(task, 1.0, "w", "", [b""]),
            "lost": m.TaskLost(task, m.Reason.KILLED, ""),
        }
        del self.scheduler.tasks[task]
        *released, settle = self.core.receive(outcomes[how])
        self.scheduler.take(released)
        assert isinstance(settle, Settle) and settle.handle == task
        assert self.core.losses == 0

    @rule(restart=st.booleans())
    def ask(self, restart: bool) -> None:
        self.scheduler.take(
            [self.core.request(m.Restart, lambda _: None)] if restart else self.core.ask(lambda _: None)
        )

    @precondition(lambda self: self.scheduler.questions)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        question = data.draw(st.sampled_from(sorted(self.scheduler.questions)))
        del self.scheduler.questions[question]
        (tell,) = self.core.receive(m.Answer(question, {}))
        assert isinstance(tell, Tell)

    @rule()
    def lose(self) -> None:
        before, self.scheduler = self.scheduler, Scheduler()
        self.scheduler.take(self.core.resume())
        assert self.scheduler.tasks == before.tasks
        assert self.scheduler.blobs == before.blobs
        assert self.scheduler.groups == before.groups
        assert self.scheduler.questions == before.questions

    @invariant()
    def nothing_is_kept_for_what_is_over(self) -> None:
        assert {*self.core._announced} == {*self.core._blobs}
        assert all(group.pending or not group.closed for group in self.core._groups.values())

    def teardown(self) -> None:
        lost = self.core.end("it is gone")
        assert len(lost) == len(self.scheduler.tasks) + len(self.scheduler.questions)
        assert all(isinstance(effect.outcome, Lost) for effect in lost if isinstance(effect, Settle))


TestResumes = Resumes.TestCase
TestResumes.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("size", [1, LARGE_BYTES])
def test_what_a_user_writes_to_after_the_submission_is_not_what_is_submitted_again(size: int) -> None:
    core: ClientCore[str] = ClientCore("tcp://here:1", keeps=True)
    array, blob = bytearray(b"before" * size), bytearray(b"blob")
    core.announce({b"blob": [memoryview(blob)]}, {})
    core.hold([b"blob"])
    core.submit(FILES._replace(task=1, blobs=[b"blob"], payload=[b"pickle", memoryview(array)]), [], "future")
    array[:], blob[:] = b"after!" * size, b"BLOB"
    put, submitted, last = core.resume()
    assert last == m.Resubmitted()
    assert isinstance(put, m.PutBlob) and put.payload == [b"blob"]
    assert isinstance(submitted, m.Submit) and submitted.payload == [b"pickle", b"before" * size]


def test_losses_are_counted_until_a_task_has_an_outcome() -> None:
    core: ClientCore[str] = ClientCore("tcp://here:1", keeps=True)
    core.submit(FILES._replace(task=1, payload=[b"pickle"]), [], "future")
    for losses in (1, 2, 3):
        core.resume()
        assert core.losses == losses
    core.receive(m.TaskDone(1, 1.0, "w", [b""]))
    assert core.losses == 0
