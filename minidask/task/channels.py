"""Messages from a running task to its caller, for libraries: a progress bar in the caller learns of the task's steps.

A task's result comes when the task is over. A message on a channel comes at once, in the order of sending:

    task: tell_caller(channel, payload) ─► slot ─► worker ─► scheduler ─► client ─► `Aside` ─► handler(payload)

In the caller's process a handler is called for each message, in one thread of the client's and in order. Handlers are
other people's code. So none runs in the thread that reads the connection, and an error that one raises is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from minidask.task.context import current_slot
from minidask.wire.messages import CallerMessage, Payload

MOST_WAITING = 1_000_000
"""How many messages may wait for their handlers. Libraries count on each, so this is only for a handler that hangs."""

Handler = Callable[[Payload], None]

log = logging.getLogger("minidask")
_handlers: dict[str, Handler] = {}


def handle(channel: str, handler: Handler) -> None:
    """Call `handler` with each payload that tasks of this process's clients send on a channel from now on."""
    _handlers[channel] = handler


def tell_caller(channel: str, payload: Payload) -> bool:
    """Send a payload from a task to the process that the outermost task is from. Returns False outside of tasks."""
    slot = current_slot()
    if slot is None:
        return False
    slot.tell_caller(channel, payload)
    return True


def hand_to_handler(message: CallerMessage) -> None:
    """Call the handler of a message's channel. It raises nothing: without a handler, or if that raises, it logs."""
    channel, payload = message
    handler = _handlers.get(channel)
    if handler is None:
        log.warning("a task has sent something on channel %r, of which nobody here knows", channel)
        return
    try:
        handler(payload)
    except BaseException:  # somebody else's code: it must not end the thread that all handlers share
        log.exception("what a task has sent on channel %r could not be handled", channel)


def tell_left_out(count: int) -> None:
    """Log that so many messages were left out: their handlers were too slow."""
    log.error("%d messages that tasks have sent were left out: their handlers do not keep up", count)
