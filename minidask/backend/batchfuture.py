"""The outcome-to-be of one batch of `joblib.Parallel`.

Nobody waits for a batch: its callback is queued once it is over. So it needs none of the locks and conditions of a
`minidask.Future`, which make a third of what a short call costs its client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidask.client.future import unpickle
from minidask.client.outcomes import Lost, Outcome, Returned
from minidask.errors import KilledWorker, MinidaskError, SerializationError, TaskTimeout
from minidask.wire.messages import Payload

OF_A_CALL = (TaskTimeout, KilledWorker, SerializationError)
"""Why one call is lost, and not the whole run."""


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
        key: under which the result of its only call is kept; None: it is not.
    """

    __slots__ = (
        "_error",
        "_of_call",
        "_outcome",
        "_unsettled",
        "_value",
        "callback",
        "count",
        "duration",
        "failed",
        "key",
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
        self.key: bytes | None = None
        self._unsettled = [on_done]  # who pops it settles the future: that takes no lock
        self._outcome: Outcome | None = None  # as long as it is not unpickled
        self._value: Any = None
        self._error: BaseException | None = None
        self._of_call = True  # whether the error is that of a call, and not of the whole run

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

    @property
    def payload(self) -> Payload | None:
        """The results that were sent, as long as nobody has unpickled them; None if there are none."""
        return self._outcome.payload if isinstance(self._outcome, Returned) else None

    def result(self) -> Any:
        """Return the results of the batch.

        Raises:
            Exception: what a call of the batch raised, or why the batch is lost.
        """
        self._unpickle()
        if self._error is not None:
            raise self._error
        return self._value

    def result_or_error(self) -> Any:
        """Return the results of the batch, or a list of what its only call raised, or was lost for.

        Raises:
            MinidaskError: the batch is lost for what concerns the whole run: the scheduler is lost, all was cancelled.
        """
        self._unpickle()
        if isinstance(self._error, Exception) and self._of_call:
            return [self._error]
        return self.result()

    def _unpickle(self) -> None:
        outcome, self._outcome = self._outcome, None
        if isinstance(outcome, Lost):
            self._error = outcome.error
            self._of_call = isinstance(outcome.error, OF_A_CALL)
            if self.count > 1 and isinstance(outcome.error, KilledWorker):
                outcome.error.add_note(
                    f"It is a batch of {self.count} calls, named after the first: any may have died."
                )
        elif outcome is not None:
            self._value, self._error = unpickle(outcome, self.name)
