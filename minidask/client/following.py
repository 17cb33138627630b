"""Follows what happens in the cluster while a block runs, to its very end.

    EventReader ─ a thread ─► take(event) ─► a trace, a report

Workers tell twice a second what they have run. So the end waits until each machine has told of the whole block.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from minidask.client.eventreader import EventReader
from minidask.client.events import ClusterEvent

LAST_SECONDS = 3.0
"""How long the end waits for each machine to tell what it has run."""
READ_SECONDS = 0.5


class Follower:
    """Passes on all events between `begin` and `end`, in a thread of its own.

    Args:
        take: called with each event. What it raises is raised by `end`; it gets nothing more then.
    """

    def __init__(self, take: Callable[[ClusterEvent], object]) -> None:
        self._take = take
        self._error: BaseException | None = None
        self._ends_at: float | None = None
        self._told: dict[str, float] = {}  # by machine: when it told last; 0: not yet
        self._begun = False

    def begin(self, open_events: Callable[[], EventReader]) -> None:
        """Begin to read.

        Raises:
            SchedulerLost: there is no connection any more.
        """
        self._events = open_events()
        self._thread = threading.Thread(target=self._run, name="minidask-following", daemon=True)
        self._thread.start()

    def end(self) -> bool:
        """Wait until all machines have told what they did until now, 3 seconds at most; then read no more.

        Returns:
            Whether they all have.
        """
        self._ends_at = time.time()
        self._thread.join()
        self._events.close()
        if self._error is not None:
            raise self._error
        return self._is_whole()

    def _run(self) -> None:
        until = None
        while True:
            events = self._events.get(READ_SECONDS)
            for event in events:
                self._pass_on(event)
            if self._ends_at is not None and until is None:
                until = self._ends_at + LAST_SECONDS
            if until is not None and (self._is_whole() or time.time() >= until):
                return
            if not events and self._events.closed:
                return

    def _is_whole(self) -> bool:
        """Whether each machine has told what it did before the end."""
        end = self._ends_at
        return end is not None and self._begun and all(told > end for told in self._told.values())

    def _pass_on(self, event: ClusterEvent) -> None:
        if event.kind == "snapshot":
            self._begun = True
            machines: list[Any] = [m for m in event.info.get("machines") or () if isinstance(m, dict)]
            self._told = dict.fromkeys((str(machine.get("address")) for machine in machines), 0.0)
        elif event.kind == "machine":
            self._told.setdefault(event.machine, 0.0)
        elif event.kind == "usage":
            self._told[event.machine] = event.time
        elif event.kind == "machine-left":
            self._told.pop(event.machine, None)
        if self._error is None:
            try:
                self._take(event)
            except BaseException as error:  # noqa: BLE001 - raised by `end`, where somebody waits
                self._error = error
