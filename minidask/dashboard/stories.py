"""What has become of each task: its attempts, where, for how long, the error. Pure.

A story is of a task of the scheduler's ("t" and its number), or of one call of a `Parallel` call whose calls no
scheduler sees ("c" and a number of our own). The last ones are kept, and those that have failed for longer: a cluster
may end thousands a second.
"""

from __future__ import annotations

import collections
from dataclasses import dataclass, field
from typing import Any

from minidask.client.events import ClusterEvent
from minidask.viewers.state import FAILURES

MOST_STORIES = 20_000
MOST_FAILED = 1_000
MOST_STEPS = 30
"""Of one story."""
MOST_FOUND = 200

UNKNOWN = "unknown"
"""The state of a task of which something was missed."""


@dataclass(eq=False, slots=True)
class Story:
    """One task. Times as of `time.time()`; 0: unknown.

    Attributes:
        state: "waiting", "running", "done", "failed", "cancelled" or "unknown".
        steps: what has happened, each with its time.
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

    def step(self, when: float, what: str, text: str = "") -> None:
        """Note what has happened; of many steps, the first and the last ones are kept."""
        self.steps.append((when, what, text))
        if len(self.steps) > MOST_STEPS:
            del self.steps[MOST_STEPS // 2]


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


def _last(story: Story) -> float:
    return story.steps[-1][0] if story.steps else story.began


def _number(value: Any) -> int:
    return value if type(value) is int else 0
