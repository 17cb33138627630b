"""`minidask.Future`: a standard `concurrent.futures.Future`. The thread that asks for its outcome unpickles it.

So the thread that reads the socket never runs a user's code, and no slow import can stop it. A result that nobody asks
for is never unpickled.
"""

from __future__ import annotations

import concurrent.futures
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from minidask.client.interrupts import Condition
from minidask.client.outcomes import Lost, Outcome, Raised, Returned
from minidask.errors import KilledWorker, MinidaskError, SerializationError, TaskError, TaskTimeout
from minidask.host.signals import pass_on
from minidask.pickling.payload import loads
from minidask.pickling.tracebacks import with_source
from minidask.task.missing import advised, lacking_here
from minidask.wire.messages import Payload

CANCELLED_AND_NOTIFIED = "CANCELLED_AND_NOTIFIED"  # a state of the standard future
LOST: Mapping[type, str] = {KilledWorker: "died", TaskTimeout: "stopped"}
LOGGER = logging.getLogger("concurrent.futures")  # where the standard library tells of callbacks that raise


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


class Owner(Protocol):
    """The maker of a future: a client's shell."""

    @property
    def reader(self) -> _Reader: ...

    def cancelled(self, future: Future) -> None:
        """Tell the scheduler that a future was cancelled."""

    def hold(self, future: Future) -> None:
        """Keep a future until it is done: it has callbacks, and there may be no other reference to it."""


class _Reader(Protocol):
    def in_this_thread(self) -> bool: ...


class Future(concurrent.futures.Future[Any]):
    """The outcome-to-be of a task; made by `Client.submit`, never by users.

    Args:
        number: of the task.
        name: of the task.
        owner: the client's shell; None for a future without a client, which is settled where it was made.
        held: whether the owner keeps it until it is done.

    Attributes:
        name: the task's name.
        duration: seconds that the call took in its slot; None until it has returned or raised.
        worker: name of the machine that ran it; None until then.
        failed: whether it has ended with an exception, and not because it was cancelled.
        submitted, ended: when, as of `time.time()`; 0: not yet.
        how: how it has ended: "done", "raised", "cancelled", "died" (its process, too often), "stopped" (its time was
            over), "lost" (all else); empty until then. `why` is the error, in a line.
        keep: called with the payload of the result, before anybody has that.
    """

    def __init__(
        self,
        number: int,
        name: str,
        owner: Owner | None = None,
        *,
        held: bool = True,
    ) -> None:
        super().__init__()
        state: Any = self
        condition = state._condition = Condition()
        self._sleepers = condition.sleepers
        self.number = number
        self.name = name
        self.duration: float | None = None
        self.worker: str | None = None
        self.failed = False
        self.submitted, self.ended = time.time(), 0.0
        self.how = self.why = ""
        self.keep: Callable[[Payload], None] | None = None
        self._owner = owner
        self._held = held
        self._wait_for_messages: Callable[[float], object] | None = None

    def _is_handling_messages(self) -> bool:
        return self._owner is not None and self._owner.reader.in_this_thread()

    def cancel(self) -> bool:
        """Cancel the task: it does not begin any more, or its outcome is dropped.

        `Client.cancel(futures, force=True)` also stops a task that runs.

        Returns:
            False if the task is done already.
        """
        if self.cancel_here() and self._owner is not None:
            self._owner.cancelled(self)
        return self.cancelled()

    def cancel_here(self) -> bool:
        """Cancel the future without a message to the scheduler; return whether it was this call that did it."""
        if self.cancelled() or not super().cancel():
            return False
        state: Any = self
        with self._condition:
            first: bool = state._state != CANCELLED_AND_NOTIFIED  # else another thread has done it just now
            if first:
                self.set_running_or_notify_cancel()
                self.how, self.ended = "cancelled", time.time()
        return first

    def result(self, timeout: float | None = None) -> Any:
        """Wait `timeout` seconds at most, and return what the task returned, or raise what it raised.

        Raises:
            TimeoutError: the task is not done by then.
            CancelledError: the task was cancelled.
            SerializationError: the result cannot be unpickled here.
        """
        __tracebackhide__ = True  # notebooks leave this frame out, but not the last one: that is the standard class's
        self.exception(timeout)
        try:
            return super().result()
        finally:
            del self  # no cycle through the traceback

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait `timeout` seconds at most, and return what the task raised; None if it returned.

        Raises:
            TimeoutError: it is not done by then.
            CancelledError: it was cancelled.
            RuntimeError: this thread is handling a message, and would have to complete it.
        """
        if self._is_handling_messages() and not self.done():
            raise RuntimeError("a done-callback may not wait for another future: this thread would have to complete it")
        end = math.inf if timeout is None else time.monotonic() + timeout
        if not self.done() and not self._sleepers.sleep_until(self.done, timeout):
            raise TimeoutError
        wait_for_messages = self._wait_for_messages
        if wait_for_messages is not None and not self._is_handling_messages():
            wait_for_messages(end - time.monotonic())
            self._wait_for_messages = None
        error = super().exception()
        if isinstance(error, _Undecoded) or isinstance(self._result, _Undecoded):
            self._decode()
            error = super().exception()
        return error

    def settle(self, outcome: Outcome, wait_for_messages: Callable[[float], object] | None = None) -> None:
        """Take the outcome that the scheduler sent. Nothing happens if the future is done already.

        Args:
            wait_for_messages: waits, at most so many seconds, until the task's messages to its caller were handled.
                The first thread that asks for the outcome calls it.
        """
        with self._condition:
            if self.done():
                return
            self.set_running_or_notify_cancel()
        self._wait_for_messages = wait_for_messages
        self.failed = not isinstance(outcome, Returned)
        self.ended = time.time()
        match outcome:
            case Returned(payload, duration, worker):
                self.how, self.duration, self.worker = "done", duration, worker
                if self.keep is not None:
                    self.keep(payload)
                self.set_result(_Undecoded(outcome))
            case Raised(_, traceback, worker, duration):
                self.how, self.why = "raised", traceback.rstrip().rpartition("\n")[2]
                self.duration, self.worker = duration, worker
                self.set_exception(_Undecoded(outcome))
            case Lost(error):
                self.how, self.why = LOST.get(type(error), "lost"), str(error)
                self.set_exception(error)

    def abandon(self, error: MinidaskError) -> None:
        """In a forked child: fail with this error. Locks and waiting threads are the parent's, so all are replaced."""
        state: Any = self
        state._waiters, state._done_callbacks = [], []
        condition = state._condition = Condition()
        self._sleepers = condition.sleepers
        if not self.done():
            self.failed = True
            self.set_exception(error)

    def is_of(self, owner: object) -> bool:
        """Whether this shell has made the future."""
        return self._owner is owner

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call `fn` with this future when it is done, even if nobody else holds this future any more."""
        if not self._held and self._owner is not None:
            self._held = True
            self._owner.hold(self)
        state: Any = self
        with self._condition:
            if not self.done():
                state._done_callbacks.append(fn)
                return
        self._run(fn)

    def _invoke_callbacks(self) -> None:
        state: Any = self
        for callback in state._done_callbacks:
            self._run(callback)

    def _run(self, callback: Callable[[Any], object]) -> None:
        """Run a callback, and log what it raises. In a thread that reads, `SystemExit` is logged too."""
        try:
            callback(self)
        except BaseException as error:
            if not isinstance(error, Exception) and not self._is_handling_messages():
                raise
            pass_on(error)
            LOGGER.exception("a done-callback of %r raised", self)

    def _decode(self) -> None:
        """Unpickle the outcome, with no lock held: that runs the user's code, which may wait for other threads.

        Two threads that ask at once may both do it. All get what the first one has made.
        """
        state: Any = self
        for pickled in (state._exception, state._result):
            if isinstance(pickled, _Undecoded):
                unpickled = unpickle(pickled.outcome, self.name)
                with self._condition:
                    if pickled is state._exception or pickled is state._result:
                        state._result, state._exception = unpickled

    def __repr__(self) -> str:
        state = "cancelled" if self.cancelled() else "done" if self.done() else "pending"
        return f"<minidask.Future {self.name} {state}>"

    def __reduce__(self) -> Any:
        raise SerializationError("a Future cannot be sent to a task: send its result(), or submit from where it is")


def unpickle(outcome: Returned | Raised, name: str) -> tuple[Any, BaseException | None]:
    """Unpickle the outcome of the task with this name; return `(result, exception)`."""
    if isinstance(outcome, Returned):
        try:
            return loads(outcome.payload, f"the result of task {name!r}"), None
        except SerializationError as error:
            return None, lacking_here(error, outcome.worker)
    raised, notes = _exception(outcome, name)
    cause = RemoteTraceback(with_source(outcome.traceback), outcome.worker)
    vars(BaseException)["__cause__"].__set__(
        raised, cause
    )  # not as an attribute: a class of the user's may forbid that
    if notes:
        raised.__dict__["__notes__"] = notes  # as above
    advised(raised)
    return None, raised


def _exception(outcome: Raised, name: str) -> tuple[BaseException, list[str]]:
    """Return the exception that the task raised and its notes; a `TaskError` if it cannot be unpickled."""
    last_line = outcome.traceback.rstrip().rpartition("\n")[2]
    try:
        error, notes = loads(outcome.payload, "the exception")
    except SerializationError as problem:
        return TaskError(f"task {name!r} raised an exception that cannot be unpickled ({problem}): {last_line}"), []
    if isinstance(error, BaseException):
        return error, list(notes)
    return TaskError(f"task {name!r} raised an exception that cannot be pickled: {last_line}"), list(notes)
