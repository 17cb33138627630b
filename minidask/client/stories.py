"""What has become of each task: its attempts, where, for how long, the error. Pure.

A story is of a task of the scheduler's ("t" and its number), or of one call of a `Parallel` call whose calls no
scheduler sees ("c" and a number of our own). The last ones are kept, and those that have failed for longer: a cluster
may end thousands a second.
"""

from __future__ import annotations

import collections
import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from minidask.client.events import ClusterEvent
from minidask.client.state import FAILURES

MOST_STORIES = 20_000
MOST_FAILED = 1_000
MOST_STEPS = 30
"""Of one story."""
MOST_FOUND = 200

UNKNOWN = "unknown"
"""The state of a task of which something was missed."""


@dataclass(eq=False, slots=True)
class Story:
    """What has become of one task. As text, it is a line for each step.

    Attributes:
        key: "t" and the scheduler's number of the task.
        name: of the task.
        client: the scheduler's number of its client; 0: unknown.
        state: "waiting", "running", "done", "failed", "cancelled" or "unknown".
        how: how it has ended, as `ClusterEvent.how`; empty until then.
        machine: where it has run last, or runs.
        worker: number of the worker process there; -1: unknown.
        parent: the scheduler's number of the task that has submitted it; 0: none is known.
        submitted, began: when it was submitted, and its last attempt began, as of `time.time()`; 0: unknown.
        seconds: how long the call took.
        cpu: processor seconds meanwhile; below 0: unknown.
        memory: the most bytes that its process has had; 0: unknown.
        text: the last error.
        steps: what has happened, in order: its time, what it was, and where or why.
    """

    key: str
    name: str
    client: int = 0
    state: str = "waiting"
    how: str = ""
    machine: str = ""
    worker: int = -1
    parent: int = 0
    submitted: float = 0.0
    began: float = 0.0
    seconds: float = 0.0
    cpu: float = -1.0
    memory: int = 0
    text: str = ""
    steps: list[tuple[float, str, str]] = field(default_factory=list)

    @property
    def number(self) -> int:
        """The scheduler's number of the task; 0: it has none."""
        return int(self.key[1:]) if self.key[0] == "t" else 0

    def named(self, names: Mapping[str, str]) -> Story:
        """The same with names of machines, by address, in the place of addresses."""
        steps = [(when, what, names.get(text, text)) for when, what, text in self.steps]
        return replace(self, machine=names.get(self.machine, self.machine), steps=steps)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.state}"]
        for when, what, text in self.steps:
            colon = "" if what.endswith(" to") else ":"
            more = f"{colon} {' '.join(text.split())}" if text else ""
            lines.append(f"  {_time_of_day(when):12}  {what}{more}")
        return "\n".join(lines)

    def step(self, when: float, what: str, text: str = "") -> None:
        """Note what has happened; of many steps, the first and the last ones are kept."""
        self.steps.append((when, what, text))
        if len(self.steps) > MOST_STEPS:
            del self.steps[MOST_STEPS // 2]


def story_of(events: Iterable[ClusterEvent]) -> Story | None:
    """The story of the one task that these events are of; None if there are none."""
    stories = Stories()
    found = [story for event in events if (story := stories.take(event)) is not None]
    return found[-1] if found else None


class Stories:
    """All stories that are kept, those last that have changed last."""

    def __init__(self) -> None:
        self._stories: collections.OrderedDict[str, Story] = collections.OrderedDict()
        self._failed: collections.OrderedDict[str, Story] = collections.OrderedDict()
        self._calls = 0

    def __len__(self) -> int:
        return len(self._stories) + len(self._failed)

    def get(self, key: str) -> Story | None:
        """Return the story with this key, if it is kept."""
        return self._stories.get(key) or self._failed.get(key)

    def take(self, event: ClusterEvent) -> Story | None:
        """Take an event. Returns the story that it belongs to, if there is one."""
        match event.kind:
            case "submitted":
                story = self._of(event)
                story.submitted, story.parent = event.time, _number(event.info.get("parent"))
                story.step(event.time, "submitted")
            case "started":
                story = self._of(event)
                story.state, story.machine, story.began = "running", event.machine, event.time
                story.step(event.time, f"attempt {event.attempt} sent to", event.machine)
            case "again":
                story = self._of(event)
                story.state, story.text = "waiting", event.text
                story.step(event.time, f"attempt ended: {event.how}", event.text)
            case "ended":
                story = self._of(event)
                failed = event.how in FAILURES
                story.state = "failed" if failed else "cancelled" if event.how == "cancelled" else "done"
                story.how, story.text = event.how, event.text
                story.machine = event.machine or story.machine
                story.seconds = story.seconds or event.seconds
                story.step(event.time, event.how, event.text)
                if failed:
                    self._keep_failed(story)
            case "call" if event.task or event.call:
                story = self._called(event)
            case "snapshot":
                for story in self._stories.values():
                    if story.state in ("waiting", "running"):
                        story.state = UNKNOWN
                return None
            case _:
                return None
        return story

    def _called(self, event: ClusterEvent) -> Story:
        if event.call:
            self._calls += 1
            story = Story(f"c{self._calls}", event.name, state="failed" if event.how == "raised" else "done")
            story.how = event.how
            story.step(event.time + event.seconds, event.how)
            self._put(story)
        else:
            story = self._of(event)
        story.machine, story.worker, story.began = event.machine, event.worker, event.time
        story.seconds, story.cpu, story.memory = event.seconds, event.cpu, event.memory
        if story.state == "failed":
            self._keep_failed(story)
        return story

    def _of(self, event: ClusterEvent) -> Story:
        key = f"t{event.task}"
        story = self.get(key) or Story(key, event.name)
        story.client = event.client or story.client
        if key not in self._failed:
            self._put(story)
        return story

    def _put(self, story: Story) -> None:
        self._stories[story.key] = story
        self._stories.move_to_end(story.key)
        if len(self._stories) > MOST_STORIES:
            self._stories.popitem(last=False)

    def _keep_failed(self, story: Story) -> None:
        self._stories.pop(story.key, None)
        self._failed[story.key] = story
        if len(self._failed) > MOST_FAILED:
            self._failed.popitem(last=False)

    def find(self, query: str, names: dict[str, str], clients: dict[int, str]) -> tuple[list[Story], int]:
        """Return the stories that have all words of a query, the last ones first, and how many there are in all.

        Args:
            query: words of which each is in its name, key, state, machine, client or error, in any case.
            names: of machines, by address.
            clients: names by number.
        """
        words = query.lower().split()
        found: list[Story] = []
        count = 0
        for story in self._all():
            if words:
                machine = names.get(story.machine, story.machine)
                who = clients.get(story.client, "")
                text = "\n".join((story.key, story.name, story.state, story.how, machine, who, story.text)).lower()
                if not all(word in text for word in words):
                    continue
            count += 1
            if len(found) < MOST_FOUND:
                found.append(story)
        return found, count

    def _all(self) -> list[Story]:
        both = [*self._stories.values(), *self._failed.values()]
        if self._failed:
            both.sort(key=_last)
        return both[::-1]


def _time_of_day(when: float) -> str:
    """As "17:04:21.113"; empty for 0."""
    return datetime.datetime.fromtimestamp(when).astimezone().strftime("%H:%M:%S.%f")[:-3] if when else ""


def _last(story: Story) -> float:
    return story.steps[-1][0] if story.steps else story.began


def _number(value: Any) -> int:
    return value if type(value) is int else 0
