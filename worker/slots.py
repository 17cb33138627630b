"""What the worker daemon knows of its slots: their states, each with its data, and the calls in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from minidask.wire.messages import Run


class Starting(NamedTuple):
    """Its process has been asked for and has not yet said that it is ready."""


class Idle(NamedTuple):
    """Waits for a call."""


class Busy(NamedTuple):
    """Runs a call; `deadline` is when its time limit ends, None without one; it may wait for calls of its own."""

    run: Run
    deadline: float | None
    waits: bool = False


class Ending(NamedTuple):
    """Was interrupted, and is killed at `deadline` if it has not come back by then; `reason` is why."""

    run: Run
    reason: str
    text: str
    deadline: float


SlotState = Starting | Idle | Busy | Ending
CALLS = (Busy, Ending)
"""The states in which there is a call in a slot."""


@dataclass(slots=True, eq=False)
class SlotRecord:
    """One slot. `verdict` is how its next exit is to be explained, if this daemon caused it; `client` is the last one
    that it has worked for. A `worn` one is replaced once it is idle; it is told to end, and killed at `retired_by`.

    `below` are the calls, outermost first, that wait for the one that `state` is about and that runs on top of them.
    """

    number: int
    state: SlotState = Starting()
    below: list[Busy | Ending] = field(default_factory=list)
    blobs: set[bytes] = field(default_factory=set)
    client: int | None = None
    verdict: str = ""
    killed: bool = False
    retiring: bool = False
    worn: bool = False
    retired_by: float | None = None

    @property
    def calls(self) -> list[Busy | Ending]:
        """All calls that are in it, outermost first."""
        return [*self.below, self.state] if isinstance(self.state, CALLS) else []

    def find(self, task: int, attempt: int) -> Busy | Ending | None:
        """The call that is this attempt."""
        state = self.state  # in most cases it is this one
        if isinstance(state, CALLS) and state.run.task == task and state.run.attempt == attempt:
            return state
        return next((call for call in self.calls if (call.run.task, call.run.attempt) == (task, attempt)), None)

    def replace(self, call: Busy | Ending, other: Busy | Ending) -> None:
        """Have another state for one of the calls."""
        if self.state is call:
            self.state = other
        else:
            self.below[self.below.index(call)] = other

    def remove(self, call: Busy | Ending) -> None:
        """One of the calls is over."""
        if self.state is call:
            self.state = self.below.pop() if self.below else Idle()
        else:
            self.below.remove(call)
