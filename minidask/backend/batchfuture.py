"""The outcome-to-be of one batch of `joblib.Parallel`.

Nobody waits for a batch: its callback is queued once it is over. So it needs none of the locks and conditions of a
`minidask.Future`, which make a third of what a short call costs its client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidask.client.core import Lost, Outcome, Returned
from minidask.client.future import unpickle
from minidask.errors import KilledWorker, MinidaskError


class BatchFuture:
    """One batch, until joblib has its results; `ClientShell.submit` takes it in the place of a future of its own.

    Args:
        count: how many calls are in the batch.
        callback: joblib's, to be called with this future.
        on_done: called once with this future, by the thread that settles it, unless it was cancelled.
        name: of the batch, for people.

    Attributes:
        number: of the task that runs the batch; 0 if none does.
        duration: seconds that the batch took in its slot; None until it has returned.
        failed: whether it has ended with an exception.
    """

    __slots__ = (
        "_error",
        "_outcome",
        "_unsettled",
        "_value",
        "callback",
        "count",
        "duration",
        "failed",
        "name",
        "number",
    )

    def __init__(
        self,
        count: int,
        callback: Callable[[BatchFuture], None] | None,
        on_done: Callable[[BatchFuture], None],
        name: str = "batch",
    ) -> None:
        self.number = 0
        self.name = name
        self.count = count
        self.callback = callback
        self.duration: float | None = None
        self.failed = False
        self._unsettled = [on_done]  # who pops it settles the future: that takes no lock
        self._outcome: Outcome | None = None  # as long as it is not unpickled
        self._value: Any = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Whether the batch is over, or was cancelled."""
        return not self._unsettled

    def cancelled(self) -> bool:
        """False: `cancel_here` leaves nobody who asks."""
        return False

    def cancel_here(self) -> bool:
        """Drop the outcome when it comes. Returns whether the batch was not over yet."""
        try:
            self._unsettled.pop()
        except IndexError:
            return False
        self.callback = None
        return True

    def settle(self, outcome: Outcome, wait_for_messages: Callable[[float], object] | None = None) -> None:
        """Take the outcome that the scheduler sent. Nothing happens if the batch is over or was cancelled.

        Args:
            wait_for_messages: not called: the end of a `Parallel` call waits for the messages of all its tasks.
        """
        try:
            on_done = self._unsettled.pop()
        except IndexError:
            return
        self._outcome = outcome
        if type(outcome) is Returned:
            self.duration = outcome.duration
        else:
            self.failed = True
        on_done(self)

    def ran_here(self, value: Any, error: BaseException | None, duration: float) -> None:
        """Take the outcome of a batch that has run in this process; `on_done` is called by whoever ran it."""
        self._unsettled.clear()
        self._value, self._error, self.duration, self.failed = value, error, duration, error is not None

    def abandon(self, error: MinidaskError) -> None:
        """In a forked child: fail with this error, and call nobody."""
        if self.cancel_here():
            self._outcome, self.failed = Lost(error), True

    def result(self) -> Any:
        """Return the results of the batch.

        Raises:
            Exception: what a call of the batch raised, or why the batch is lost.
        """
        outcome = self._outcome
        if outcome is not None:
            self._outcome = None
            if isinstance(outcome, Lost):
                self._error = outcome.error
                if self.count > 1 and isinstance(outcome.error, KilledWorker):
                    outcome.error.add_note(
                        f"It is a batch of {self.count} calls, named after the first: any may have died."
                    )
            else:
                self._value, self._error = unpickle(outcome, self.name)
        if self._error is not None:
            raise self._error
        return self._value
