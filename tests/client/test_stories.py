"""What has become of a task, made of events: see minidask/client/stories.py."""

from __future__ import annotations

from typing import Any

from minidask.client.events import ClusterEvent
from minidask.client.stories import story_of

M1, M2 = "tcp://m1", "tcp://m2"


def event(kind: str, at: float, **fields: Any) -> ClusterEvent:
    return ClusterEvent(kind, at, task=5, name="fit", **fields)


DIED_ONCE = [
    event("submitted", 10.0),
    event("started", 11.0, machine=M1, attempt=1),
    event("again", 12.0, machine=M1, how="died", text="on m1 its process ended with SIGKILL"),
    event("started", 13.0, machine=M2, attempt=2),
    event("ended", 15.0, how="done", seconds=2.0),
]


def test_a_story_has_all_attempts_of_its_task_in_order() -> None:
    story = story_of(DIED_ONCE)
    assert story is not None
    assert (story.key, story.state, story.machine, story.submitted, story.began) == ("t5", "done", M2, 10.0, 13.0)
    assert [(when, what) for when, what, _ in story.steps] == [
        (10.0, "submitted"),
        (11.0, "attempt 1 sent to"),
        (12.0, "attempt ended: died"),
        (13.0, "attempt 2 sent to"),
        (15.0, "done"),
    ]


def test_machines_are_shown_by_their_names_and_each_step_is_a_line() -> None:
    story = story_of(DIED_ONCE)
    assert story is not None
    named = story.named({M1: "alpha", M2: "beta"})
    assert named.machine == "beta" and story.machine == M2, "the story itself stays as it is"
    head, *lines = str(named).splitlines()
    assert head == "fit: done"
    assert [line.split("  ")[-1] for line in lines] == [
        "submitted",
        "attempt 1 sent to alpha",
        "attempt ended: died: on m1 its process ended with SIGKILL",
        "attempt 2 sent to beta",
        "done",
    ]


def test_an_error_of_several_lines_stays_on_its_own() -> None:
    story = story_of([event("ended", 0.0, how="raised", text="ValueError: a\n  b")])
    assert story is not None
    assert str(story).splitlines()[1].split(maxsplit=1) == ["raised:", "ValueError: a b"]


def test_without_events_there_is_no_story() -> None:
    assert story_of([]) is None
