"""`minidask.Future`: a standard `concurrent.futures.Future` whose outcome is unpickled by whoever asks for it.

The thread that reads the socket so never runs a user's code: no import, however slow, can stop it, and
a result that nobody looks at is never unpickled.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from typing import Any

from minidask.client.core import Lost, Outcome, Raised, Returned
from minidask.client.interrupts import INTERRUPT_SECONDS
from minidask.errors import MinidaskError, SerializationError, TaskError
from minidask.payload import loads


class RemoteTraceback(Exception):
    """The cause of an exception that a task raised: the traceback, as text, from the worker."""

    def __init__(self, text: str, worker: str) -> None:
        super().__init__(text, worker)
        self.text = text
        self.worker = worker

    def __str__(self) -> str:
        return f'\n"""on worker {self.worker}:\n{self.text}"""'


class _Undecoded(Exception):
    """Stands in a future for an outcome that is still pickled."""

    def __init__(self, outcome: Returned | Raised) -> None:
        self.outcome = outcome


class Future(concurrent.futures.Future[Any]):
    """The outcome-to-be of a task; made by `Client.submit`, never by users.

    Attributes:
        name: the task's name.
        duration: seconds that the call took in its slot; None until it has returned.
        worker: name of the worker that ran it; None until then.
        failed: whether it has ended with an exception, and not because it was cancelled.
    """

    def __init__(
        self, number: int, name: str, cancel: Callable[[Future], None], reading_here: Callable[[], bool]
    ) -> None:
        super().__init__()
        self.of_call = False
        """Whether a call of ours waits for it, which is not to be cancelled under it."""
        self.hold: Callable[[Future], None] | None = None
        """Has the client hold it, which does not yet."""
        self.number = number
        self.name = name
        self.duration: float | None = None
        self.worker: str | None = None
        self.failed = False
        self.group = 0
        self._tell_cancelled = cancel
        self._reading_here = reading_here
        self._decoding = threading.RLock()
        self._settling = threading.RLock()

    def cancel(self) -> bool:
        """Give up on the task: it is not started any more, or its outcome is dropped.

        `Client.cancel(futures, force=True)` also stops a task that runs. Returns False if the task is done already.
        """
        if self.cancel_here():
            self._tell_cancelled(self)
        return self.cancelled()

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[Any]], object]) -> None:
        """As the standard one. The callback is called even if nobody else holds this future any more."""
        hold, self.hold = self.hold, None
        if hold is not None:
            hold(self)
        super().add_done_callback(fn)

    def when_over(self, fn: Callable[[concurrent.futures.Future[Any]], object]) -> None:
        """As `add_done_callback`, for what is of no use when nobody holds this future any more."""
        super().add_done_callback(fn)

    def is_of(self, link: object) -> bool:
        """Whether this is of that client's link."""
        return getattr(self._tell_cancelled, "__self__", None) is link

    def cancel_here(self) -> bool:
        """Cancel without telling the scheduler; returns whether this call did it."""
        with self._settling:
            if self.cancelled() or not super().cancel():
                return False
            self.set_running_or_notify_cancel()
            return True

    def result(self, timeout: float | None = None) -> Any:
        """As the standard one: wait, and return or raise the task's outcome.

        Raises:
            TimeoutError: it is not there within `timeout` seconds.
            SerializationError: the result cannot be unpickled here.
        """
        error = self.exception(timeout)
        if error is not None:
            try:
                raise error
            finally:
                del self, error  # no cycle through the traceback
        return self._result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As the standard one: wait, and return what the task raised, or None."""
        if self._reading_here() and not self.done():
            raise RuntimeError("a done-callback may not wait for another future: this thread would have to complete it")
        error = self._wait(timeout)
        if isinstance(error, _Undecoded) or isinstance(self._result, _Undecoded):
            with self._decoding:
                self._decode()
            error = super().exception()
        return error

    def _wait(self, timeout: float | None) -> BaseException | None:
        while timeout is None:
            with contextlib.suppress(TimeoutError):
                return super().exception(INTERRUPT_SECONDS)
        return super().exception(timeout)

    def settle(self, outcome: Outcome) -> None:
        """Take the outcome that the scheduler sent; called by the client, once."""
        with self._settling:
            if self.cancelled():
                return
            self.set_running_or_notify_cancel()
        self.failed = not isinstance(outcome, Returned)
        match outcome:
            case Returned(_, duration, worker):
                self.duration, self.worker = duration, worker
                self.set_result(_Undecoded(outcome))
            case Raised(_, _, worker):
                self.worker = worker
                self.set_exception(_Undecoded(outcome))
            case Lost(error):
                self.set_exception(error)

    def abandon(self, error: MinidaskError) -> None:
        """In a forked child: end so, whatever the parent's threads hold, and without telling those that wait there."""
        state: Any = self
        state._condition, state._waiters, state._done_callbacks = threading.Condition(), [], []
        self._settling, self._decoding = threading.RLock(), threading.RLock()
        if not self.done():
            self.failed = True
            self.set_exception(error)

    def _decode(self) -> None:
        state: Any = self
        for pickled in (state._exception, state._result):
            if isinstance(pickled, _Undecoded):
                state._result, state._exception = _unpickle(pickled.outcome, self.name)

    def __repr__(self) -> str:
        state = "cancelled" if self.cancelled() else "done" if self.done() else "pending"
        return f"<minidask.Future {self.name} {state}>"

    def __reduce__(self) -> Any:
        raise SerializationError("a Future cannot be sent to a task: send its result(), or submit from where it is")


def _unpickle(outcome: Returned | Raised, name: str) -> tuple[Any, BaseException | None]:
    """The `(result, exception)` that a pickled outcome holds."""
    if isinstance(outcome, Returned):
        try:
            return loads(outcome.payload, f"the result of task {name!r}"), None
        except SerializationError as error:
            return None, error
    raised = _exception(outcome, name)
    raised.__cause__ = RemoteTraceback(outcome.traceback, outcome.worker)
    return None, raised


def _exception(outcome: Raised, name: str) -> BaseException:
    last_line = outcome.traceback.rstrip().rpartition("\n")[2]
    if not outcome.payload:
        return TaskError(f"task {name!r} raised an exception that cannot be pickled: {last_line}")
    try:
        error = loads(outcome.payload, "the exception")
    except SerializationError as problem:
        return TaskError(f"task {name!r} raised an exception that cannot be unpickled ({problem}): {last_line}")
    if isinstance(error, BaseException):
        return error
    return TaskError(f"task {name!r} raised {last_line}")
