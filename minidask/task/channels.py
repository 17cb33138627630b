"""What tasks tell their caller while they run: for libraries whose objects report from a task to where they were made.

    task: tell_caller(channel, payload) ─► slot ─► worker ─► scheduler ─► client ─► `Channels` ─► handler(payload)

In the caller's process a handler is called for each message, in one thread of ours and in order. Handlers are other
people's code: none runs in the thread that reads the connection, and what one raises is logged and over.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable

from minidask.task.context import current_slot
from minidask.wire.messages import Payload

FLUSH_SECONDS = 5.0
"""The longest wait for one message to be handled, when a call ends or a task's outcome is asked for."""

Handler = Callable[[Payload], None]

log = logging.getLogger("minidask")
_handlers: dict[str, Handler] = {}


def handle(channel: str, handler: Handler) -> None:
    """Call `handler` with each payload that tasks of this process's clients send on a channel from now on."""
    _handlers[channel] = handler


def tell_caller(channel: str, payload: Payload) -> bool:
    """In a task: send something to the process that the outermost task is from; False outside of tasks."""
    slot = current_slot()
    if slot is None:
        return False
    slot.tell_caller(channel, payload)
    return True


class Channels:
    """The messages that have come to one client, on their way to handlers. Nothing is started before the first."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[tuple[str, Payload] | threading.Event | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._received = self._handled = 0
        self._over = self._stuck = False

    @property
    def busy(self) -> bool:
        """Whether a received message was not handled yet."""
        return self._received != self._handled

    def put(self, channel: str, payload: Payload) -> None:
        """Queue a message for its handler; called in the thread that reads the connection."""
        self._received += 1
        self._messages.put((channel, payload))
        if self._thread is None:
            thread = _ChannelsThread(target=self._hand_out, name="minidask-channels", daemon=True)
            with contextlib.suppress(RuntimeError):  # there are no more threads to be had: the next message tries again
                thread.start()
                self._thread = thread

    def flush(self, seconds: float = math.inf) -> bool:
        """Wait until all messages received so far were handled.

        Args:
            seconds: to wait at most. For one message the wait is at most `FLUSH_SECONDS`; while that message is
                still being handled, later calls do not wait at all.

        Returns:
            Whether they were.
        """
        if not self.busy or self._thread is threading.current_thread():
            return True
        if self._stuck or self._thread is None:
            return False
        handled, before, end = threading.Event(), self._handled, time.monotonic() + seconds
        self._messages.put(handled)
        while not self._over and not handled.wait(max(0.0, min(FLUSH_SECONDS, end - time.monotonic()))):
            if time.monotonic() >= end:
                return False
            if self._handled == before:
                self._stuck = True
                return False
            before = self._handled
        return handled.is_set() or not self.busy

    def close(self) -> None:
        """End the thread once all received messages were handled."""
        self._messages.put(None)

    def abandon(self) -> None:
        """Forget messages and thread in a forked child: both are the parent's."""
        self._messages, self._thread, self._received, self._handled = queue.SimpleQueue(), None, 0, 0
        self._stuck = False

    def _hand_out(self) -> None:
        while (message := self._messages.get()) is not None:
            if isinstance(message, threading.Event):
                message.set()
                continue
            _hand_to_handler(*message)
            self._handled += 1
            self._stuck = False
        self._over = True
        while not self._messages.empty():  # nobody is to wait for what comes after the end
            message = self._messages.get()
            if isinstance(message, threading.Event):
                message.set()


class _ChannelsThread(threading.Thread):
    serves_all_tasks = True  # not only the one that was the first to need it


def _hand_to_handler(channel: str, payload: Payload) -> None:
    handler = _handlers.get(channel)
    if handler is None:
        log.warning("a task has sent something on channel %r, of which nobody here knows", channel)
        return
    try:
        handler(payload)
    except BaseException:  # somebody else's code: it must not end this thread
        log.exception("what a task has sent on channel %r could not be handled", channel)
